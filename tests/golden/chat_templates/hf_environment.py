"""The Jinja environment of Hugging Face transformers' apply_chat_template, without transformers."""
import datetime
import json

import jinja2
import jinja2.ext
import jinja2.sandbox

CLOCK = datetime.datetime(2024, 7, 26, 13, 4, 5)


class Generation(jinja2.ext.Extension):
    """{% generation %}: transformers counts the assistant's tokens with it; what is printed is its body."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_print"), [], [], body).set_lineno(line)

    def _print(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: CLOCK.strftime(format)
    return env


def render(source, variables):
    """What the template prints, or the error's class and message: ("output", text) or ("error", text)."""
    try:
        return "output", environment().from_string(source).render(**variables)
    except Exception as error:  # whatever Python raises is an error of the template's
        return "error", f"{type(error).__name__}: {error}"
