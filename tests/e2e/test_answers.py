"""What tandem answers: the same bits however the work was cut, the text that the logits ask for, the limits
and penalties that were given, and a conversation that remembers."""

import math
import re
import subprocess
import tempfile
import time
import unittest

import harness
from harness import golden_model, logits, real_model, tandem, token_ids

CUTS = ((2, ()), (3, ()), (4, ()), (2, ("--split", "2,1")))  # ranks, further arguments
# Of the tiny models that have less than four heads or FFN units to deal.
MOST_RANKS = {"gemma3": 3, "gemma3-as-27b": 2, "llama-tied-llama3": 3, "llama-yarn": 3}
CACHES = ("f32", "f16", "q8_0", "q4_0")
# How far logits may lie, and do at least lie, from those of an f32 cache: see distance(). That of q4_0 is so coarse
# that other low bits in products move it by half; logits that have nothing to do with each other are 2 apart.
TINY_ERRORS = {"f32": (0, 0), "f16": (1e-8, 2e-6), "q8_0": (1e-5, 1e-2), "q4_0": (1e-3, 0.15)}
REAL_ERRORS = {"f32": (0, 0), "f16": (1e-6, 2e-3), "q8_0": (1e-4, 6e-3), "q4_0": (1e-2, 0.4)}
PROMPT = "The lighthouse keeper counted the ships that came home before the storm, and"


def cache_of(cache):
    return ("-ctk", cache, "-ctv", cache)


def distance(exact, other):
    """Mean squared difference of logits over their mean square, of every fifth row."""
    error, power = 0.0, 0.0
    for i in range(0, exact.shape[0], 5):
        a, b = exact.row(i), other.row(i)
        error += math.fsum((x - y) ** 2 for x, y in zip(a, b))
        power += math.fsum(x * x for x in a)
    return error / power


def greedy(model, prompt, n_tokens, *arguments, **options):
    """The greedy continuation, without the newline that ends the output."""
    result = tandem(
        "run", "-m", model, "-p", prompt, "-n", n_tokens, "--temp", 0, "-v", *arguments, **options
    )
    if result.code != 0 or not result.out.endswith(b"\n"):
        raise AssertionError(f"{result.code}: {result.err}")
    return result.out[:-1]


def n_generated(result):
    """As the speed report on stderr has it; without a report of generated tokens it was one at most."""
    found = re.search(r"generated (\d+) tokens", result.err)
    return int(found.group(1)) if found else 0


class TinyBits(unittest.TestCase):
    """Logits of the tiny models of every family are the same bytes, however the work is cut."""

    TOKENS = ("--tokens", ",".join(str(7 * i % 251) for i in range(70)))

    def check_same(self, name, reference, ranks, *arguments, **env):
        with self.subTest(model=name, ranks=ranks, arguments=arguments, env=env):
            other = logits("-m", golden_model(name), *self.TOKENS, *arguments, ranks=ranks, **env)
            self.assertEqual(other.shape, reference.shape)
            self.assertTrue(other.bytes == reference.bytes, "the logits differ")

    def test_any_cut_on_one_rank(self):
        for name in harness.golden_models():
            reference = logits("-m", golden_model(name), *self.TOKENS)
            for arguments in (("-b", 1), ("-b", 7), ("-b", 64), ("-t", 1), ("-t", 2), ("-c", 512)):
                self.check_same(name, reference, 0, *arguments)
            for isa in ("avx2", "generic"):
                if isa in tandem("--version").text or isa == "generic":
                    self.check_same(name, reference, 0, TANDEM_ISA=isa)

    def test_any_ranks(self):
        for name in harness.golden_models():
            reference = logits("-m", golden_model(name), *self.TOKENS)
            for ranks, arguments in CUTS:
                if ranks <= MOST_RANKS.get(name, 4):
                    self.check_same(name, reference, ranks, *arguments)

    def test_every_cache_at_any_ranks(self):
        for name in ("llama-9-heads-3-kv", "gemma3", "mixtral"):
            exact = logits("-m", golden_model(name), *self.TOKENS, *cache_of("f32"))
            for cache in CACHES:
                reference = logits("-m", golden_model(name), *self.TOKENS, *cache_of(cache))
                for ranks, arguments in (*CUTS, (0, ("-b", 7)), (2, ("-b", 1))):
                    if ranks <= MOST_RANKS.get(name, 4):
                        self.check_same(name, reference, ranks, *cache_of(cache), *arguments)
                low, high = TINY_ERRORS[cache]
                error = distance(exact, reference)
                self.assertTrue(low <= error <= high, f"{name} {cache}: {error}")

    def test_other_tokens_have_other_logits(self):
        one = logits("-m", golden_model(), "--tokens", "1,2,3")
        other = logits("-m", golden_model(), "--tokens", "1,2,4")
        self.assertEqual((one.shape, one.row(1)), ((3, 272), other.row(1)))
        self.assertNotEqual(one.row(2), other.row(2))

    def test_ranks_choose_the_same_tokens(self):
        arguments = ("run", "-m", golden_model(), "-p", "a b c", "-n", 40, "--ignore-eos", "--seed", 5)
        for way in (("--verify-ranks", 3), ("--verify-ranks", 1, "--temp", 0)):
            result = tandem(*arguments, *way, ranks=3)
            self.assertEqual(result.code, 0, result.err)
            self.assertRegex(result.err, r"all 3 ranks chose the same 40 tokens in 40 steps")
        self.assertNotIn("chose the same", tandem(*arguments, ranks=2).err)
        self.assertIn("in 40 steps", tandem(*arguments, ranks=2, TANDEM_VERIFY_RANKS="7").err)


class RealBits(unittest.TestCase):
    """The same with a real model, text, and what is drawn from it."""

    @classmethod
    def setUpClass(cls):
        cls.model = real_model()
        cls.text = (harness.ROOT / "LICENSE").read_text()[:600]
        cls.reference = logits("-m", cls.model, "-p", cls.text)

    def check_same(self, ranks, *arguments, **env):
        with self.subTest(ranks=ranks, arguments=arguments, env=env):
            other = logits("-m", self.model, "-p", self.text, *arguments, ranks=ranks, **env)
            self.assertEqual(other.shape, self.reference.shape)
            self.assertTrue(other.bytes == self.reference.bytes, "the logits differ")

    def test_logits(self):
        self.assertGreater(self.reference.shape[0], 100)
        for ranks, arguments in CUTS:
            self.check_same(ranks, *arguments)
        for arguments in (("-b", 1), ("-b", 7), ("-b", 64), ("-t", 1), ("-t", 2)):
            self.check_same(0, *arguments)
        self.check_same(2, "-b", 7, "-t", 2)
        if "avx2" in tandem("--version").text:
            self.check_same(0, TANDEM_ISA="avx2")
            self.check_same(2, TANDEM_ISA="avx2")

    def test_every_cache_at_any_ranks(self):
        exact = logits("-m", self.model, "-p", self.text, *cache_of("f32"))
        for cache in CACHES:
            one = logits("-m", self.model, "-p", self.text, *cache_of(cache))
            for ranks in (1, 2, 3, 4):
                with self.subTest(cache=cache, ranks=ranks):
                    other = logits("-m", self.model, "-p", self.text, *cache_of(cache), ranks=ranks)
                    self.assertTrue(other.bytes == one.bytes, "the logits differ")
            low, high = REAL_ERRORS[cache]
            error = distance(exact, one)
            self.assertTrue(low <= error <= high, f"{cache}: {error}")

    def test_every_cache_generates_the_same_text_at_any_ranks(self):
        texts = set()
        for cache in CACHES:
            arguments = ("run", "-m", self.model, "-p", PROMPT, "-n", 24, "--seed", 7, *cache_of(cache))
            results = [tandem(*arguments, ranks=ranks) for ranks in (1, 2, 3, 4)]
            self.assertEqual({result.code for result in results}, {0}, results[0].err)
            self.assertEqual(len({result.out for result in results}), 1, cache)
            texts.add(results[0].out)
        self.assertGreater(len(texts), 1, "the cache's type changes nothing")

    def test_seeded_text(self):
        wide = ("--temp", 1.2, "--top-k", 0, "--top-p", 1, "--min-p", 0)
        for arguments in ((), wide, ("--top-k", 0, "--top-p", 0.9, "--repeat-penalty", 1.2)):

            def sampled(ranks, *more):
                result = tandem(
                    "run", "-m", self.model, "-p", PROMPT, "-n", 24, *arguments, *more, ranks=ranks
                )
                self.assertEqual(result.code, 0, result.err)
                return result.out

            one = sampled(0, "--seed", 7)
            for ranks, cut in CUTS:
                with self.subTest(arguments=arguments, ranks=ranks, cut=cut):
                    self.assertEqual(sampled(ranks, "--seed", 7, *cut), one)
            self.assertNotEqual(sampled(0, "--seed", 8), one)

    def test_greedy_text_is_the_logits_argmax(self):
        text = greedy(self.model, PROMPT, 16).decode()
        prompt, whole = token_ids(self.model, PROMPT), token_ids(self.model, PROMPT + text)
        self.assertEqual((whole[: len(prompt)], len(whole)), (prompt, len(prompt) + 16), text)
        rows = logits("-m", self.model, "--tokens", ",".join(map(str, whole)))
        for i in range(len(prompt), len(whole)):
            row = rows.row(i - 1)
            self.assertEqual(max(range(len(row)), key=row.__getitem__), whole[i], f"token {i} of {text!r}")


class Paris(unittest.TestCase):
    def test_capital_of_france_at_every_n(self):
        model = real_model()
        answers = set()
        for ranks in (0, 1, 2, 3, 4):
            result = tandem(
                "run",
                "-m",
                model,
                "--chat",
                "--system-prompt",
                "You are a helpful assistant.",
                "-p",
                "What is the capital of France?",
                "--temp",
                0,
                "-n",
                24,
                ranks=ranks,
            )
            self.assertEqual(result.code, 0, result.err)
            self.assertIn("Paris", result.text)
            self.assertRegex(result.err, rf"on {max(1, ranks)} ranks?, loaded in \d")
            self.assertRegex(result.err, r"prompt \d+ tokens, [\d.]+ tokens/s; first token after [\d.]+ s")
            self.assertRegex(result.err, r"generated \d+ tokens, [\d.]+ tokens/s")
            answers.add(result.text)
        self.assertEqual(len(answers), 1, answers)


class Limits(unittest.TestCase):
    """Where a generation ends, with a real model's text."""

    @classmethod
    def setUpClass(cls):
        cls.model = real_model()
        cls.text = greedy(cls.model, PROMPT, 24).decode()

    def run_greedy(self, *arguments, **options):
        result = tandem("run", "-m", self.model, "-p", PROMPT, "--temp", 0, *arguments, **options)
        self.assertEqual(result.code, 0, result.err)
        return result

    def test_number_of_tokens(self):
        for n in (0, 1, 2, 9):
            result = self.run_greedy("-n", n)
            self.assertTrue(self.text.startswith(result.text[:-1]), result.text)
            if n > 1:
                self.assertEqual(n_generated(result), n)
        self.assertEqual(self.run_greedy("-n", 0).out, b"\n")

    def test_full_context(self):
        n_prompt = len(token_ids(self.model, PROMPT))
        for arguments in ((), ("-n", 100)):
            result = self.run_greedy("-c", n_prompt + 9, *arguments)
            self.assertEqual(n_generated(result), 9, result.err)
            self.assertTrue(self.text.startswith(result.text[:-1]))
        self.assertEqual(self.run_greedy("-c", n_prompt).out, b"\n")  # a full context leaves room for none

    def test_stop_strings(self):
        # Over a boundary of tokens, in the middle of a word, at the text's beginning, and two at once.
        text = self.text
        space = text.index(" ", 12)
        stops = (
            [text[space - 2 : space + 3]],
            [text[20:23]],
            [text[:2]],
            [text[25:28], text[18:21]],
            ["never said"],
        )
        for stop in stops:
            with self.subTest(stop=stop):
                arguments = [word for one in stop for word in ("--stop", one)]
                end = min((text.index(one) for one in stop if one in text), default=len(text))
                for ranks in (0, 2):
                    shown = self.run_greedy("-n", 24, *arguments, ranks=ranks).text
                    self.assertEqual(shown, text[:end] + "\n")

    def test_ignore_eos(self):
        chat = (
            "run",
            "-m",
            self.model,
            "--chat",
            "--system-prompt",
            "You are a helpful assistant.",
            "-p",
            "What is the capital of France?",
            "--temp",
            0,
            "-n",
            20,
        )
        short, long = tandem(*chat), tandem(*chat, "--ignore-eos")
        self.assertLess(n_generated(short), 20, short.err)
        self.assertEqual(n_generated(long), 20, long.err)
        self.assertTrue(long.text.startswith(short.text[:-1]))

    def test_prompt_from_a_file_or_shown(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(PROMPT + "\n")
            file.flush()
            result = tandem("run", "-m", self.model, "-f", file.name, "--temp", 0, "-n", 24, ranks=2)
        self.assertEqual((result.code, result.text), (0, self.text + "\n"))
        shown = self.run_greedy("-n", 24, "--show-prompt")
        self.assertTrue(shown.text.endswith(PROMPT + self.text + "\n"), shown.text)


class Sampling(unittest.TestCase):
    """Bias and penalties, on biases so large that the model has no say: what comes is what the rules say."""

    MODEL = golden_model()

    def generated(self, *arguments, n=8, ranks=0):
        # The prompt has neither A nor B. A leads B by 500.
        a, b = (token_ids(self.MODEL, letter, "--no-special")[0] for letter in "AB")
        return greedy(
            self.MODEL, "xyz", n, "-l", f"{a}+10000", "-l", f"{b}+9500", *arguments, ranks=ranks
        ).decode()

    def test_rules(self):
        for arguments, text in (
            ((), "AAAAAAAA"),
            (("--presence-penalty", 900), "ABAAAAAA"),
            (("--frequency-penalty", 900), "ABABABAB"),
            (("--repeat-penalty", 1.5), "ABAAAAAA"),
            (("--presence-penalty", 900, "--repeat-last-n", 1), "ABABABAB"),
            (("--presence-penalty", 900, "--repeat-last-n", 0), "AAAAAAAA"),
            (("--frequency-penalty", 900, "--repeat-last-n", -1), "ABABABAB"),
        ):
            for ranks in (0, 2):
                with self.subTest(arguments=arguments, ranks=ranks):
                    self.assertEqual(self.generated(*arguments, ranks=ranks), text)

    def test_ban(self):
        a = token_ids(self.MODEL, "A", "--no-special")[0]
        self.assertEqual(self.generated("-l", f"{a}-inf"), "B" * 8)

    def test_all_ways_to_be_greedy(self):
        prompt = "one two"
        text = greedy(self.MODEL, prompt, 12)
        for arguments in (("--top-k", 1), ("--top-p", 1e-6), ("--min-p", 1), ("--temp", 1e-4)):
            result = tandem(
                "run", "-m", self.MODEL, "-p", prompt, "-n", 12, "--temp", 1.5, "--seed", 3, *arguments
            )
            self.assertEqual((result.code, result.out), (0, text + b"\n"), arguments)

    def test_random_text_differs_by_seed(self):
        texts = {
            tandem("run", "-m", self.MODEL, "-p", "one", "-n", 12, "--temp", 5, "--seed", seed).out
            for seed in (1, 2, 3)
        }
        self.assertEqual(len(texts), 3)

    def test_frequencies(self):
        # Two tokens of equal weight and nothing else: a fair coin, thrown 400 times, each throw with its own
        # counter.
        a, b = (token_ids(self.MODEL, letter, "--no-special")[0] for letter in "AB")
        result = tandem(
            "run",
            "-m",
            self.MODEL,
            "-p",
            "xyz",
            "-n",
            400,
            "--temp",
            1000,
            "--top-k",
            2,
            "--min-p",
            0,
            "--top-p",
            1,
            "--seed",
            11,
            "-l",
            f"{a}+10000",
            "-l",
            f"{b}+10000",
        )
        self.assertEqual(result.code, 0, result.err)
        heads = result.text.count("A")
        self.assertEqual(heads + result.text.count("B"), 400, result.text)
        self.assertLess(abs(heads - 200), 5 * math.sqrt(100), result.text)  # 5 sigma


class Chat(unittest.TestCase):
    def start(self, ranks, model, *arguments):
        command = harness.launch(ranks, harness.program(), "chat", "-m", model, "--temp", 0, *arguments)
        job = harness.Job(command, stdin=subprocess.PIPE)
        self.addCleanup(job.__exit__)
        return job

    def say(self, job, text):
        job.process.stdin.write(text.encode())
        job.process.stdin.flush()

    def end(self, job):
        job.process.stdin.close()
        self.assertEqual(job.wait_for_end(harness.START_LIMIT_S), 0, job.stderr())

    def test_two_turns(self):
        model = real_model()
        outputs = set()
        for ranks in (0, 2):
            with self.subTest(ranks=ranks):
                job = self.start(ranks, model, "--system-prompt", "You are a helpful assistant.", "-n", 40)
                self.say(job, "What is the capital of France?\n")
                job.wait_for(lambda: job.stdout().count(b"> ") == 2, "the first answer")
                self.assertIn(b"Paris", job.stdout())
                self.say(job, "Which river flows through it?\n")
                job.wait_for(lambda: job.stdout().count(b"> ") == 3, "the second answer")
                self.end(job)
                first, second = re.findall(r"prompt (\d+) tokens(?: \((\d+) of them kept\))?", job.stderr())
                self.assertEqual(first[1], "")
                self.assertGreaterEqual(int(second[1]), int(first[0]), job.stderr())
                self.assertLess(int(second[0]) - int(second[1]), 40, job.stderr())
                self.assertIn("Seine", job.stdout().decode().split("> ")[2])
                outputs.add(job.stdout())
        self.assertEqual(len(outputs), 1, outputs)

    def test_a_script_in_a_pipe(self):
        result = tandem(
            "chat",
            "-m",
            golden_model(),
            "--temp",
            0,
            "-n",
            5,
            "--ignore-eos",
            stdin=b"hello\nagain\nand again",
            ranks=2,
        )
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(len(re.findall("generated 5 tokens", result.err)), 3, result.err)
        self.assertNotIn(b"[stopped]", result.out)

    def test_lines_end_as_they_like(self):
        outputs = set()
        for script in (b"hello\nagain\n", b"hello\r\nagain\r\n"):
            result = tandem("chat", "-m", golden_model(), "--temp", 0, "-n", 5, "--ignore-eos", stdin=script)
            self.assertEqual(result.code, 0, result.err)
            outputs.add(result.out)
        self.assertEqual(len(outputs), 1, outputs)

    def test_a_full_context_begins_anew_and_answers(self):
        arguments = ("-m", golden_model(), "--temp", 0, "-n", 8, "--ignore-eos", "-c", 64)
        result = tandem("chat", *arguments, stdin=b"a first message\nhello\n")
        self.assertEqual(result.code, 0, result.err)
        self.assertIn("it starts anew", result.err)
        self.assertEqual(len(re.findall("generated 8 tokens", result.err)), 2, result.err)
        alone = tandem("chat", *arguments, stdin=b"hello\n")
        self.assertEqual(result.text.split("> ")[2], alone.text.split("> ")[1])
        # What has no room is forgotten, and nothing else is.
        arguments = (*arguments[:-1], 128)
        both = tandem("chat", *arguments, stdin=b"hello\nagain\n")
        result = tandem("chat", *arguments, stdin=b"hello\n" + b"word " * 99 + b"\nagain\n")
        self.assertEqual(result.code, 0, result.err)
        self.assertIn("no room for an answer", result.err)
        self.assertNotIn("anew", result.err)
        self.assertEqual(result.text.replace("> > ", "> "), both.text)

    def test_input_that_cannot_be_read(self):
        command = (harness.program(), "chat", "-m", golden_model())
        with open("/dev/null", "w") as write_only, tempfile.TemporaryDirectory() as scratch:
            env = harness.environment(scratch)
            done = subprocess.run(
                command, stdin=write_only, capture_output=True, text=True, timeout=60, check=False, env=env
            )
        self.assertEqual(done.returncode, 74, done.stderr)
        self.assertIn("can't read standard input", done.stderr)

    def test_a_line_that_is_no_text_ends_nothing(self):
        result = tandem("chat", "-m", golden_model(), "--temp", 0, "-n", 3, "--ignore-eos", stdin=b"Hi\n\xff\xfe\nagain\n")
        self.assertEqual(result.code, 0, result.err)
        self.assertEqual(len(re.findall("generated 3 tokens", result.err)), 3, result.err)

    def test_enter_stops_the_answer(self):
        model = real_model()
        for ranks in (0, 3):
            with self.subTest(ranks=ranks):
                job = self.start(ranks, model, "--ignore-eos")
                self.say(job, "Tell me a very long story.\n")
                job.wait_for(lambda: len(job.stdout()) > 12, "the story's beginning")
                self.say(job, "\n")
                job.wait_for(lambda: job.stdout().endswith(b" [stopped]\n> "), "the story's end")
                self.say(job, "\n")  # one Enter too many does no harm
                time.sleep(0.2)
                self.assertIsNone(job.process.poll())
                self.end(job)


if __name__ == "__main__":
    harness.main()
