"""bench/scaling: a real run of a tiny model on 1, 2, 3 and 4 ranks of CPU makes every file, its numbers follow from
what tandem printed, plots come from an existing JSON too, and what can't be used is refused."""

import csv
import importlib.machinery
import importlib.util
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bench" / "scaling"
MODEL = ROOT / "tests" / "golden" / "hf" / "llama.gguf"
TANDEM = pathlib.Path(os.environ.get("TANDEM_TEST_BINARY_DIR", ROOT / "build" / "cpu")) / "tandem"
PLOTS = ("speed", "time", "roofline", "depth", "batch")
sys.dont_write_bytecode = True


def load_script():
    loader = importlib.machinery.SourceFileLoader("scaling", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("scaling", loader))
    loader.exec_module(module)
    return module


def scaling(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class RealRun(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.base = pathlib.Path(scratch.name) / "new" / "tiny"
        cls.done = scaling(
            "-m", MODEL, "--tandem", TANDEM, "--ranks", "1,2,3,4", "--split", "2,1", "-p", 16, "-n", 6,
            "--depths", "0,32", "--parallel", "1,3", "--batch-prompt", 8, "-r", 2, "-o", cls.base
        )
        if cls.done.returncode != 0:
            raise AssertionError(cls.done.stderr)
        cls.found = json.loads(cls.base.with_name("tiny.json").read_text())

    def test_files(self):
        for name in PLOTS:
            png = self.base.with_name(f"tiny-{name}.png").read_bytes()
            self.assertEqual(png[:8], b"\x89PNG\r\n\x1a\n")
            self.assertGreater(len(png), 10000)
            self.assertIn("</svg>", self.base.with_name(f"tiny-{name}.svg").read_text())
        for name, words in (("speed", ("ideal", "split 2,1")), ("time", ("compute", "communication")),
                            ("roofline", ("memory: read sweep",))):
            text = self.base.with_name(f"tiny-{name}.svg").read_text()
            for word in words:
                self.assertIn(word, text)

    def test_every_configuration_and_test(self):
        tests = {(16, 0, 0, 1), (0, 6, 0, 1), (0, 6, 32, 1), (8, 0, 0, 3), (0, 6, 8, 3)}
        points = {}
        for p in self.found["points"]:
            key = (p["ranks"], p["split"])
            points.setdefault(key, set()).add((p["n_prompt"], p["n_gen"], p["n_depth"], p["n_parallel"]))
        self.assertEqual(set(points), {(1, None), (2, None), (3, None), (4, None), (2, "2,1")})
        for found in points.values():
            self.assertEqual(found, tests)
        machine = self.found["machine"]
        self.assertTrue(machine["cpu"] and machine["mpi"] and machine["host"] and self.found["commit"])
        self.assertEqual(self.found["model"]["bytes"], MODEL.stat().st_size)

    def test_numbers_follow_from_the_runs(self):
        """Each point again from the rows beside it, by the definition."""
        test = ("n_prompt", "n_gen", "n_depth", "n_parallel")

        def median_ms(point):
            samples = []
            for run in self.found["runs"]:
                if (run["ranks"], run["split"]) != (point["ranks"], point["split"]):
                    continue
                for row in run["rows"]:
                    if all(row[name] == point[name] for name in test):
                        samples += row["samples_ns"]
            return statistics.median(samples) / 1e6

        for p in self.found["points"]:
            with self.subTest(ranks=p["ranks"], split=p["split"], prompt=p["n_prompt"], depth=p["n_depth"]):
                alone = median_ms({**p, "ranks": 1, "split": None})
                self.assertEqual(p["n_samples"], 2)
                tokens = (p["n_prompt"] + p["n_gen"]) * p["n_parallel"]
                self.assertAlmostEqual(p["ts"] * median_ms(p) / 1e3 / tokens, 1, 9)
                self.assertAlmostEqual(p["speedup"] * median_ms(p) / alone, 1, 9)
                self.assertAlmostEqual(p["efficiency"] * p["ranks"] / p["speedup"], 1, 9)
                self.assertAlmostEqual((p["compute_ms"] + p["collective_ms"]) / p["ms"], 1, 9)
                self.assertTrue(0 <= p["collective_share"] < 1, p["collective_share"])
                if p["ranks"] == 1:
                    self.assertEqual((p["efficiency"], p["collective_share"]), (1, 0))
                else:
                    self.assertGreater(p["collective_share"], 0)
                self.assertEqual(p["n_gen"] > 0, p["sweep_percent"] is not None)
                self.assertTrue(all(math.isfinite(v) for v in p.values() if isinstance(v, float)))

    def test_csv_is_the_points(self):
        rows = list(csv.DictReader(self.base.with_name("tiny.csv").open()))
        self.assertEqual(len(rows), len(self.found["points"]))
        for row, point in zip(rows, self.found["points"]):
            self.assertEqual(list(row), list(point))
            self.assertEqual(row["split"], point["split"] or "")
            self.assertAlmostEqual(float(row["ts"]), point["ts"])
        self.assertIn("efficiency", self.done.stdout)

    def test_plots_of_an_existing_file(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "copy.json"
            copy.write_text(json.dumps(self.found))
            done = scaling("--plot-only", copy)
            self.assertEqual(done.returncode, 0, done.stderr)
            names = {path.name for path in pathlib.Path(folder).iterdir()}
            self.assertEqual(names, {"copy.json"} | {f"copy-{n}.{s}" for n in PLOTS for s in ("png", "svg")})


class Arithmetic(unittest.TestCase):
    ROW = {"n_prompt": 0, "n_gen": 4, "n_depth": 0, "n_parallel": 1, "comm": None, "backends": "CPU", "n_threads": 2,
           "collective_share": 0.25, "weight_bytes_step": 1_000_000, "sweep_gbps": 10.0}

    def points(self, *runs, n_cores=4):
        rows = [{"ranks": n, "split": None, "rows": [{**self.ROW, **row}]} for n, row in runs]
        return load_script().points_of(rows, n_cores)

    def test_rounds_are_pooled(self):
        one, two = self.points((1, {"samples_ns": [4e6, 8e6]}), (2, {"samples_ns": [2e6, 4e6]}),
                               (1, {"samples_ns": [6e6]}), (2, {"samples_ns": [5e6], "collective_share": 0.5}))
        self.assertEqual((one["ms"], two["ms"]), (6, 4))
        self.assertEqual((two["speedup"], two["efficiency"]), (1.5, 0.75))
        self.assertEqual((two["collective_share"], two["collective_ms"], two["compute_ms"]), (0.375, 1.5, 2.5))
        # 4 steps of 1 MB in 6 ms are 0.667 GB/s, of 10.
        self.assertAlmostEqual(one["sweep_percent"], 6.6667, 3)
        self.assertAlmostEqual(one["ts"], 4 / 6e-3)

    def test_without_one_rank_nothing_is_claimed(self):
        (two,) = self.points((2, {"samples_ns": [2e6]}))
        self.assertEqual((two["speedup"], two["efficiency"]), (None, None))

    def test_more_threads_than_cores(self):
        for n_cores, expected in ((4, [False, False]), (3, [False, True])):
            found = self.points((1, {"samples_ns": [1]}), (2, {"samples_ns": [1]}), n_cores=n_cores)
            self.assertEqual([p["oversubscribed"] for p in found], expected)


class Refused(unittest.TestCase):
    def test_arguments(self):
        for arguments, says in (((), "give -m MODEL"), (("-m", MODEL, "-o", "x", "--ranks", "0"), "not a list"),
                                (("-m", MODEL, "-o", "x", "--ranks", "1,two"), "not a list")):
            done = scaling(*arguments)
            self.assertEqual(done.returncode, 2)
            self.assertIn(says, done.stderr)

    def test_a_run_that_fails(self):
        with tempfile.TemporaryDirectory() as folder:
            done = scaling("-m", "nowhere.gguf", "--tandem", TANDEM, "--ranks", "1", "-o", f"{folder}/x")
            self.assertEqual(done.returncode, 1)
            self.assertIn("nowhere.gguf", done.stderr)
            self.assertEqual(os.listdir(folder), [])

    def test_a_document_of_another_kind(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x.json"
            path.write_text("{}")
            done = scaling("--plot-only", path)
            self.assertEqual(done.returncode, 1)
            self.assertIn("not a document of bench/scaling", done.stderr)
            self.assertEqual(os.listdir(folder), ["x.json"])


if __name__ == "__main__":
    unittest.main()
