"""scripts/gpu_check without a GPU: each of its judges accepts what is right and rejects what is not, and a
command that hangs, fails or says nothing is told as what it is. Programs are stand-ins of a few lines."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "gpu"))
import jobs  # noqa: E402
import kernels  # noqa: E402
import logits  # noqa: E402
import suite as suites  # noqa: E402
from suite import Check, Failed, Skipped  # noqa: E402

GTEST = (
    "#!/bin/sh\necho '[  PASSED  ] {} tests.'\n[ {} = 0 ] || echo '[  SKIPPED ] {} tests, listed below:'\n"
)


class WithSuite(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.program("tandem", "#!/bin/sh\nexit 0\n")

    def program(self, name, text):
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def suite(self, seconds=60):
        gpus = suites.Gpus(pretended=True)
        suite = suites.Suite(suites.Programs(self.folder / "bin"), gpus, self.folder / "out", seconds)
        self.addCleanup(suite.close)
        return suite

    def results(self, suite, checks, width=4):
        with contextlib.redirect_stdout(io.StringIO()):
            suite.run_checks(checks, width)
        return {record["check"]: record["result"] for record in suite.records}


class Checks(WithSuite):
    def test_only_some(self):
        checks = [Check("p", name, dict) for name in ("run", "chat", "1 gpu, q8_0")]
        self.assertEqual([c.name for c in suites.only(checks, "q8_0,run")], ["run", "1 gpu, q8_0"])
        self.assertEqual(suites.only(checks, None), checks)
        self.assertEqual(suites.only(checks, "none"), [])

    def test_each_end_is_told(self):
        def fails():
            raise Failed("so")

        def skips():
            raise Skipped("so")

        def breaks():
            return {}["nothing"]

        suite = self.suite()
        works = {"passed": lambda: {"n": 3}, "failed": fails, "skipped": skips, "broken": breaks}
        found = self.results(suite, [Check("part", name, work) for name, work in works.items()])
        self.assertEqual(
            found, {"passed": "passed", "failed": "failed", "skipped": "skipped", "broken": "failed"}
        )
        summary = suite.summary("abc")
        self.assertEqual([summary[key] for key in ("passed", "failed", "skipped")], [1, 2, 1])
        json.dumps(summary)

    def test_those_alone_run_alone(self):
        running, most = [], []

        def work(name):
            running.append(name)
            most.append((name, len(running)))
            time.sleep(0.05)
            running.remove(name)

        checks = [
            Check("p", str(i), lambda i=i: work(i), suites.ALONE if i < 2 else suites.SIDE_BY_SIDE)
            for i in range(6)
        ]
        self.results(self.suite(), checks)
        self.assertEqual({n for name, n in most if name < 2}, {1})
        self.assertGreater(max(n for name, n in most if name >= 2), 1)

    def test_no_time_left_is_no_pass(self):
        found = self.results(self.suite(seconds=1), [Check("p", "late", lambda: {})])
        self.assertEqual(found, {"late": "skipped"})


class Commands(WithSuite):
    def test_a_limit_ends_all_processes(self):
        suite = self.suite()
        note = self.folder / "pid"
        done = suite.run(["sh", "-c", f"sleep 100 & echo $! >{note}; sleep 100"], 1)
        self.assertIsNone(done.code)
        self.assertLess(done.seconds, 50)
        with self.assertRaisesRegex(Failed, "not within"):
            suite.expect_ok(done)
        pid = int(note.read_text())
        suites.harness.wait_for(lambda: not suites.harness.is_alive(pid), 10, "a process is left")

    def test_an_end_before_the_limit_shows_nothing(self):
        with self.assertRaisesRegex(Skipped, "it had 1 s of 60"):
            self.suite(seconds=1).run(["sleep", "100"])

    def test_a_failure_shows_the_last_words(self):
        with self.assertRaisesRegex(Failed, "code 3: .*bad things"):
            suite = self.suite()
            suite.expect_ok(suite.run(["sh", "-c", "echo bad things >&2; exit 3"]))

    def test_a_missing_program_is_skipped(self):
        with self.assertRaises(Skipped):
            self.suite().programs("test_cuda_gemv")


class Kernels(WithSuite):
    def ran(self, passed, skipped, code=0):
        self.program("test_cuda_x", GTEST.format(passed, skipped, skipped) + f"exit {code}\n")
        suite = self.suite()
        return kernels.ran(suite, suite.run([suite.programs("test_cuda_x")]))

    def test_a_program_has_to_run_something(self):
        self.assertEqual(self.ran(7, 0), {"tests": 7})
        self.assertEqual(self.ran(7, 2), {"tests": 7, "tests_skipped": 2})
        for passed, skipped, code in ((0, 7, 0), (7, 0, 1)):
            with self.assertRaises(Failed):
                self.ran(passed, skipped, code)

    def test_every_program_is_found(self):
        for name in ("test_cuda_gemv", "test_cuda_new", "test_cuda_gemv_ptx"):
            self.program(name, GTEST.format(1, 0, 0))
        suite = self.suite()
        self.assertEqual(sorted(kernels.programs_of(suite)), ["test_cuda_gemv", "test_cuda_new"])
        sanitized = {check.name.split()[1] for check in kernels.sanitizer_checks(suite, 60)}
        self.assertLessEqual({"test_cuda_new", "test_cuda_gemv", "tandem"}, sanitized)
        self.assertEqual({c.name.split()[0] for c in kernels.volta_checks(suite, 60)}, {"test_cuda_gemv_ptx"})

    def test_programs_for_hopper_alone_are_found_there(self):
        self.program("test_cuda_gemm", GTEST.format(1, 0, 0))
        suite = self.suite()
        for suite.gpus.are_hopper, found in ((False, []), (True, ["test_cuda_gemm"])):
            self.assertEqual(kernels.programs_of(suite), found)


class Sanitizer(unittest.TestCase):
    def test_every_process_has_to_be_clean(self):
        clean = "========= ERROR SUMMARY: 0 errors\n"
        kernels.expect_clean(suites.Done(0, clean, "", 1.0))
        kernels.expect_clean(suites.Done(0, "", "= RACECHECK SUMMARY: 0 hazards displayed (0 errors)", 1.0))
        kernels.expect_clean(suites.Done(0, clean, clean, 1.0), 2)
        for out, n in ((clean, 2), ("", 1), ("========= ERROR SUMMARY: 10 errors\n", 1)):
            with self.assertRaises(Failed):
                kernels.expect_clean(suites.Done(0, out, "", 1.0), n)


class Memory(unittest.TestCase):
    LINE = (
        "tandem: rank 0: weights 90 MiB, KV cache 38146 MiB and workspace 12 MiB don't fit into 2875 MiB of device "
        "memory (a cache of 7808 positions would fit: -c)"
    )

    def test_numbers_have_to_be_told(self):
        sizes, fits = jobs.refusal_of(self.LINE)
        self.assertEqual((sizes["weights"], sizes["KV cache"], fits), (90, 38146, 7808))
        for line in (
            self.LINE.replace(" positions", ""),
            self.LINE.replace("38146 MiB", ""),
            "out of memory",
        ):
            with self.assertRaises(Failed):
                jobs.refusal_of(line)


class Logits(unittest.TestCase):
    def setUp(self):
        self.rows = np.random.default_rng(1).normal(size=(100, 300)).astype(np.float32) * 3

    def test_as_many_tokens_as_asked_for(self):
        for n, lengths in ((100, [100]), (1000, [1000]), (1500, [1000, 500]), (9999, [1000, 1000])):
            segments = logits.segments_of("prose.smollm2.tokens.json", n)
            self.assertEqual([len(tokens) for tokens in segments], lengths)
        self.assertNotEqual(segments[0], segments[1])

    def test_kl(self):
        self.assertEqual(logits.mean_kl(self.rows, self.rows), 0)
        near = self.rows + np.random.default_rng(2).normal(size=self.rows.shape).astype(np.float32) * 1e-3
        self.assertLess(logits.mean_kl(self.rows, near), logits.MOST_KL)
        far = self.rows.copy()
        far[7] = np.roll(far[7], 1)  # one position of a hundred
        self.assertGreater(logits.mean_kl(self.rows, far), logits.MOST_KL)
        with self.assertRaises(Failed):
            logits.mean_kl(self.rows, self.rows[:, 1:])

    def test_kl_is_what_the_definition_says(self):
        p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
        expected = float((p * np.log(p / q)).sum())
        self.assertAlmostEqual(logits.mean_kl(np.log([p, p]), np.log([q, q])), expected, 12)

    def test_bits(self):
        self.assertEqual(logits.differing(self.rows, self.rows.copy()), 0)
        other = self.rows.copy()
        other[3, 4] = np.nextafter(other[3, 4], np.float32(np.inf))
        self.assertEqual(logits.differing(self.rows, other), 1)
        self.assertGreater(logits.differing(self.rows, self.rows[:50]), 0)

    def test_bounds_of_real_weights(self):
        kept = logits.judged(
            {"cpu": 1e-3, "1 gpu": 1.09e-3, "1 gpu q8_0": 1.3e-3}, {"cpu | 1 gpu": 1.4e-3}, "1 gpu"
        )
        self.assertIn("1.09 of the CPU's", kept["of_one_token"])
        self.assertIn("1.19 of one token's (1 gpu q8_0)", kept["largest_kl"])
        for to_f32, between in (
            ({"cpu": 1e-3, "1 gpu": 1.2e-3}, {"cpu | 1 gpu": 1e-3}),
            ({"cpu": 1e-3, "1 gpu": 1e-3, "q8_0": 1.21e-3}, {"cpu | 1 gpu": 1e-3}),
            ({"cpu": 1e-3, "1 gpu": 1e-3}, {"cpu | 1 gpu": 1.6e-3}),
            ({"cpu": 1e-3, "1 gpu": 1e-3}, {"cpu | 1 gpu": 1e-3, "1 gpu | q8_0": float("nan")}),
            ({"cpu": 1e-3, "1 gpu": 1e-3, "q8_0": float("nan")}, {"cpu | 1 gpu": 1e-3}),
            ({"cpu": 1e-3, "1 gpu": float("nan")}, {"cpu | 1 gpu": 1e-3}),
            ({"cpu": 0.0, "1 gpu": 0.0}, {"cpu | 1 gpu": 0.0}),
        ):
            with self.assertRaises(Failed):
                logits.judged(to_f32, between, "1 gpu")

    def test_bounds_of_caches(self):
        costs = {"f16": 2e-3, "q8_0": 3e-3, "q4_0": 0.2}
        logits.judged_caches({"f16": 2.9e-3, "q8_0": 1e-3, "q4_0": 0.29}, costs)
        for found in (
            {"f16": 3.1e-3, "q8_0": 3e-3, "q4_0": 0.2},
            {"f16": 2e-3, "q8_0": 6e-3, "q4_0": 0.2},
            {"f16": 2e-3, "q8_0": 3e-3, "q4_0": 0.4},
            {"f16": 2e-3, "q8_0": 3e-3, "q4_0": float("nan")},
            {"f16": 2e-3, "q8_0": 3e-3, "q4_0": 3e-3},
            {"f16": 0.0, "q8_0": 0.0, "q4_0": 0.2},
        ):
            with self.assertRaises(Failed):
                logits.judged_caches(found, costs)

    def test_every_road_is_there(self):
        found = logits.ways(2)
        self.assertEqual(len(set(found)), len(found))
        for comm in ("peer", "nccl", "mpi"):
            for graphs in ("on", "off"):
                self.assertIn(logits.Way(2, comm, graphs, 1), found)
        self.assertEqual({way.n_gpus for way in logits.ways(1)}, {1})


class Program(WithSuite):
    def gpu_check(self, *arguments, env=None):
        command = [sys.executable, ROOT / "scripts" / "gpu_check", "--out", self.folder / "out", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False, env=env)

    def test_results_and_exit_codes(self):
        self.program("test_cuda_good", GTEST.format(3, 0, 0))
        self.program("test_device_collective", GTEST.format(2, 0, 0))
        arguments = ("--on-cpu", "--programs", self.folder / "bin", "--parts", "kernels")
        done = self.gpu_check(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        summary = json.loads((self.folder / "out" / "gpu_check.json").read_text())
        self.assertEqual((summary["passed"], summary["failed"]), (3, 0), summary)
        self.program("test_cuda_bad", GTEST.format(3, 0, 0) + "exit 1\n")
        done = self.gpu_check(*arguments)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertRegex(done.stdout, r"failed +kernels +test_cuda_bad")

    def test_nothing_checked_is_no_pass(self):
        done = self.gpu_check("--on-cpu", "--programs", self.folder / "bin", "--parts", "volta")
        self.assertEqual(done.returncode, 77, done.stdout)

    def test_without_a_gpu(self):
        no_gpu = self.folder / "no_gpu"
        no_gpu.mkdir()
        (no_gpu / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
        (no_gpu / "nvidia-smi").chmod(0o755)
        done = self.gpu_check("--programs", self.folder / "bin", env={**os.environ, "PATH": f"{no_gpu}:{os.environ['PATH']}"})
        self.assertEqual(done.returncode, 77, done.stdout)
        self.assertRegex(done.stderr, "^gpu_check: no GPU")

    def test_wrong_use(self):
        self.assertEqual(self.gpu_check("--parts", "nothing").returncode, 2)
        done = self.gpu_check("--on-cpu", "--programs", self.folder / "nowhere")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "^gpu_check: .*no such folder")


if __name__ == "__main__":
    unittest.main()
