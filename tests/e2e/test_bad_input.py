"""What tandem says to wrong flags, damaged files and full disks: one line that names the culprit, one exit
code on every rank, no hang, and no file that looks like a result."""

import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

import harness
from harness import codes_of_ranks, golden_model, tandem

USAGE, BAD_DATA, IO = 64, 65, 74
MODEL = golden_model()
# A working command line of every command that takes a model.
COMMANDS = {
    "run": ("-m", MODEL, "-p", "hi", "-n", "2"),
    "chat": ("-m", MODEL, "-n", "2"),
    "bench": ("-m", MODEL, "-p", "4", "-n", "2", "-r", "1"),
    "perplexity": ("-m", MODEL, "-p", "some text that is long enough", "-c", "8"),
    "logits": ("-m", MODEL, "--tokens", "1,2,3", "-o", "out.npy"),
    "inspect": ("-m", MODEL),
    "tokenize": ("-m", MODEL, "-p", "hi"),
}


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def path(self, name, content=None):
        path = self.folder / name
        if content is not None:
            path.write_bytes(content)
        return str(path)

    def check(self, arguments, code, *words, ranks=(0, 2), **options):
        """Refused with this code and one line that holds every word."""
        for n in ranks:
            with self.subTest(arguments=arguments, ranks=n, **options):
                result = tandem(
                    *arguments, ranks=n, cwd=self.folder, limit_s=harness.START_LIMIT_S, **options
                )
                self.assertEqual(result.code, code, result.err)
                faults = [line for line in result.lines() if not is_note(line)]
                self.assertEqual(len(faults), 1, result.err)
                for word in words:
                    self.assertIn(word, faults[0])


def is_note(line):
    """Notes of a run that went well as far as it went."""
    return any(
        word in line for word in (", loaded in ", "tokens/s", ": seed ", "tandem: seed ", "perplexity over")
    )


class Flags(Case):
    def test_every_command_refuses(self):
        for name, good in COMMANDS.items():
            self.check((name, *good, "--nonsense"), USAGE, "--nonsense", f"tandem {name} --help")
            self.check(
                (name, *good, "stray", "words"), USAGE, "stray" if name != "inspect" else "words", ranks=(0,)
            )
            self.check((name, *good[2:]), USAGE, "no model", ranks=(0, 3))
            self.check((name, "-m"), USAGE, "-m", ranks=(0,))

    def test_values(self):
        model_flags = (
            ("-t", "x"),
            ("-t", "-1"),
            ("-c", "1e3"),
            ("-b", "-1"),
            ("-b", "99999999999"),
            ("-ctk", "q3"),
            ("--backend", "tpu"),
            ("--tune", "always"),
            ("--split", "1,x"),
            ("--split", "0,0"),
            ("--split", "-1,2"),
        )
        for name in ("run", "chat", "bench", "perplexity", "logits"):
            for flag, value in model_flags:
                self.check((name, *COMMANDS[name], flag, value), USAGE, value, ranks=(0,))
        for flag, value in (
            ("--temp", "hot"),
            ("--temp", "-1"),
            ("--top-p", "1.5"),
            ("--top-k", "-1"),
            ("--min-p", "nan"),
            ("-s", "-2"),
            ("-l", "15043"),
            ("-l", "x+1"),
            ("-n", "many"),
        ):
            self.check(("run", *COMMANDS["run"], flag, value), USAGE, value, ranks=(0,))
        for flag, value in (
            ("-r", "0"), ("-o", "xml"), ("-p", "1,,2"), ("-n", "-1"), ("-np", "0"), ("-np", "257"),
            ("--comm", "peer,pigeon"), ("--comm", "peer,nccl"),
        ):
            self.check(("bench", "-m", MODEL, flag, value), USAGE, value, ranks=(0,))
        for value in ("1,,2", "x", "-1", "1,2,", "99999999999"):
            self.check(("logits", "-m", MODEL, "--tokens", value, "-o", "out.npy"), USAGE, value, ranks=(0,))
        self.check(("inspect", MODEL, "-np", "0"), USAGE, "0", ranks=(0,))
        self.assertEqual(os.listdir(self.folder), [])

    def test_wanting_and_contradicting(self):
        self.check(("run", "-m", MODEL), USAGE, "-p TEXT", "-f FILE")
        self.check(("run", "-m", MODEL, "-p", "a", "-f", MODEL), USAGE, "--prompt", "--file", ranks=(0,))
        self.check(("logits", *COMMANDS["logits"], "-p", "a"), USAGE, "--tokens", "--prompt", ranks=(0,))
        self.check(("inspect", MODEL, "-m", MODEL), USAGE, "FILE", "--model", ranks=(0,))
        self.check(("plan", MODEL, "--preset", "llama-3.1-8b"), USAGE, "FILE", "--preset", ranks=(0,))
        self.check(("perplexity", *COMMANDS["perplexity"], "-c", "2"), USAGE, "-c 2", ranks=(0,))
        self.check(("perplexity", *COMMANDS["perplexity"], "--chunks", "0"), USAGE, "--chunks", ranks=(0,))
        self.check(("tokenize", "-m", MODEL), USAGE, "-p TEXT", ranks=(0,))
        self.check(("logits", "-m", MODEL, "--tokens", "1"), USAGE, "--out")
        self.check(("run", *COMMANDS["run"], "-ctk", "f32"), USAGE, "--cache-type-v", ranks=(0,))
        self.check(("nonsense",), USAGE, "nonsense", "tandem --help", ranks=(0, 2))

    def test_ranks_and_shares(self):
        run = ("run", *COMMANDS["run"])
        self.check((*run, "--split", "1,2,3"), USAGE, "--split", "3 shares", "2 ranks", ranks=(2,))
        self.check((*run, "--split", "1,2"), USAGE, "--split", "2 shares", "1 rank", ranks=(0,))
        self.check(("inspect", MODEL, "-np", "3", "--split", "1,2"), USAGE, "--split", ranks=(0,))
        self.check(run, USAGE, "7 ranks", "at most 6", ranks=(7,))
        self.check(run, USAGE, "TANDEM_ISA=mmx", ranks=(0, 2), TANDEM_ISA="mmx")

    def test_same_code_on_every_rank(self):
        for arguments, code in (
            (("run", "--nonsense"), USAGE),
            (("run", *COMMANDS["run"], "--split", "1,2"), USAGE),
            (("run", "-m", self.path("none"), "-p", "hi"), IO),
            (("run", "-m", self.path("damaged", b"GGUF" + bytes(99)), "-p", "hi"), BAD_DATA),
            (("run", *COMMANDS["run"], "-p", "hi " * 600), USAGE),
        ):
            for ranks in (1, 2, 3, 4):
                if ranks == 2 and "--split" in arguments:
                    continue
                with self.subTest(arguments=arguments[:3], ranks=ranks):
                    codes, result = codes_of_ranks(ranks, *arguments)
                    self.assertEqual(codes, [code] * ranks, result.err)
                    self.assertEqual(
                        len([line for line in result.lines() if not is_note(line)]), 1, result.err
                    )


class Precedence(Case):
    """Flag before TANDEM_* variable before default."""

    def ids(self, *arguments, **env):
        result = tandem("tokenize", *arguments, **env)
        self.assertEqual(result.code, 0, result.err)
        return result.text

    def test_model_and_switch(self):
        other = golden_model("gemma3")
        by_default, by_other = (self.ids("-m", model, "-p", "the cat") for model in (MODEL, other))
        self.assertNotEqual(by_default, by_other)
        self.assertEqual(self.ids("-p", "the cat", TANDEM_MODEL=other), by_other)
        self.assertEqual(self.ids("-m", MODEL, "-p", "the cat", TANDEM_MODEL=other), by_default)
        self.assertEqual(self.ids("-m", MODEL, "-p", "the cat", TANDEM_FILE="/nowhere"), by_default)
        for command in ("inspect", "plan"):
            named, by_variable = (tandem(command, model, TANDEM_MODEL=other).out for model in (MODEL, other))
            self.assertEqual(named, tandem(command, "-m", MODEL).out)
            self.assertNotEqual(named, by_variable)
        plain = self.ids("-m", MODEL, "-p", "the cat", "--no-special")
        self.assertNotEqual(plain, by_default)
        self.assertEqual(self.ids("-m", MODEL, "-p", "the cat", TANDEM_NO_SPECIAL="1"), plain)
        self.assertEqual(self.ids("-m", MODEL, "-p", "the cat", TANDEM_NO_SPECIAL="off"), by_default)

    def test_numbers(self):
        def rows(*arguments, **env):
            result = tandem("bench", "-m", MODEL, "-o", "csv", "-q", *arguments, **env)
            self.assertEqual(result.code, 0, result.err)
            return result.text.count("\n") - 1

        short = {"TANDEM_N_PROMPT": "3,4", "TANDEM_N_GEN": "0", "TANDEM_REPETITIONS": "1"}
        self.assertEqual(rows(**short), 2)
        self.assertEqual(rows("-p", "5", **short), 1)
        self.assertEqual(rows("-p", "5", "-n", "2,3", **short), 3)

    def test_wrong_values(self):
        run = ("run", *COMMANDS["run"])
        self.check(run, USAGE, "TANDEM_TEMP=hot", TANDEM_TEMP="hot")
        self.check(run, USAGE, "TANDEM_CTX_SIZE=x", TANDEM_CTX_SIZE="x", ranks=(0,))
        self.assertEqual(
            tandem(*run, "-c", 64, TANDEM_CTX_SIZE="x").code, 0
        )  # the flag wins before it is read


class Files(Case):
    def test_missing_and_unreadable(self):
        for name, good in COMMANDS.items():
            rest = good[2:]
            missing = self.path("nowhere.gguf")
            self.check((name, "-m", missing, *rest), IO, missing, ranks=(0, 2))
            self.check((name, "-m", str(self.folder), *rest), IO, str(self.folder), ranks=(0,))
            self.check((name, "-m", "/dev/zero", *rest), IO, "/dev/zero", ranks=(0,))
        self.check(
            ("logits", "-m", "/proc/self/mem", "--tokens", "1", "-o", "out.npy"),
            BAD_DATA,
            "/proc/self/mem",
            ranks=(0, 2),
        )
        self.assertEqual(os.listdir(self.folder), [])

    def test_prompt_files(self):
        for path, words in (
            (self.path("nowhere.txt"), "No such file"),
            (str(self.folder), "directory"),
            ("/proc/self/mem", "Input/output error"),
        ):
            self.check(("run", "-m", MODEL, "-f", path, "-n", "2"), IO, path, words, ranks=(0, 2))
            self.check(("tokenize", "-m", MODEL, "-f", path), IO, path, words, ranks=(0,))
        template = self.path("nowhere.jinja")
        self.check(("run", *COMMANDS["run"], "--chat", "--chat-template-file", template), IO, template)

    def test_a_file_that_may_not_be_read(self):
        path = self.path("secret.gguf", pathlib.Path(MODEL).read_bytes())
        os.chmod(path, 0)
        if os.access(path, os.R_OK):
            self.skipTest("this user may read every file")
        self.check(("run", "-m", path, "-p", "hi"), IO, path, "Permission denied")

    def test_damaged(self):
        whole = pathlib.Path(MODEL).read_bytes()
        for n_bytes in (0, 3, 8, 23, 24, 500, 2000, len(whole) // 2, len(whole) - 1):
            path = self.path("cut.gguf", whole[:n_bytes])
            self.check(("logits", "-m", path, "--tokens", "1", "-o", "out.npy"), BAD_DATA, path, ranks=(0,))
        architecture = whole.index(b"llama")
        heads = whole.index(b"llama.attention.head_count") + len("llama.attention.head_count") + 4
        changes = {
            "magic": (0, b"GGUX", "magic"),
            "version": (4, struct.pack("<I", 77), "77"),
            "tensor count": (8, struct.pack("<Q", 1 << 60), "tensor"),
            "key count": (16, struct.pack("<Q", 1 << 60), ""),
            "key length": (24, struct.pack("<Q", 1 << 62), ""),
            "architecture": (architecture, b"llamx", "llamx"),
            "no heads": (heads, struct.pack("<I", 0), "llama.attention.head_count"),
            "too many heads": (heads, struct.pack("<I", 1 << 31), ""),
            "tensor name": (
                whole.index(b"blk.1.ffn_up.weight"),
                b"blk.1.ffn_op.weight",
                "blk.1.ffn_up.weight",
            ),
        }
        for what, (offset, content, word) in changes.items():
            path = self.path("changed.gguf", whole[:offset] + content + whole[offset + len(content) :])
            with self.subTest(what=what):
                self.check(
                    ("run", "-m", path, "-p", "hi", "-n", "1"),
                    BAD_DATA,
                    path,
                    word,
                    ranks=(0, 2, 3) if what == "architecture" else (0,),
                )

    def test_unknown_architecture_lists_the_known(self):
        whole = pathlib.Path(MODEL).read_bytes()
        path = self.path("other.gguf", whole.replace(b"llama", b"mamba", 1))
        self.check(("run", "-m", path, "-p", "hi"), BAD_DATA, "mamba", "llama", "qwen2", "gemma3")

    def test_not_a_number_in_the_weights(self):
        whole = bytearray(pathlib.Path(MODEL).read_bytes())
        n_floats = 48 + 48 * 272  # of the last norm and the head
        whole[-4 * n_floats :] = struct.pack("<f", float("nan")) * n_floats
        path = self.path("nan.gguf", bytes(whole))
        self.check(("run", "-m", path, "-p", "hi", "-n", "3"), BAD_DATA, "finite", ranks=(0, 2))


class Hostile(Case):
    """The crafted files of tests/support/hostile_gguf.h, written by make_gguf_seeds (the last argument)."""

    CPU_S, PEAK_MIB = 0.1, 64

    def cost(self, *arguments):
        """How a run ended, what it said, its processor seconds and its peak memory in MiB. (A child's peak
        begins with its parent's: that of this interpreter, some 25 MiB.)"""
        with tempfile.TemporaryFile() as err:
            child = subprocess.Popen(
                harness.launch(0, harness.program(), *arguments),
                stdout=subprocess.DEVNULL,
                stderr=err,
                env=harness.environment(str(self.folder)),
            )
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            err.seek(0)
            said = err.read().decode(errors="replace")
        return child.returncode, said, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024

    def test_every_file_is_refused_at_once(self):
        subprocess.run([_seed_maker, self.folder, "--all"], check=True)
        code, said, seconds, peak_mib = self.cost("inspect", self.folder / "good")
        self.assertEqual((code, said), (0, ""))
        self.assertGreater(peak_mib, 1)
        files = sorted(path for path in self.folder.iterdir() if not path.name.startswith(("good", "model_")))
        self.assertGreater(len(files), 30)
        for path in files:
            for command in (("inspect", path), ("run", "-m", path, "-p", "hi")):
                with self.subTest(command=command):
                    code, said, seconds, peak_mib = self.cost(*command)
                    if seconds >= self.CPU_S:  # a busy machine gets a second chance
                        seconds = self.cost(*command)[2]
                    self.assertEqual(code, BAD_DATA, said)
                    self.assertTrue(said.startswith(f"tandem: {path}: ") and said.count("\n") == 1, said)
                    self.assertLess(seconds, self.CPU_S)
                    self.assertLess(peak_mib, self.PEAK_MIB)

    def test_on_every_rank(self):
        subprocess.run([_seed_maker, self.folder], check=True)
        path = min(path for path in self.folder.iterdir() if not path.name.startswith(("good", "model_")))
        for ranks in (1, 2, 3, 4):
            codes, result = codes_of_ranks(ranks, "run", "-m", path, "-p", "hi")
            self.assertEqual(codes, [BAD_DATA] * ranks, result.err)


class Names(Case):
    """What a file calls itself, and where it lies, is shown and does no harm."""

    def named(self, name):
        """The model under another name of as many bytes."""
        content = pathlib.Path(MODEL).read_bytes()
        at = content.index(b"general.name") + len(b"general.name") + 4
        (n,) = struct.unpack_from("<Q", content, at)
        self.assertLessEqual(len(name), n)
        return self.path("named.gguf", content[: at + 8] + name.ljust(n, b"!") + content[at + 8 + n :])

    def test_control_characters_and_bytes_that_are_no_text(self):
        for name in (b"e\ntandem: \x1b[31mfine", b"mod\xe8le"):
            model = self.named(name[:4])
            for command in (
                ("run", "-p", "hi", "-n", 1), ("inspect",), ("inspect", "-np", 2), ("plan",), ("plan", "--json"),
                ("bench", "-p", 2, "-n", 0, "-r", 1, "-o", "json"),
            ):  # fmt: skip
                result = tandem(*command, "-m", model)
                self.assertEqual(result.code, 0, (command, result.err))
                self.assertNotRegex(result.out + result.err.encode(), rb"[\x00-\x09\x0b-\x1f]")
                self.assertLessEqual(len(result.lines()), 4, result.err)

    def test_paths(self):
        path = os.fsencode(self.folder) + b"/m\xe8\x1b.gguf"
        with open(path, "wb") as file:
            file.write(pathlib.Path(MODEL).read_bytes())
        for command in (("plan", "--json"), ("bench", "-p", 2, "-n", 0, "-r", 1, "-o", "json")):
            result = tandem(*command, "-m", os.fsdecode(path))
            self.assertEqual(result.code, 0, result.err)
            result.out.decode()
        result = tandem("run", "-p", "hi", "-c", "8", "-m", os.fsdecode(path) + ".none")
        self.assertEqual((result.code, len(result.lines())), (IO, 1), result.err)
        self.assertNotIn("\x1b", result.err)

    def test_outputs_whose_names_are_too_long(self):
        command = ("batch", "-m", MODEL, "--prompts", self.path("in", b"a\n"), "-o", "x" * 300)
        self.check(command, IO, "File name too long", ranks=(0,))


class Prompts(Case):
    def test_longer_than_the_context(self):
        self.check(
            ("run", *COMMANDS["run"], "-c", "4", "-p", "more than four"),
            USAGE,
            "context 4",
            "-c",
            ranks=(0, 1, 2, 3),
        )
        self.check(
            ("logits", "-m", MODEL, "--tokens", "1,2,3,4,5", "-c", "4", "-o", "out.npy"),
            USAGE,
            "context",
            ranks=(0, 2),
        )
        self.check(
            ("perplexity", "-m", MODEL, "-p", "short", "-c", "64"), USAGE, "one chunk needs 64", ranks=(0, 2)
        )
        self.assertEqual(os.listdir(self.folder), [])

    def test_tokens_outside_the_vocabulary(self):
        self.check(("logits", "-m", MODEL, "--tokens", "1,272", "-o", "out.npy"), USAGE, "272", ranks=(0, 2))
        self.assertEqual(os.listdir(self.folder), [])

    def test_empty(self):
        qwen = golden_model("qwen2")  # adds no BOS
        self.check(("run", "-m", qwen, "-p", ""), USAGE, "prompt is empty", ranks=(0, 2))


class Outputs(Case):
    def test_full_disk(self):
        with open("/dev/full", "wb") as full:
            for arguments in (
                *((name, *good) for name, good in COMMANDS.items() if name != "logits"),
                ("--version",),
                ("--help",),
                ("run", "--help"),
            ):
                for ranks in (
                    (0, 2) if arguments[0] in ("run", "perplexity", "bench") and len(arguments) > 2 else (0,)
                ):
                    with self.subTest(arguments=arguments, ranks=ranks):
                        # Under mpirun it is the launcher that writes to the disk; a shell on each rank comes
                        # before.
                        wrapper = ("sh", "-c", 'exec "$@" > /dev/full', "sh") if ranks else ()
                        result = tandem(
                            *arguments,
                            ranks=ranks,
                            stdout=full,
                            wrapper=wrapper,
                            limit_s=harness.START_LIMIT_S,
                        )
                        self.assertEqual(result.code, IO, result.err)
                        faults = [line for line in result.lines() if not is_note(line)]
                        self.assertEqual(
                            faults, ["tandem: can't write to standard output: No space left on device"]
                        )
        self.check(
            ("logits", *COMMANDS["logits"][:-1], "/dev/full"), IO, "/dev/full", "No space left", ranks=(0, 2)
        )

    def test_closed_pipe(self):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as broken:
            result = tandem("run", *COMMANDS["run"], stdout=broken)
        self.assertEqual(result.code, IO, result.err)

    def test_missing_folder(self):
        path = self.path("no/such/folder/out.npy")
        self.check(
            ("logits", *COMMANDS["logits"][:-1], path), IO, path, "No such file or directory", ranks=(0, 2, 3)
        )

    def test_no_partial_result(self):
        # A limit on the size of files stands for a full disk: 4 KiB, and the result would be 64 KiB.
        tokens = ",".join(["5"] * 60)
        wrapper = ("sh", "-c", 'ulimit -f 8; trap "" XFSZ; exec "$@"', "sh")
        result = tandem(
            "logits", "-m", MODEL, "--tokens", tokens, "-o", self.path("out.npy"), wrapper=wrapper
        )
        self.assertEqual(result.code, IO, result.err)
        self.assertEqual(len(result.lines()), 1, result.err)
        self.assertEqual(os.listdir(self.folder), [])

    def test_an_old_result_stays_until_the_new_one_is_whole(self):
        path = self.path("out.npy", b"old")
        self.check(("logits", "-m", MODEL, "--tokens", "1,2,999", "-o", path), USAGE, "999", ranks=(0,))
        self.assertEqual(pathlib.Path(path).read_bytes(), b"old")
        result = tandem("logits", "-m", MODEL, "--tokens", "1,2", "-o", path)
        self.assertEqual((result.code, harness.Npy(path).shape), (0, (2, 272)), result.err)


if __name__ == "__main__":
    _seed_maker = os.path.abspath(sys.argv.pop(1))
    harness.main()
