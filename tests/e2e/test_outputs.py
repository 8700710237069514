"""What the commands print and write: inspect's shards, token ids, perplexity against one that is computed here
from logits, the bytes read and the memory held, and nothing else written anywhere."""

import csv
import io
import json
import math
import os
import pathlib
import re
import statistics
import tempfile
import unittest

import harness
from harness import checked, golden_model, logits, real_model, tandem, token_ids

MIB = 1 << 20


class Ranks(unittest.TestCase):
    """Every command on 1, 2, 3 and 4 ranks says what it says without a launcher."""

    MODEL = golden_model()
    COMMANDS = (
        ("run", "-m", MODEL, "-p", "one two", "-n", 12, "--temp", 0),
        ("run", "-m", MODEL, "-p", "one two", "-n", 12, "--temp", 1, "--seed", 5, "--split", "{split}"),
        ("perplexity", "-m", MODEL, "-p", "a text of some length, and of some more", "-c", 8),
        ("tokenize", "-m", MODEL, "-p", "the cat"),
        ("inspect", MODEL, "-np", 3),
        ("--version",),
        ("--help",),
    )

    def check(self, out_of):
        alone = out_of(0)
        self.assertGreater(len(alone), 8)
        for ranks in (1, 2, 3, 4):
            with self.subTest(ranks=ranks):
                self.assertEqual(out_of(ranks), alone)

    def test_texts(self):
        for command in self.COMMANDS:
            with self.subTest(command=command):

                def out(ranks):
                    split = ",".join(["2"] + ["1"] * (ranks - 1))
                    return checked(*(split if word == "{split}" else word for word in command), ranks=ranks).out

                self.check(out)

    def test_chat(self):
        def out(ranks):
            command = ("chat", "-m", self.MODEL, "--temp", 0, "-n", 5, "--ignore-eos")
            result = checked(*command, stdin=b"hello\nagain\n", ranks=ranks)
            self.assertEqual(result.err.count("generated 5 tokens"), 2, result.err)
            return result.out

        self.check(out)

    def test_logits(self):
        self.check(lambda ranks: logits("-m", self.MODEL, "--tokens", "1,2,3,4,5", ranks=ranks).bytes)

    def test_bench(self):
        for form in ("md", "csv", "json"):

            def shape(ranks):
                out = checked(
                    "bench", "-m", self.MODEL, "-p", "8,16", "-n", 4, "-r", 2, "-t", 1, "-o", form, ranks=ranks
                ).text
                if form == "json":
                    rows = json.loads(out)
                    self.assertEqual({row["n_ranks"] for row in rows}, {max(1, ranks)})
                    return str([(row["n_prompt"], row["n_gen"], sorted(row)) for row in rows])
                if form == "csv":
                    rows = list(csv.DictReader(io.StringIO(out)))
                    self.assertEqual({row["n_ranks"] for row in rows}, {str(max(1, ranks))})
                    return str([(row["n_prompt"], row["n_gen"], list(row)) for row in rows])
                rows = [[cell.strip() for cell in line.split("|")] for line in out.splitlines()]
                self.assertEqual({row[rows[0].index("ranks")] for row in rows[2:]}, {str(max(1, ranks))})
                return str([row[rows[0].index("test")] for row in rows])

            with self.subTest(form=form):
                self.check(shape)


class Inspect(unittest.TestCase):
    def read_shards(self, model, arguments, n_ranks):
        """Every tensor's bytes and dimensions, the shard map's line of each, and the ranks' sums."""
        text = checked("inspect", model, *arguments).text
        table = text.partition("\nTENSOR")[2].partition("\nTYPE")[0]
        tensors = {
            name: (int(size), [int(n) for n in shape.split("×")])
            for name, shape, size in re.findall(
                r"^(\S+) +(\d[\d ×]*?) +[A-Z]\w* +[\d.]+ +(\d+) ", table, re.M
            )
        }
        shard_map = text.partition("\ntensor ")[2].splitlines()
        sums = [int(word) for word in re.findall(r"(\d+) bytes", shard_map[-1])]
        self.assertEqual(len(sums), n_ranks, text)
        lines = {line.split()[0]: line for line in shard_map[1:-1]}
        self.assertEqual(list(lines), list(tensors))
        return tensors, lines, sums

    def check_line(self, line, dimensions):
        """The parts of a tensor that is split reach from its begin to its end without a gap."""
        kind = line.split()[1]
        self.assertIn(kind, ("replicated", "row-split", "column-split"))
        parts = [(int(a), int(b)) for a, b in re.findall(r"(\d+)-(\d+) \(", line)]
        if kind == "replicated":
            self.assertEqual(parts, [], line)
            return
        self.assertEqual(parts[0][0], 0, line)
        for (_, end), (begin, _) in zip(parts, parts[1:]):
            self.assertLessEqual(begin, end, line)
        along = 0 if kind == "row-split" or len(dimensions) == 1 else 1
        self.assertEqual(parts[-1][1], dimensions[along], line)

    def test_shards_tile_the_tensors(self):
        for name in harness.golden_models():
            whole = None
            for arguments, n_ranks in (
                (("-np", 1), 1),
                (("-np", 2), 2),
                (("-np", 3), 3),
                (("--split", "2,1"), 2),
                (("--split", "1,0,3"), 3),
            ):
                with self.subTest(model=name, arguments=arguments):
                    tensors, lines, sums = self.read_shards(golden_model(name), arguments, n_ranks)
                    n_bytes = sum(size for size, _ in tensors.values())
                    if n_ranks == 1:
                        whole = n_bytes
                        self.assertEqual(sums, [n_bytes])
                    # What all ranks hold, and a KV head that two of them need, count for each.
                    self.assertEqual(n_bytes, whole)
                    self.assertTrue(n_bytes <= sum(sums) <= n_ranks * n_bytes, sums)
                    for tensor, line in lines.items():
                        self.check_line(line, tensors[tensor][1])

    def test_even_split_of_a_real_model(self):
        model = real_model()
        tensors, _, sums = self.read_shards(model, ("-np", 2), 2)
        n_bytes = sum(size for size, _ in tensors.values())
        header = os.path.getsize(model) - n_bytes
        self.assertTrue(0 < header < 4 * MIB, header)
        self.assertLess(max(sums) / n_bytes, 0.56)
        # The loader cuts as inspect says: it reports the same bytes a rank, packed, within a few per cent.
        result = checked("run", "-m", model, "-p", "a", "-n", 1, "-v", ranks=2)
        held = [float(word) for word in re.findall(r"weights ([\d.]+) MiB", result.err)]
        self.assertEqual(len(held), 2, result.err)
        for mine, planned in zip(held, sums):
            self.assertTrue(0.9 < mine * MIB / planned < 1.15, (held, sums))


class Tokenize(unittest.TestCase):
    def test_vocabulary_only(self):
        # The same file without its tensors: the header says 0 of them and the file ends where their names
        # began.
        whole = pathlib.Path(golden_model()).read_bytes()
        first = whole.index(b"token_embd.weight") - 8
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            file.write(whole[:8] + bytes(8) + whole[16:first])
            file.flush()
            for text in ("Hello the world", "", "<|im_start|>x"):
                self.assertEqual(token_ids(file.name, text), token_ids(golden_model(), text))
                self.assertEqual(
                    token_ids(file.name, text, "--no-special"),
                    token_ids(golden_model(), text, "--no-special"),
                )
            refused = tandem("run", "-m", file.name, "-p", "hi")
            self.assertEqual((refused.code, len(refused.lines())), (65, 1), refused.err)

    def test_special_tokens(self):
        with_bos, plain = (token_ids(golden_model(), "ab", *more) for more in ((), ("--no-special",)))
        self.assertEqual((with_bos[1:], plain), (plain, [97, 98]))
        self.assertEqual(len(token_ids(golden_model(), "<|im_start|>")), 2)
        self.assertGreater(len(token_ids(golden_model(), "<|im_start|>", "--no-special")), 5)

    def test_json_from_a_file_on_any_ranks(self):
        text = "Q日Q\nZ\n\n".encode()
        with tempfile.NamedTemporaryFile() as file:
            file.write(text)
            file.flush()
            out = {
                checked("tokenize", "-m", golden_model(), "-f", file.name, "--no-special", ranks=ranks).text
                for ranks in (0, 2)
            }
        self.assertEqual(len(out), 1)
        # One newline at a file's end is its editor's. The vocabulary's first 256 ids are the bytes.
        self.assertEqual(bytes(json.loads(out.pop())), text[:-1])


def perplexity_of(rows, tokens, first):
    """Perplexity and its standard error, of the tokens behind positions first … n-2."""
    losses = []
    for i in range(first, len(tokens) - 1):
        row = rows.row(i)
        top = max(row)
        losses.append(top + math.log(math.fsum(math.exp(x - top) for x in row)) - row[tokens[i + 1]])
    return losses


class Perplexity(unittest.TestCase):
    def check(self, model, text, n_context, n_chunks, *arguments, **options):
        result = checked(
            "perplexity",
            "-m",
            model,
            "-p",
            text,
            "-c",
            n_context,
            "--chunks",
            n_chunks,
            *arguments,
            **options,
        )
        found = re.fullmatch(
            r"((?:\[\d+\][\d.]+,)+)\nFinal estimate: PPL = ([\d.]+) \+/- ([\d.]+)\n", result.text
        )
        self.assertIsNotNone(found, result.text)
        ids, losses, so_far = token_ids(model, text), [], []
        bos = ids[0] if ids != token_ids(model, text, "--no-special") else None
        for chunk in range(n_chunks):
            part = ids[chunk * n_context : (chunk + 1) * n_context]
            if bos is not None:
                part[0] = bos
            rows = logits("-m", model, "--tokens", ",".join(map(str, part)))
            losses += perplexity_of(rows, part, n_context // 2)
            so_far.append(math.exp(statistics.fmean(losses)))
        printed = [float(word) for word in re.findall(r"\](\d+\.\d{4}),", found[1])]
        self.assertEqual(len(printed), n_chunks)
        for mine, theirs in zip(so_far, printed):
            self.assertAlmostEqual(theirs / mine, 1, 5)
        self.assertAlmostEqual(float(found[2]) / so_far[-1], 1, 5)
        error = so_far[-1] * statistics.pstdev(losses) / math.sqrt(len(losses) - 1)
        self.assertAlmostEqual(float(found[3]) / error, 1, 3)
        return result.text

    def test_tiny(self):
        text = (harness.ROOT / "LICENSE").read_text()[:2000]
        for name in ("llama", "qwen2", "gemma3"):
            with self.subTest(model=name):
                one = self.check(golden_model(name), text, 64, 3)
                self.assertEqual(self.check(golden_model(name), text, 64, 3, "-b", 5, ranks=2), one)

    def test_as_llama_perplexity(self):
        # What llama.cpp's llama-perplexity (October 2026) says of the same file, text and chunks.
        for name, theirs in (
            ("SmolLM2-135M-Instruct.Q4_1.gguf", 12.932),
            ("gemma-3-270m-q4_k_m.gguf", 14.420),
        ):
            with self.subTest(model=name):
                prose = harness.ROOT / "tests" / "data" / "prose.txt"
                text = checked("perplexity", "-m", real_model(name), "-f", prose, "-c", 512, ranks=2).text
                mine = float(re.search(r"PPL = ([0-9.]+)", text)[1])
                self.assertLess(abs(mine / theirs - 1), 0.005)

    def test_real(self):
        text = (harness.ROOT / "LICENSE").read_text()[:2000]
        line = self.check(real_model(), text, 48, 2, ranks=2)
        self.assertLess(
            float(re.search("PPL = ([0-9.]+)", line)[1]), 30
        )  # a known text, and a model that knows it


class Footprint(unittest.TestCase):
    """What a job leaves, reads and holds."""

    def test_nothing_is_written_elsewhere(self):
        for ranks in (0, 2, 3):
            for arguments in (
                ("logits", "-m", golden_model(), "--tokens", "1,2", "-o", "{folder}/out/named.npy"),
                ("chat", "-m", golden_model(), "-n", 3),
                ("run", "-m", golden_model(), "-p", "hi", "-n", 3),
                ("bench", "-m", golden_model(), "-p", 4, "-n", 2, "-r", 1),
                ("perplexity", "-m", golden_model(), "-p", "a text of some length", "-c", 8),
                ("inspect", golden_model()),
                ("tokenize", "-m", golden_model(), "-p", "hi"),
                ("--version",),
            ):
                with self.subTest(arguments=arguments, ranks=ranks), tempfile.TemporaryDirectory() as folder:
                    for name in ("cwd", "tmp", "home", "out"):
                        os.mkdir(f"{folder}/{name}")
                    shared = set(os.listdir("/dev/shm"))
                    checked(
                        *(str(word).replace("{folder}", folder) for word in arguments),
                        ranks=ranks,
                        cwd=f"{folder}/cwd",
                        HOME=f"{folder}/home",
                        XDG_CACHE_HOME=None,
                        TMPDIR=f"{folder}/tmp",
                        OMPI_MCA_btl_vader_backing_directory=f"{folder}/tmp",
                    )
                    left = [
                        os.path.join(*where)
                        for where in ((at, name) for at, _, names in os.walk(folder) for name in names)
                    ]
                    named = [f"{folder}/out/named.npy"] if arguments[0] == "logits" else []
                    kept = f"{folder}/home/.cache/tandem/roads-"  # of GPUs, see --tune
                    mine = [path for path in left if "/ompi." not in path and not path.startswith(kept)]
                    self.assertEqual(mine, named)
                    mine = [name for name in set(os.listdir("/dev/shm")) - shared if "tandem" in name]
                    self.assertEqual(mine, [])

    def test_read_only_folder(self):
        # /proc takes no files, not even root's.
        for ranks in (0, 2):
            checked("run", "-m", golden_model(), "-p", "hi", "-n", 3, ranks=ranks, cwd="/proc", HOME=None)

    def decoding(self, ranks, *arguments):
        """A job that has loaded, computed its prompt and generates."""
        command = harness.launch(
            ranks,
            harness.program(),
            "run",
            "-m",
            real_model(),
            "-n",
            -1,
            "--ignore-eos",
            "-v",
            "--temp",
            0,
            *arguments,
        )
        job = harness.Job(command)
        self.addCleanup(job.__exit__)
        job.wait_for_ranks(max(1, ranks))
        job.wait_for(lambda: len(job.stdout()) > 40, "text", 150)
        return job

    def test_each_byte_is_read_once(self):
        model = real_model()
        tensors = sum(
            int(n)
            for n in re.findall(r"^total +\d+ +\d+ +[\d.]+ +(\d+)", checked("inspect", model).text, re.M)
        )
        self.assertTrue(0.9 * os.path.getsize(model) < tensors < os.path.getsize(model))
        for ranks in (0, 1, 2, 3, 4):
            with self.subTest(ranks=ranks):
                job = self.decoding(ranks, "-p", "Once upon a time")
                reads = re.findall(r"read ([\d.]+) MiB of the file's ([\d.]+) in (\d+) runs", job.stderr())
                self.assertEqual(len(reads), max(1, ranks), job.stderr())
                self.assertAlmostEqual(
                    sum(float(mine) for mine, _, _ in reads), tensors / MIB, delta=0.06 * len(reads)
                )
                for _, total, n_runs in reads:
                    self.assertAlmostEqual(float(total), tensors / MIB, delta=0.06)
                    self.assertLess(int(n_runs), 40)
                # And as the kernel counted it: reads through system calls, libraries and headers included.
                kernel = sum(
                    int(re.search(r"rchar: (\d+)", pathlib.Path(f"/proc/{pid}/io").read_text())[1])
                    for pid in job.pids
                )
                self.assertLess(kernel, tensors + 16 * MIB * len(job.pids))

    def test_private_memory(self):
        model = real_model()
        n_context = 4096
        cache = 30 * 2 * 3 * 64 * 2 * n_context  # layers · (K, V) · KV heads · head size · f16 · positions
        for ranks in (0, 1, 2, 3, 4):
            with self.subTest(ranks=ranks):
                job = self.decoding(ranks, "-c", n_context, "-f", harness.ROOT / "LICENSE")
                private = []
                for pid in job.pids:
                    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
                    private.append(
                        1024 * sum(int(n) for n in re.findall(r"^Private_\w+: +(\d+) kB", text, re.M))
                    )
                limit = 1.15 * (os.path.getsize(model) + cache) + 60 * MIB * len(private)
                self.assertLess(sum(private), limit, [n // MIB for n in private])
                print(f"{ranks} ranks: {[n // MIB for n in private]} MiB private, limit {limit / MIB:.0f}")


if __name__ == "__main__":
    harness.main()
