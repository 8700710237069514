"""`tandem batch` as its user meets it: what it answers, what it makes of bad lines, and that nothing is lost or
done twice however it ends."""

import math
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest

import batch_kills
import harness
from batch_support import Batch, chat, choices, mixed_lines, request
from harness import golden_model, tandem, wait_for

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
                shape_of(result), {"id": "batch_req_", "custom_id": "str", "response": response, "error": "NoneType"}
            )
            self.assertEqual((result["custom_id"], result["response"]["status_code"]), (name, 200))
            usage = result["response"]["body"]["usage"]
            self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])
        self.assertEqual(result["response"]["body"]["model"], "llama")

    def test_logprobs_have_the_services_shape(self):
        one = self.bodies([chat("c", "hello", max_tokens=3, logprobs=True, top_logprobs=2)])[0]
        self.assertEqual(shape_of(one["choices"][0]["logprobs"]), CHAT_LOGPROBS)
        self.assertEqual([len(item["top_logprobs"]) for item in one["choices"][0]["logprobs"]["content"]], [2] * 3)
        two = self.bodies([request("t", prompt="hello", max_tokens=3, logprobs=2)])[0]["choices"][0]["logprobs"]
        self.assertEqual([len(two[key]) for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")], [3] * 4)
        self.assertTrue(all(len(top) <= 2 for top in two["top_logprobs"]))

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
        for i, (ranks, arguments) in enumerate(((0, ("-np", 1)), (0, ("-np", 5, "-b", 7)), (2, ()), (2, ("-np", 3)))):
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
        text = self.bodies([request("a", prompt="abc", max_tokens=20)])[0]["choices"][0]["text"]
        at = next(i for i in range(4, len(text)) if text[i] not in text[:i])
        lines = [
            request("stop", prompt="abc", max_tokens=20, stop=text[at], logprobs=0),
            request("none", prompt="abc", max_tokens=0),
            request("echo", prompt="abc", max_tokens=20, echo=True),
            request("only echo", prompt="abc", max_tokens=0, echo=True),
            request("full", prompt="abc", ignore_eos=True),
        ]
        stop, none, echo, only, full = [body["choices"][0] for body in self.bodies(lines, "-c", 64)]
        self.assertEqual((stop["text"], stop["finish_reason"]), (text[:at], "stop"))
        self.assertEqual("".join(stop["logprobs"]["tokens"]), text[:at])
        self.assertEqual((none["text"], none["finish_reason"]), ("", "length"))
        self.assertEqual((echo["text"], echo["finish_reason"]), ("abc" + text, "length"))
        self.assertEqual(only["text"], "abc")
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
        self.assertEqual([line["custom_id"] for line in (first, second, wrong)], ["line-1", "line-3", "line-4"])
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
            (request("t", prompt="x", temperature=-1), "t", 400, "temperature"),
            (request("m", "/v1/chat/completions", messages=[]), "m", 400, "messages"),
            (request("l", prompt="word " * 500), "l", 400, "prompt"),
            (request("v", prompt=[1, 99999]), "v", 400, "prompt"),
            (request("e", prompt=[[1], []]), "e", 400, "prompt"),
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
        self.assertIn("2 done, 13 failed", batch_err(batch))

    def test_a_template_that_refuses_and_one_that_is_missing(self):
        batch = self.batch([chat("a", "abc", max_tokens=2), request("b", prompt="abc", max_tokens=2)])
        with open(batch.path("chat.jinja"), "w") as file:
            file.write("{{ raise_exception('roles must alternate') }}")
        refused, good = self.done(batch, code=65)
        self.assertIn("roles must alternate", refused["response"]["body"]["error"]["message"])
        self.assertEqual(good["response"]["status_code"], 200)
        arguments = [word for word in batch.arguments("--overwrite") if word != batch.path("chat.jinja")]
        arguments.remove("--chat-template-file")
        self.assertEqual(tandem(*arguments).code, 65)
        self.assertEqual(batch.results()[0]["response"]["body"]["error"]["code"], "no_chat_template")

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


class Journals(Case):
    def setUp(self):
        self.lines = mixed_lines(12, seed=3)

    def begun(self, *arguments, n=5):
        """A batch that was stopped after some lines."""
        batch = self.batch(self.lines)
        with batch.job("-np", 1, "--sync-records", 1, *arguments) as job:
            job.wait_for(lambda: batch_kills.size_of(batch.journal) > 1000 * n // 2, "some records")
            job.process.kill()
            job.process.wait()
        self.assertEqual(batch.files(), ["out.jsonl.journal"])
        return batch

    def test_goes_on_and_is_then_complete(self):
        batch = self.begun()
        result = batch.run()
        self.assertEqual(result.code, 65, result.err)
        self.assertRegex(result.err, r"[1-9]\d* of 12 lines are done already")
        reference = self.batch(self.lines)
        self.done(reference, code=65)
        self.assertEqual(batch.bytes(), reference.bytes())
        self.assertEqual(batch.files(), ["out.jsonl"])
        before = os.stat(batch.output)
        again = batch.run(ranks=2)
        self.assertEqual(again.code, 65)
        self.assertIn("complete already", again.err)
        self.assertNotIn("loaded in", again.err)
        self.assertEqual(os.stat(batch.output), before)

    def test_complete_without_failures_is_0(self):
        batch = self.batch([request("a", prompt="abc", max_tokens=2)])
        self.done(batch)
        self.assertEqual(batch.run().code, 0)

    def test_a_kept_journal_gives_the_output_again_without_the_model(self):
        batch = self.batch(self.lines)
        self.done(batch, "--keep-journal", code=65)
        reference = batch.bytes()
        os.remove(batch.output)
        result = batch.run()
        self.assertEqual(result.code, 65)
        self.assertNotIn("loaded in", result.err)
        self.assertEqual(batch.bytes(), reference)
        self.assertEqual(batch.files(), ["out.jsonl"])

    def test_is_bound_to_model_options_and_input(self):
        batch = self.begun()
        journal = pathlib.Path(batch.journal).read_bytes()
        for arguments, text in (
            (("--temp", 0.5), r"another --temp \(0 then, 0.5 now\)"),
            (("--top-k", 3, "--seed", 9), r"another --seed \(0 then, 9 now\), another --top-k \(40 then, 3 now\)"),
            (("-m", golden_model("qwen2")), r"another model \([0-9a-f]{32} of \d+ bytes then"),
            (("-c", 100), r"another --ctx-size \(512 then, 100 now\)"),
            (("--system-prompt", "x"), r"another --system-prompt"),
        ):
            for ranks in (0, 2):
                result = batch.run(*arguments, ranks=ranks)
                self.assertEqual(result.code, 65, result.err)
                self.assertRegex(result.err, text)
                self.assertEqual(len(result.lines()), 1, result.err)
        with open(batch.input, "a") as file:
            file.write(request("one more", prompt="x") + "\n")
        result = batch.run()
        self.assertEqual(result.code, 65)
        self.assertRegex(result.err, r"another input \([0-9a-f]{32} of \d+ bytes then")
        self.assertEqual(pathlib.Path(batch.journal).read_bytes(), journal)
        self.assertEqual(self.done(batch, "--overwrite", code=65)[-1]["custom_id"], "one more")

    def test_another_runs_output_is_not_replaced_unasked(self):
        batch = self.batch([request("a", prompt="abc", max_tokens=2)])
        pathlib.Path(batch.output).write_text("precious\n")
        result = batch.run()
        self.assertEqual(result.code, 65)
        self.assertIn("--overwrite", result.err)
        self.assertEqual((batch.bytes(), batch.files()), (b"precious\n", ["out.jsonl"]))
        self.done(batch, "--overwrite")

    def test_what_is_no_journal_is_left_alone(self):
        batch = self.batch([request("a", prompt="abc", max_tokens=2)])
        pathlib.Path(batch.journal).write_text("somebody's notes")
        self.assertEqual(batch.run().code, 65)
        self.assertEqual(pathlib.Path(batch.journal).read_text(), "somebody's notes")

    def test_has_one_writer(self):
        batch = self.batch([request("a", prompt="abc", ignore_eos=True, max_tokens=400, n=100)])
        with batch.job() as job:
            job.wait_for(lambda: batch_kills.size_of(batch.journal) > 0, "a journal")
            link = batch.path("link")
            os.symlink(batch.folder, link)
            for output in (batch.output, os.path.join(link, "out.jsonl")):
                for ranks in (0, 2):
                    result = batch.run(output=output, ranks=ranks)
                    self.assertEqual(result.code, 75, result.err)
                    self.assertIn("another process is working on this output", result.err)
            self.assertIsNone(job.process.poll())

    def test_a_full_disk_loses_nothing(self):
        reference = self.batch(self.lines)
        self.done(reference, "--keep-journal", code=65)
        size = os.path.getsize(reference.journal)
        batch = self.batch(self.lines)
        n_done = []
        for blocks in sorted({1, size // 3 // 512, size // 2 // 512, size // 512}):
            result = batch.run("-np", 2, "--sync-records", 1, wrapper=("sh", "-c", f'ulimit -f {blocks}; "$@"', "sh"))
            self.assertEqual(result.code, 74, result.err)
            self.assertEqual(len([line for line in result.lines() if "File too large" in line]), 1, result.err)
            self.assertEqual(batch.files(), ["out.jsonl.journal"])
            n_done += [int(n) for n in re.findall(r"(\d+) of 12 lines are done already", result.err)]
        self.assertTrue(n_done and n_done == sorted(n_done) and n_done[-1] >= 3, n_done)
        self.done(batch, code=65)
        self.assertEqual(batch.bytes(), reference.bytes())

    def test_a_disk_that_is_really_full(self):
        if os.geteuid() != 0:
            self.skipTest("only root can mount a small disk")
        batch = self.batch(self.lines)
        disk = batch.path("disk")
        os.mkdir(disk)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk], capture_output=True).returncode:
            self.skipTest("mount is not allowed here")
        self.addCleanup(subprocess.run, ["umount", disk], check=True)
        output = os.path.join(disk, "out.jsonl")
        result = batch.run(output=output)
        self.assertEqual(result.code, 74, result.err)
        self.assertIn("No space left on device", result.err)
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        result = batch.run(output=output)
        self.assertRegex(result.err, r"[1-9]\d* of 12 lines are done already")
        self.done(batch, code=65)
        self.assertEqual(batch.bytes(output), batch.bytes())


class Signals(Case):
    """A job that would take long is asked to end at some point of its work, and goes on later."""

    def check(self, ranks, number, code, limit_s, launcher=False):
        with self.subTest(ranks=ranks, number=number, launcher=launcher):
            lines = [request(f"r{i}", prompt="abc", max_tokens=300, ignore_eos=True) for i in range(6)]
            batch = self.batch([request("first", prompt="x", max_tokens=1), *lines])
            with batch.job("-np", 1, ranks=ranks) as job:
                job.wait_for_ranks(max(1, ranks))
                job.wait_for(lambda: batch_kills.size_of(batch.journal) > 1200, "a record")
                start = time.monotonic()
                os.kill(job.process.pid if launcher or not ranks else job.pids[-1], number)
                wait_for(lambda: not any(map(harness.is_alive, job.pids)), limit_s + 2, "ranks are left")
                seconds = time.monotonic() - start
                status = job.wait_for_end(10)
                if code is not None:
                    self.assertEqual(status, code, job.stderr())
                    self.assertIn("the same command goes on from there", job.stderr())
                self.assertLess(seconds, limit_s + 0.5, job.stderr())
            self.assertEqual(batch.files(), ["out.jsonl.journal"])
            result = batch.run(ranks=ranks)
            self.assertEqual(result.code, 0, result.err)
            self.assertRegex(result.err, r"[1-6] of 7 lines are done already")
            self.assertEqual(len(batch.results()), 7)

    def test_checkpoint(self):
        for ranks in (0, 2):
            self.check(ranks, signal.SIGUSR1, 75, 2.0)
            self.check(ranks, signal.SIGTERM, 75, 1.0)
        self.check(0, signal.SIGINT, 130, 2.0)

    def test_through_the_launcher(self):
        # Open MPI passes SIGUSR1 on, and on a SIGTERM kills the ranks soon after they got it.
        self.check(2, signal.SIGUSR1, 75, 2.0, launcher=True)
        self.check(2, signal.SIGTERM, None, 4.0, launcher=True)

    def test_every_rank_ends_with_the_same_code(self):
        batch = self.batch([request("a", prompt="abc", max_tokens=300, ignore_eos=True, n=100)])
        with tempfile.TemporaryDirectory() as folder:
            wrapper = ("sh", "-c", 'trap : TERM USR1; "$@"; echo $? > "$CODES_DIR/$$"', "sh")
            command = harness.launch(2, *wrapper, harness.program(), *batch.arguments("-np", 1))
            with harness.Job(command, CODES_DIR=folder) as job:
                job.wait_for_ranks(2)
                job.wait_for_text(b", loaded in ", "stderr")
                os.kill(job.pids[1], signal.SIGTERM)
                wait_for(lambda: len(os.listdir(folder)) == 2, 5, "ranks are left")
                job.wait_for_end(10)
            codes = [int((pathlib.Path(folder) / name).read_text()) for name in os.listdir(folder)]
            self.assertEqual(codes, [75, 75])

    def test_a_second_sigterm_ends_at_once(self):
        batch = self.batch([request("a", prompt="abc", max_tokens=300, ignore_eos=True, n=100)])
        with batch.job() as job:
            job.wait_for_text(b", loaded in ", "stderr")
            # Stopped, so that both are there before the program looks.
            for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
                os.kill(job.process.pid, number)
            os.kill(job.process.pid, signal.SIGTERM)
            self.assertIn(job.wait_for_end(5), (143, 75))

    def test_while_loading(self):
        # Whatever the moment: no record is lost, and the code asks for a new start.
        batch = self.batch(mixed_lines(6))
        for delay_s in (0.03, 0.06, 0.1):
            with batch.job(ranks=0) as job:
                job.wait_for(lambda: os.path.exists(batch.journal), "a journal")
                time.sleep(delay_s / 10)
                os.kill(job.process.pid, signal.SIGUSR1)
                self.assertIn(job.wait_for_end(11), (75, 65))
        self.assertEqual(batch.run().code, 65)


class Killed(Case):
    def test_a_hundred_kills(self):
        kills = batch_kills.Kills(seed=int(os.environ.get("TANDEM_KILL_SEED", "2026")))
        kills.run(100)
        self.assertEqual({kind for kind, _ in kills.counts}, set(batch_kills.KINDS))
        self.assertEqual({ranks for _, ranks in kills.counts}, {1, 2})

    def test_the_check_rejects_a_wrong_output(self):
        kills = batch_kills.Kills(seed=7)
        batch = self.batch(kills.lines)
        self.done(batch, code=65)
        kills.check(batch)
        good = batch.bytes()
        lines = good.splitlines(keepends=True)
        for wrong in (good[:-1], good + lines[-1], b"".join(lines[1:]), lines[1] + lines[0] + b"".join(lines[2:])):
            pathlib.Path(batch.output).write_bytes(wrong)
            with self.assertRaises(batch_kills.Failure):
                kills.check(batch)
        pathlib.Path(batch.output).write_bytes(good)
        pathlib.Path(batch.journal).write_bytes(b"")
        with self.assertRaises(batch_kills.Failure):
            kills.check(batch)


if __name__ == "__main__":
    harness.main()
