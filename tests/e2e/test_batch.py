"""What `tandem batch` answers, and what it makes of bad lines."""

import datetime
import math
import os
import pathlib
import re
import time

import harness
from batch_support import Case, chat, choices, mixed_lines, request
from harness import golden_model, tandem


def shape_of(value):
    """The types in a JSON value, its ids by their prefix."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    found = re.fullmatch(r"([a-z_]+[_-])[0-9a-f]{24}", value) if isinstance(value, str) else None
    return found.group(1) if found else type(value).__name__


USAGE = {"prompt_tokens": "int", "completion_tokens": "int", "total_tokens": "int"}
# As the service's reference gives them.
CHAT = {
    "id": "chatcmpl-",
    "object": "str",
    "created": "int",
    "model": "str",
    "choices": [
        {
            "index": "int",
            "message": {"role": "str", "content": "str", "refusal": "NoneType"},
            "logprobs": "NoneType",
            "finish_reason": "str",
        }
    ],
    "usage": USAGE,
}
COMPLETION = {
    **CHAT,
    "id": "cmpl-",
    "choices": [{"index": "int", "text": "str", "logprobs": "NoneType", "finish_reason": "str"}],
}
TOKEN = {"token": "str", "logprob": "float", "bytes": ["int"]}
CHAT_LOGPROBS = {"content": [{**TOKEN, "top_logprobs": [TOKEN]}], "refusal": "NoneType"}


class Answers(Case):
    def test_lines_have_the_services_shape(self):
        batch = self.batch([chat("c", "hello", max_tokens=3), request("t", prompt="hello", max_tokens=3)])
        for result, body, name in zip(self.done(batch), (CHAT, COMPLETION), "ct"):
            response = {"status_code": "int", "request_id": "req_", "body": body}
            self.assertEqual(
                shape_of(result),
                {"id": "batch_req_", "custom_id": "str", "response": response, "error": "NoneType"},
            )
            self.assertEqual((result["custom_id"], result["response"]["status_code"]), (name, 200))
            usage = result["response"]["body"]["usage"]
            self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])
        self.assertEqual(result["response"]["body"]["model"], "llama")

    def test_logprobs_have_the_services_shape(self):
        one = self.bodies([chat("c", "hello", max_tokens=3, logprobs=True, top_logprobs=2)])[0]
        self.assertEqual(shape_of(one["choices"][0]["logprobs"]), CHAT_LOGPROBS)
        self.assertEqual(
            [len(item["top_logprobs"]) for item in one["choices"][0]["logprobs"]["content"]], [2] * 3
        )
        two = self.bodies([request("t", prompt="hello", max_tokens=3, logprobs=2)])[0]["choices"][0][
            "logprobs"
        ]
        self.assertEqual(
            [len(two[key]) for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")], [3] * 4
        )
        # the likeliest two, and the chosen one
        self.assertTrue(all(len(top) <= 3 for top in two["top_logprobs"]))
        for token, top in zip(two["tokens"], two["top_logprobs"], strict=True):
            self.assertIn(token, top)

    def test_greedy_text_is_what_run_says(self):
        for name in ("llama", "gemma3", "qwen2"):
            model, prompt = golden_model(name), "abc abd"
            expected = tandem("run", "-m", model, "-p", prompt, "-n", 12, "--temp", 0, "-t", 1)
            batch = self.batch([request("a", prompt=prompt, max_tokens=12)], model=model)
            text = choices(self.done(batch)[0])[0]["text"]
            # `run` begins a text of its own, a completion goes on with one: a space may stand in front.
            self.assertIn(text, (expected.text[:-1], " " + expected.text[:-1]))

    def greedy(self, tokens, n):
        """The likeliest continuation by `tandem logits`: token, its logprob, and all logprobs, each."""
        found = []
        for _ in range(n):
            row = harness.logits("-m", golden_model(), "--tokens", ",".join(map(str, tokens)))
            logits = list(row.row(len(tokens) - 1))
            total = math.log(math.fsum(math.exp(x) for x in logits))
            logprobs = [x - total for x in logits]
            best = max(range(len(logits)), key=lambda i: (logits[i], -i))
            found.append((best, logprobs[best], logprobs))
            tokens = [*tokens, best]
        return found

    def test_logprobs_are_the_log_softmax_of_the_logits(self):
        prompt = [5, 9, 33, 2, 71]
        body = self.bodies(
            # Bias and temperature change the choice, not what the model thinks of it.
            [request("t", prompt=prompt, max_tokens=5, logprobs=20, logit_bias={"7": 0.0}, ignore_eos=True)],
            ranks=2,
        )[0]
        got = body["choices"][0]["logprobs"]
        expected = self.greedy(prompt, 5)
        wrong = 0
        for i, (_, logprob, everything) in enumerate(expected):
            self.assertAlmostEqual(got["token_logprobs"][i], logprob, delta=2e-6)
            best = sorted(everything, reverse=True)
            values = sorted(got["top_logprobs"][i].values(), reverse=True)
            # Tokens that read the same share a name, so some of the twenty may be missing.
            for value in values:
                self.assertLess(min(abs(value - other) for other in best[:20]), 2e-6)
            self.assertAlmostEqual(values[0], best[0], delta=2e-6)
            wrong += abs(got["token_logprobs"][i] - sorted(everything)[0]) > 2e-6
        self.assertEqual(wrong, 5, "the comparison takes any token's logprob")

    def test_the_bytes_do_not_depend_on_how_the_work_was_cut(self):
        lines = mixed_lines(30, seed=5)
        batch = self.batch(lines)
        self.done(batch, code=65)
        reference = batch.bytes()
        for i, (ranks, arguments) in enumerate(
            ((0, ("-np", 1)), (0, ("-np", 5, "-b", 7)), (2, ()), (2, ("-np", 3)))
        ):
            output = batch.path(f"other{i}")
            self.done(batch, *arguments, code=65, ranks=ranks, output=output)
            self.assertTrue(batch.bytes(output) == reference, (ranks, arguments))
        self.done(batch, "--seed", 2, code=65, output=batch.path("seed"))
        self.assertFalse(batch.bytes(batch.path("seed")) == reference, "the seed changes nothing")

    def test_choices_and_seeds(self):
        hot = {"temperature": 1.5, "max_tokens": 12}
        one, three, seeded, again, other = self.bodies(
            [
                request("a", prompt="abc", n=1, seed=7, **hot),
                request("b", prompt="abc", n=3, seed=7, **hot),
                request("c", prompt=["abc", "abd"], n=2, seed=7, **hot),
                request("d", prompt="abc", seed=7, **hot),
                request("e", prompt="abc", **hot),
            ]
        )
        texts = [choice["text"] for choice in three["choices"]]
        self.assertEqual(len(set(texts)), 3)
        self.assertEqual(one["choices"][0]["text"], texts[0])
        self.assertEqual([choice["index"] for choice in seeded["choices"]], [0, 1, 2, 3])
        self.assertEqual([choice["text"] for choice in seeded["choices"][:2]], texts[:2])
        self.assertEqual(again["choices"][0]["text"], texts[0])
        self.assertNotEqual(other["choices"][0]["text"], texts[0])
        self.assertEqual(three["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"])
        self.assertEqual(three["usage"]["completion_tokens"], 36)

    def test_ends(self):
        # The model speaks in bytes, most of which are no text: an answer that begins with characters is wanted.
        prompts = [f"{a}{b}{c}" for a in "abcd" for b in "efgh" for c in "ijkl"]
        bodies = self.bodies([request(prompt, prompt=prompt, max_tokens=20) for prompt in prompts])
        answers = [body["choices"][0]["text"] for body in bodies]
        found = [
            (prompt, text, at)
            for prompt, text in zip(prompts, answers)
            for at in range(2, len(text))
            if "\ufffd" not in text[: at + 1] and text[at] not in text[:at]
        ]
        prompt, text, at = found[0]
        lines = [
            request("stop", prompt=prompt, max_tokens=20, stop=text[at], logprobs=0),
            request("none", prompt=prompt, max_tokens=0),
            request("echo", prompt=prompt, max_tokens=20, echo=True),
            request("only echo", prompt=prompt, max_tokens=0, echo=True),
            request("full", prompt=prompt, ignore_eos=True),
        ]
        stop, none, echo, only, full = [body["choices"][0] for body in self.bodies(lines, "-c", 64)]
        self.assertEqual((stop["text"], stop["finish_reason"]), (text[:at], "stop"))
        self.assertEqual(len(stop["logprobs"]["tokens"]), at)
        self.assertEqual(stop["logprobs"]["text_offset"], list(range(at)))
        self.assertEqual((none["text"], none["finish_reason"]), ("", "length"))
        self.assertEqual((echo["text"], echo["finish_reason"]), (prompt + text, "length"))
        self.assertEqual(only["text"], prompt)
        self.assertEqual(full["finish_reason"], "length")

    def test_prompts_are_lines(self):
        batch = self.batch([])
        prompts = batch.path("prompts.txt")
        pathlib.Path(prompts).write_bytes(b"abc\r\n\n{abd\n\xff\n")
        arguments = batch.arguments("-n", 5, "--chat")
        arguments[arguments.index("-i")] = "--prompts"
        arguments[arguments.index(batch.input)] = prompts
        result = tandem(*arguments)
        self.assertEqual(result.code, 65, result.err)
        first, second, wrong = batch.results()
        self.assertEqual(
            [line["custom_id"] for line in (first, second, wrong)], ["line-1", "line-3", "line-4"]
        )
        self.assertEqual(wrong["error"]["code"], "invalid_utf8")
        as_request = self.batch([chat("x", "abc", max_tokens=5)])
        self.assertEqual(choices(first), choices(self.done(as_request)[0]))


class Lines(Case):
    def test_bad_lines_stop_nothing(self):
        good = [request("good 1", prompt="abc", max_tokens=4), chat("good 2", "abd", max_tokens=4)]
        bad = [
            ("{broken", None, "invalid_json"),
            ("[]", None, "invalid_json"),
            (b'{"custom_id": "\xff"}', None, "invalid_utf8"),
            ('{"url": "/v1/completions"}', None, "missing_custom_id"),
            (request("good 1", prompt="abe"), None, "duplicate_custom_id"),
            (request("u", "/v1/embeddings", input="x"), "u", "unknown_url"),
            (request("n", prompt="x", n="two"), "n", 400, "n"),
            (request("nn", prompt=["x"] * 2048, n=128, max_tokens=1), "nn", 400, "n"),
            (request("ee", prompt="x" * (1 << 20), n=128, echo=True, max_tokens=0), "ee", 400, "echo"),
            (request("t", prompt="x", temperature=-1), "t", 400, "temperature"),
            (request("m", "/v1/chat/completions", messages=[]), "m", 400, "messages"),
            (request("l", prompt="word " * 500), "l", 400, "prompt"),
            (request("v", prompt=[1, 99999]), "v", 400, "prompt"),
            (request("e", prompt=[[1], []]), "e", 400, "prompt"),
            (request("b", prompt="x", logit_bias={"99999": 1}), "b", 400, "logit_bias"),
            ("x" * ((16 << 20) + 1), None, "line_too_long"),
        ]
        batch = self.batch([good[0], *(line for line, *_ in bad), "", good[1]])
        results = self.done(batch, code=65)
        self.assertEqual(len(results), len(bad) + 2)
        for number, ((_, custom_id, *expected), result) in enumerate(zip(bad, results[1:-1]), 2):
            self.assertEqual(result["custom_id"], custom_id, result)
            if expected[0] == 400:
                self.assertEqual((result["response"]["status_code"], result["error"]), (400, None))
                error = result["response"]["body"]["error"]
                self.assertEqual((error["type"], error["param"]), ("invalid_request_error", expected[1]))
            else:
                self.assertIsNone(result["response"])
                self.assertEqual((result["error"]["code"], result["error"]["line"]), (expected[0], number))
        alone = self.done(self.batch(good))
        self.assertEqual([choices(results[0]), choices(results[-1])], [choices(line) for line in alone])
        self.assertIn("2 done, 16 failed", batch_err(batch))

    def test_a_template_that_refuses_and_one_that_is_missing(self):
        batch = self.batch([chat("a", "abc", max_tokens=2), request("b", prompt="abc", max_tokens=2)])
        with open(batch.path("chat.jinja"), "w") as file:
            file.write("{{ raise_exception('roles must alternate') }}")
        refused, good = self.done(batch, code=65)
        self.assertIn("roles must alternate", refused["response"]["body"]["error"]["message"])
        self.assertEqual(good["response"]["status_code"], 200)
        bare = batch.path("bare.gguf")
        content = pathlib.Path(golden_model()).read_bytes()
        self.assertEqual(content.count(b"tokenizer.chat_template"), 1)
        pathlib.Path(bare).write_bytes(
            content.replace(b"tokenizer.chat_template", b"tokenizer.chat_templatX")
        )
        for model, status in ((golden_model(), 200), (bare, 400)):
            arguments = ("-i", batch.input, "-o", batch.output, "--overwrite", "--temp", 0)
            self.assertEqual(tandem("batch", "-m", model, *arguments).code, 0 if status == 200 else 65)
            answer = batch.results()[0]["response"]
            self.assertEqual(answer["status_code"], status)
        self.assertEqual(answer["body"]["error"]["code"], "no_chat_template")

    def test_calls_reach_templates_as_objects_or_as_texts(self):
        arguments = '{"city": "Paris"}'
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        messages = [{"role": "user", "content": "W?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        arguments = "messages[1].tool_calls[0].function.arguments"
        for condition, code in (
            (f"{arguments} is mapping and {arguments}.city == 'Paris'", 0),
            (f"'text: ' + {arguments} == 'text: ' + '{{\"city\": \"Paris\"}}'", 0),
            ("messages[1].content is none", 0),
            (f"{arguments}.city == 'Rome'", 65),
        ):
            batch = self.batch([request("c", "/v1/chat/completions", messages=messages, max_tokens=1)])
            with open(batch.path("chat.jinja"), "w") as file:
                file.write("{% if not (" + condition + ") %}{{ raise_exception('no') }}{% endif %}abc")
            self.done(batch, code=code)

    def test_templates_tell_the_time_of_the_first_run(self):
        def batch_with_clock():
            batch = self.batch([chat("a", "abc", max_tokens=1), chat("b", "abc", max_tokens=1)])
            with open(batch.path("chat.jinja"), "w") as file:
                file.write("{{ raise_exception(strftime_now('%Y-%m-%d %H:%M:%S')) }}")
            return batch

        def times(batch):
            return [line["response"]["body"]["error"]["message"][-19:] for line in batch.results()]

        batch = batch_with_clock()
        self.done(batch, "--keep-journal", code=65)
        first = times(batch)
        begun = datetime.datetime.strptime(first[0], "%Y-%m-%d %H:%M:%S").replace(tzinfo=datetime.timezone.utc)
        self.assertLess(abs(datetime.datetime.now(datetime.timezone.utc) - begun), datetime.timedelta(minutes=5))
        # The second line's record is lost, and made again later, elsewhere.
        with open(batch.journal, "r+b") as file:
            file.truncate(os.path.getsize(batch.journal) - 1)
        os.remove(batch.output)
        time.sleep(1.1)
        self.done(batch, code=65, TZ="Asia/Tokyo")
        self.assertEqual(times(batch), [first[0]] * 2)
        batch = batch_with_clock()
        self.done(batch, "--created", 1_000_000_000, code=65)
        self.assertEqual(times(batch), ["2001-09-09 01:46:40"] * 2)

    def test_an_empty_input_gives_an_empty_output(self):
        batch = self.batch([])
        self.assertEqual(self.done(batch), [])
        self.assertEqual(batch.files(), ["out.jsonl"])

    def test_wrong_flags(self):
        batch = self.batch([request("a", prompt="x")])
        missing = batch.path("none")
        for arguments, code, text in (
            (("-m", batch.model, "-o", batch.output), 64, "-i FILE or --prompts"),
            (("-m", batch.model, "-i", batch.input), 64, "-o FILE"),
            (("-i", batch.input, "-o", batch.output), 64, "-m FILE"),
            (("-m", batch.model, "-i", batch.input, "-o", batch.input), 64, "same file"),
            (("-m", batch.model, "-i", batch.input, "-o", batch.folder), 64, "not a regular file"),
            (("-m", batch.model, "-i", batch.input, "-o", batch.output, "--chat"), 64, "--chat is for"),
            (("-m", batch.model, "-i", missing, "-o", batch.output), 74, "No such file"),
            (("-m", missing, "-i", batch.input, "-o", batch.output), 74, "No such file"),
            (("-m", batch.model, "-i", batch.input, "-o", missing + "/out"), 74, "No such file"),
            (("-m", batch.model, "-i", "/dev/null", "-o", batch.output), 64, "pipe"),
        ):
            for ranks in (0, 2):
                with self.subTest(arguments=arguments, ranks=ranks):
                    result = tandem("batch", *arguments, ranks=ranks)
                    self.assertEqual(result.code, code, result.err)
                    self.assertEqual(len(result.lines()), 1, result.err)
                    self.assertIn(text, result.err)
        self.assertEqual(batch.files(), [])


def batch_err(batch):
    """What a second run says of a finished one is on its own; this is the first one's last words."""
    os.remove(batch.output)
    return batch.run().err


if __name__ == "__main__":
    harness.main()
