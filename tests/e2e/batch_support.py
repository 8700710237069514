"""What the tests of `tandem batch` share: inputs, runs of the command, and readings of what it wrote."""

import json
import os
import random
import struct
import tempfile
import unittest

import harness

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def request(custom_id, url="/v1/completions", **body):
    line = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(line, ensure_ascii=False)


def chat(custom_id, text, **body):
    return request(custom_id, "/v1/chat/completions", messages=[{"role": "user", "content": text}], **body)


def mixed_lines(n, seed=1, most_tokens=16):
    """Requests of all kinds, greedy and drawn, some of them wrong."""
    rng = random.Random(seed)
    lines = []
    for i in range(n):
        text = "".join(rng.choice("abcdefgh ij klmn") for _ in range(rng.randint(1, 60)))
        body = {"max_tokens": rng.randint(1, most_tokens), "temperature": rng.choice([0, 0.7, 1.5])}
        if rng.random() < 0.3:
            body["n"] = rng.randint(2, 3)
        if rng.random() < 0.3:
            body["seed"] = rng.randint(0, 99)
        if rng.random() < 0.2:
            body["stop"] = [rng.choice("abcde")]
        if rng.random() < 0.2:
            body["frequency_penalty"] = 0.5
        kind = rng.random()
        if kind < 0.45:
            logprobs = {"logprobs": rng.randint(0, 5)} if rng.random() < 0.3 else {}
            lines.append(request(f"request {i}", prompt=text, **body, **logprobs))
        elif kind < 0.55:
            lines.append(request(f"request {i}", prompt=[text, [1, 2, 3 + i % 9]], **body))
        elif kind < 0.92:
            logprobs = {"logprobs": True, "top_logprobs": 2} if rng.random() < 0.3 else {}
            lines.append(chat(f"request {i}", text, **body, **logprobs))
        else:
            lines.append(
                rng.choice(["{broken", request(f"request {i}", prompt=7), request("request 0", prompt="x")])
            )
    return lines


def long_lines():
    """Minutes of work for a batch of one sequence, some seconds for one of sixteen."""
    return [request(f"r{i}", prompt="abc", max_tokens=300, ignore_eos=True, n=24) for i in range(20)]


class Batch:
    """A folder with an input, a template and whatever `tandem batch` leaves there."""

    def __init__(self, folder, lines, model=None):
        self.folder, self.model = folder, model or harness.golden_model()
        self.lines = lines
        self.input, self.output = self.path("in.jsonl"), self.path("out.jsonl")
        self.journal = self.output + ".journal"
        with open(self.path("chat.jinja"), "w") as file:
            file.write(TEMPLATE)
        with open(self.input, "wb") as file:
            for line in lines:
                file.write((line if isinstance(line, bytes) else line.encode()) + b"\n")

    def path(self, name):
        return os.path.join(self.folder, name)

    def arguments(self, *more, output=None):
        return [
            *("batch", "-m", self.model, "-i", self.input, "-o", output or self.output, "-t", 1),
            *("--chat-template-file", self.path("chat.jinja"), "--temp", 0, *more),
        ]

    def run(self, *more, output=None, **options):
        return harness.tandem(*self.arguments(*more, output=output), **options)

    def job(self, *more, ranks=0, **env):
        return harness.Job(harness.launch(ranks, harness.program(), *self.arguments(*more)), **env)

    def bytes(self, output=None):
        with open(output or self.output, "rb") as file:
            return file.read()

    def results(self, output=None):
        return [json.loads(line) for line in self.bytes(output).decode().splitlines()]

    def files(self):
        return sorted(set(os.listdir(self.folder)) - {"in.jsonl", "chat.jinja"})


def n_records(path):
    """Results in a journal as far as it is written, by its layout (launch/batch/journal.h)."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return 0
    at, n = 8, 0
    while at + 16 <= len(content):
        n_bytes, kind = struct.unpack_from("<II", content, at)
        at += 16 + n_bytes
        n += kind == 2 and at <= len(content)
    return n


def choices(result):
    return result["response"]["body"]["choices"]


class Case(unittest.TestCase):
    def batch(self, lines, **more):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Batch(folder.name, lines, **more)

    def done(self, batch, *arguments, code=0, **options):
        result = batch.run(*arguments, **options)
        self.assertEqual(result.code, code, result.err)
        return batch.results(options.get("output"))

    def bodies(self, lines, *arguments, **options):
        batch = self.batch(lines)
        return [result["response"]["body"] for result in self.done(batch, *arguments, **options)]
