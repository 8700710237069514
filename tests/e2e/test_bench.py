"""What `tandem bench` prints: rows in every form, their arithmetic, and on GPUs the ways to exchange."""

import csv
import io
import json
import os
import pathlib
import re
import statistics
import tempfile
import unittest

import harness
from harness import checked, golden_model, tandem


class Tables(unittest.TestCase):
    ARGUMENTS = ("bench", "-m", golden_model(), "-p", "16,8", "-n", "4", "-d", "0,8", "-r", "3", "-q")
    TESTS = [(16, 0, 0), (8, 0, 0), (0, 4, 0), (16, 0, 8), (8, 0, 8), (0, 4, 8)]

    def test_json(self):
        for ranks in (0, 2):
            result = checked(*self.ARGUMENTS, "-o", "json", "-t", 1, ranks=ranks)
            rows = json.loads(result.text)
            self.assertEqual([(row["n_prompt"], row["n_gen"], row["n_depth"]) for row in rows], self.TESTS)
            for row in rows:
                self.assertEqual((row["n_ranks"], row["n_threads"], row["n_batch"]), (max(1, ranks), 1, 512))
                self.assertTrue(row["deterministic"])  # a CPU always is
                self.assertEqual(row["model_filename"], golden_model())
                self.assertEqual(row["model_size"], os.path.getsize(golden_model()))
                self.assertEqual((len(row["samples_ns"]), len(row["samples_ts"])), (3, 3))
                n_tokens = row["n_prompt"] + row["n_gen"]
                for ns, ts in zip(row["samples_ns"], row["samples_ts"]):
                    self.assertAlmostEqual(n_tokens / (ns / 1e9) / ts, 1, 2)
                self.assertAlmostEqual(row["avg_ts"], statistics.mean(row["samples_ts"]), 3)
                self.assertAlmostEqual(
                    row["stddev_ts"] / max(1e-9, statistics.stdev(row["samples_ts"])), 1, 6
                )
                self.assertAlmostEqual(row["avg_ns"] / statistics.mean(row["samples_ns"]), 1, 3)
            self.assertEqual(result.err.count("tandem:"), 0, result.err)

    def test_csv(self):
        rows = list(csv.DictReader(io.StringIO(checked(*self.ARGUMENTS, "-o", "csv").text)))
        self.assertEqual(
            [(int(row["n_prompt"]), int(row["n_gen"]), int(row["n_depth"])) for row in rows], self.TESTS
        )
        for row in rows:
            self.assertGreater(float(row["avg_ts"]), 0)
            self.assertGreaterEqual(float(row["stddev_ts"]), 0)
            self.assertNotIn(None, row)

    def test_markdown(self):
        lines = checked(*self.ARGUMENTS).text.splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        self.assertEqual(cells[0][-5:], ["test", "t/s", "MB/token", "% of sweep", "us/layer"])
        self.assertTrue(all(set(cell) <= set("-:") for cell in cells[1]))
        self.assertEqual(
            [row[-5] for row in cells[2:]], ["pp16", "pp8", "tg4", "pp16 @ d8", "pp8 @ d8", "tg4 @ d8"]
        )
        for row in cells[2:]:
            self.assertRegex(row[-4], r"^\d+\.\d\d ± +\d+\.\d\d$")
            self.assertEqual(len(row), len(cells[0]))
            self.assertEqual(row[-1] == "-", row[-5].startswith("pp"))

    def test_several_sequences(self):
        """Prompts of all of them, then generation behind those prompts."""
        arguments = ("bench", "-m", golden_model(), "-p", 8, "-n", "4,6", "-np", "1,3", "-r", 2, "-q")
        for ranks in (0, 2):
            rows = json.loads(checked(*arguments, "-o", "json", ranks=ranks).text)
            found = [(r["n_parallel"], r["n_prompt"], r["n_gen"], r["n_depth"]) for r in rows]
            self.assertEqual(
                found, [(1, 8, 0, 0), (1, 0, 4, 0), (1, 0, 6, 0), (3, 8, 0, 0), (3, 0, 4, 8), (3, 0, 6, 8)]
            )
            for row in rows:
                n_tokens = (row["n_prompt"] + row["n_gen"]) * row["n_parallel"]
                for ns, ts in zip(row["samples_ns"], row["samples_ts"]):
                    self.assertAlmostEqual(n_tokens / (ns / 1e9) / ts, 1, 2)

    def test_exchanges_and_one_rank(self):
        arguments = ("bench", "-m", golden_model(), "-p", 16, "-n", 8, "-r", 2, "-t", 1, "-q", "--breakdown")
        with tempfile.TemporaryDirectory() as folder:
            alone = pathlib.Path(folder) / "one.json"
            alone.write_text(checked(*arguments, "-o", "json").text)
            one = json.loads(alone.read_text())
            two = json.loads(checked(*arguments, "-o", "json", "--baseline", alone, ranks=2).text)
            head = checked(*arguments, "--baseline", alone, ranks=2).text.splitlines()[0]
        for name in ("kernels", "exchange", "exchange %", "speedup", "efficiency"):
            self.assertIn(f" {name} |", head)
        self.assertEqual({row["breakdown_by"] for row in one}, {"alone"})
        self.assertEqual({row["collective_share"] for row in one}, {0})
        for row, before in zip(two, one):
            self.assertEqual(row["breakdown_by"], "waits")
            self.assertTrue(0 < row["collective_share"] < 1, row)
            self.assertAlmostEqual(row["baseline_ts"], before["avg_ts"])
            self.assertAlmostEqual(row["speedup"], row["avg_ts"] / before["avg_ts"])
            self.assertAlmostEqual(row["tp_efficiency"], row["speedup"] / 2)
        us = two[1]["kernel_us_per_layer"] + two[1]["collective_us_per_layer"]
        self.assertAlmostEqual(us / two[1]["us_per_layer"], 1, 6)
        self.assertAlmostEqual(two[1]["us_per_layer"] * 8 * two[1]["n_layers"] * 1e3 / two[1]["avg_ns"], 1, 3)

    def test_weights_of_a_token(self):
        """Against the file's own sizes: all matrices once, one row of the table, the chosen experts of each
        layer. These files are F32, whose layout adds only rows that fill a panel of 16."""
        for name in ("llama", "llama-tied-llama3", "mixtral", "gemma3"):
            text = checked("inspect", golden_model(name)).text.partition("\nTENSOR")[2]
            found = re.findall(r"^(\S+) +\d[\d ×]*? +[A-Z]\w* +[\d.]+ +(\d+) ", text, re.M)
            sizes = {tensor: int(size) for tensor, size in found}
            used, n_experts = (2, 4) if name == "mixtral" else (1, 1)
            expected = sum(
                size * used / n_experts if "_exps" in tensor else size
                for tensor, size in sizes.items()
                if tensor not in ("token_embd.weight", "rope_freqs.weight")
            )
            if "output.weight" not in sizes:
                expected += sizes["token_embd.weight"]
            for ranks in (0, 2):
                command = ("bench", "-m", golden_model(name), "-p", 0, "-n", 2, "-r", 1, "-q", "-o", "json")
                row = json.loads(checked(*command, ranks=ranks).text)[0]
                with self.subTest(model=name, ranks=ranks):
                    self.assertTrue(1 <= row["weight_bytes_token"] / expected < 1.25, (row, expected))
                    gbps = row["weight_bytes_token"] * 2 / row["avg_ns"]
                    self.assertAlmostEqual(row["weight_gbps"] / gbps, 1, 3)
                    self.assertAlmostEqual(row["sweep_percent"] / (100 * gbps / row["sweep_gbps"]), 1, 3)


class Gpus(unittest.TestCase):
    """On two GPUs, from one loading: every way to exchange, and the steps without."""

    def test_ways_and_breakdown(self):
        arguments = ("bench", "-m", golden_model(), "--backend", "cuda", "-p", 16, "-n", 8, "-r", 2, "-q")
        more = ("--breakdown", "-o", "json", "-np", "1,3")
        rows = json.loads(checked(*arguments, *more, "--comm", "nccl,mpi,auto", ranks=2).text)
        self.assertEqual([row["comm"] for row in rows][:8], ["nccl"] * 4 + ["mpi"] * 4)
        self.assertIn(rows[-1]["comm"], ("peer", "nccl"))
        for row in rows:
            self.assertEqual((row["breakdown_by"], row["backends"]), ("silence", "CUDA"))
            self.assertTrue(0 <= row["collective_share"] < 1, row)
            self.assertTrue(row["gpu_info"])
            self.assertGreater(row["sweep_gbps"], 100)
            self.assertLessEqual(set(row["road"].split("+")), {"gemv", "batch", "unpacked"})
        # By way of the host an exchange takes tens of microseconds, beside kernels of a few.
        mpi = next(row for row in rows if row["comm"] == "mpi" and row["n_gen"] > 0 and row["n_parallel"] == 1)
        self.assertGreater(mpi["collective_share"], 0.2)

    def test_a_list_for_one_rank(self):
        result = tandem("bench", "-m", golden_model(), "--backend", "cuda", "--comm", "nccl,mpi", "-q")
        self.assertEqual(result.code, 64)
        self.assertIn("there is one rank", result.err)


if __name__ == "__main__":
    harness.main()
