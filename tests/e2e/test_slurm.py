"""scripts/slurm on a Slurm that runs here: jobs are submitted, run, are stopped by the time limit and by signals, go back
into the queue and finish, and every line is answered once. Skipped, saying so, where Slurm isn't installed."""

import json
import os
import pathlib
import subprocess
import tempfile
import time
import unittest

import harness
import slurm_cluster

SCRIPTS = harness.ROOT / "scripts" / "slurm"
STAND_IN = pathlib.Path(__file__).parent / "batch_stand_in.py"
N_LINES = 12
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL"}
# The claimed CPUs are few.
SMALL = ("--cpus-per-task=1",)


class Slurm(unittest.TestCase):
    """One cluster of two nodes for all tests; a folder a test."""

    @classmethod
    def setUpClass(cls):
        missing = slurm_cluster.missing_programs()
        if missing:
            raise unittest.SkipTest(f"no Slurm here: {', '.join(missing)}")
        cls.cluster = cls.enterClassContext(slurm_cluster.Cluster())

    @classmethod
    def enterClassContext(cls, context):  # unittest has it from Python 3.11 on
        value = context.__enter__()
        cls.addClassCleanup(context.__exit__, None, None, None)
        return value

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="tandem-job-")
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        self.lines = [f"line {i}" for i in range(N_LINES)]
        (self.folder / "in.jsonl").write_text("\n".join(self.lines) + "\n")
        (self.folder / "model.gguf").write_bytes(os.urandom(100_000))
        self.set_pace(0.02)

    def set_pace(self, seconds):
        (self.folder / "pace.tmp").write_text(str(seconds))
        (self.folder / "pace.tmp").rename(self.folder / "pace")

    def submit(self, script, *options, **env):
        settings = {
            **harness.LAUNCHER_ENVIRONMENT,
            "OMPI_MCA_btl": "self,tcp",  # two nodes on one machine share no memory
            "TANDEM": STAND_IN,
            "PACE_FILE": self.folder / "pace",
            "NOTE_FILE": self.folder / "notes",
            "MODEL": self.folder / "model.gguf",
            "INPUT": self.folder / "in.jsonl",
            "OUTPUT": self.folder / "out.jsonl",
            "TMPDIR": self.folder,
            **env,
        }
        log = f"--output={self.folder}/log-%j" if not any("array" in o for o in options) else f"--output={self.folder}/log-%A_%a"
        if not self.cluster.has_gpus:
            options = ("--gres=none", *options)
        return self.cluster.submit(
            SCRIPTS / script, cwd=self.folder, options=(*SMALL, log, *options), **settings
        )

    def log(self):
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("log-*")))

    def notes(self):
        try:
            return [json.loads(line) for line in (self.folder / "notes").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def wait_for(self, condition, limit_s, what):
        try:
            return self.cluster.wait_for(condition, limit_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n--- the job's log\n{self.log()}") from None

    def wait_for_end(self, job, limit_s=60):
        self.wait_for(lambda: self.cluster.states(job) and set(self.cluster.states(job)) <= ENDED, limit_s, "the job's end")
        return self.cluster.job(job)

    def wait_for_ranks(self, n):
        self.wait_for(lambda: len(self.notes()) >= n, 30, f"{n} ranks")

    def journal(self, name="out.jsonl"):
        try:
            return (self.folder / f"{name}.journal").read_text().splitlines()
        except FileNotFoundError:
            return []

    def expect_answers(self, lines=None, name="out.jsonl"):
        """Each line once, in order, and nothing left behind."""
        found = (self.folder / name).read_text().splitlines()
        self.assertEqual(found, [f"answer to {line}" for line in lines or self.lines], self.log())
        self.assertFalse((self.folder / f"{name}.journal").exists())
        self.assertEqual([p.name for p in self.folder.glob("tandem-*")], [], "staged copies")


class Jobs(Slurm):
    def check_plain(self, script, n_ranks, *options):
        job = self.submit(script, *options)
        self.assertEqual(self.wait_for_end(job)["JobState"], "COMPLETED", self.log())
        self.expect_answers()
        notes = self.notes()
        self.assertEqual(sorted(note["rank"] for note in notes), list(range(n_ranks)))
        self.assertIn("on each node's own disk", self.log())
        for note in notes:
            words = note["arguments"]
            self.assertEqual(words[0], "batch")
            self.assertEqual(words[words.index("-m") + 1], f"{self.folder}/tandem-{job}/model.gguf")
        return notes

    def test_one_node_by_mpirun(self):
        for note in self.check_plain("single_node.sbatch", 2):
            self.assertEqual(note["OMPI_COMM_WORLD_SIZE"], "2")
            if self.cluster.has_gpus:
                self.assertEqual(note["CUDA_VISIBLE_DEVICES"], "0,1")

    def test_one_node_by_srun(self):
        for note in self.check_plain("requeue.sbatch", 2):
            self.assertEqual(note["SLURM_STEP_NUM_TASKS"], "2")
            self.assertEqual(note["PMIX_RANK"], str(note["rank"]))
            if self.cluster.has_gpus:
                self.assertEqual(note["CUDA_VISIBLE_DEVICES"], "0,1")

    def test_two_nodes(self):
        notes = self.check_plain("multi_node.sbatch", 4)
        self.assertEqual(sorted(note["SLURMD_NODENAME"] for note in notes), ["n1", "n1", "n2", "n2"])

    def test_array(self):
        for task in range(3):
            (self.folder / f"in.{task}.jsonl").write_text(f"only {task}\nand {task}\n")
        job = self.submit(
            "array.sbatch",
            "--array=0-2",
            INPUT=self.folder / "in.%a.jsonl",
            OUTPUT=self.folder / "out.%a.jsonl",
            TANDEM_STAGE_DIR=self.folder / "kept",
        )
        self.wait_for_end(job)
        self.assertEqual(self.cluster.states(job), ["COMPLETED"] * 3, self.log())
        for task in range(3):
            self.expect_answers([f"only {task}", f"and {task}"], f"out.{task}.jsonl")
        self.assertEqual(
            (self.folder / "kept" / "model.gguf").read_bytes(), (self.folder / "model.gguf").read_bytes()
        )
        if self.cluster.has_gpus:
            self.assertTrue(all(note["CUDA_VISIBLE_DEVICES"] in ("0", "1") for note in self.notes()))

    def test_array_needs_outputs_of_its_own(self):
        job = self.submit("array.sbatch", "--array=0-1")
        self.wait_for_end(job)
        self.assertEqual(self.cluster.states(job), ["FAILED"] * 2)
        self.assertIn("%a", self.log())
        self.assertEqual(self.notes(), [])

    def test_scaling(self):
        recorder = self.folder / "scaling"
        recorder.write_text('#!/bin/bash\nprintf "%s\\n" "$@" > "$NOTE_FILE"\n')
        recorder.chmod(0o755)
        job = self.submit("scaling.sbatch", "--ntasks=4", "--gres=none", SCALING=recorder, BACKEND="cpu", STAGE=0)
        self.assertEqual(self.wait_for_end(job)["JobState"], "COMPLETED", self.log())
        words = (self.folder / "notes").read_text().splitlines()
        self.assertEqual(words[words.index("--ranks") + 1], "1,2,4")
        self.assertEqual(words[words.index("-m") + 1], str(self.folder / "model.gguf"))
        self.assertEqual(words[words.index("--launcher") + 1], "mpirun --bind-to none -np {n}")

    def test_failed_lines(self):
        self.lines = ["good", "bad"]
        (self.folder / "in.jsonl").write_text("good\nbad\n")
        job = self.wait_for_end(self.submit("single_node.sbatch"))
        self.assertEqual((job["JobState"], job["ExitCode"], job["Restarts"]), ("FAILED", "65:0", "0"))
        self.expect_answers()
        self.assertIn("some lines failed", self.log())

    def test_missing_settings(self):
        job = self.wait_for_end(self.submit("single_node.sbatch", "--export=ALL,MODEL="))
        self.assertEqual((job["JobState"], job["ExitCode"]), ("FAILED", "64:0"))
        self.assertIn("set MODEL", self.log())

    def test_model_that_cannot_be_staged_is_read_where_it_is(self):
        blocked = self.folder / "file"
        blocked.write_text("")
        job = self.submit("requeue.sbatch", TANDEM_STAGE_DIR=blocked / "folder")
        self.assertEqual(self.wait_for_end(job)["JobState"], "COMPLETED", self.log())
        words = self.notes()[0]["arguments"]
        self.assertEqual(words[words.index("-m") + 1], str(self.folder / "model.gguf"))


class Requeues(Slurm):
    """Stopped by a signal or the time limit, back in the queue, finished: by both launchers."""

    def stop_and_finish(self, script, send, n_ranks=2, *options, **env):
        self.set_pace(0.2)
        job = self.submit(script, *options, **env)
        self.wait_for_ranks(n_ranks)
        self.wait_for(lambda: len(self.journal()) >= 2, 20, "two answers")
        send(job)
        self.wait_for(lambda: int(self.cluster.job(job).get("Restarts", 0)) == 1, 30, "the requeue")
        self.assertLess(len(self.journal()), N_LINES)
        kept = self.journal()
        self.set_pace(0.02)
        self.assertEqual(self.wait_for_end(job)["JobState"], "COMPLETED", self.log())
        self.expect_answers()
        self.assertEqual(
            (self.folder / "out.jsonl").read_text().splitlines()[: len(kept)], kept, "what was done stays as it was"
        )
        notes = self.notes()
        self.assertEqual(len(notes), 2 * n_ranks)
        self.assertEqual([note["SLURM_RESTART_COUNT"] for note in notes], [None] * n_ranks + ["1"] * n_ranks)

    def test_by_mpirun(self):
        # As --signal=B:USR1@… does: to the batch shell alone.
        self.stop_and_finish("single_node.sbatch", lambda job: self.cluster.call("scancel", "-b", "-s", "USR1", job))
        self.assertIn("a checkpoint", self.log())

    def test_by_srun(self):
        # As --signal=USR1@… does: to the steps, not to the shell.
        self.stop_and_finish("requeue.sbatch", lambda job: self.cluster.call("scancel", "-s", "USR1", job))

    def test_two_nodes(self):
        self.stop_and_finish("multi_node.sbatch", lambda job: self.cluster.call("scancel", "-s", "USR1", job), 4)

    def test_no_more_restarts(self):
        self.set_pace(0.2)
        job = self.submit("requeue.sbatch", MAX_RESTARTS=0)
        self.wait_for_ranks(2)
        self.cluster.call("scancel", "-s", "USR1", job)
        ended = self.wait_for_end(job)
        self.assertEqual((ended["JobState"], ended["ExitCode"], ended["Restarts"]), ("FAILED", "75:0", "0"))
        self.assertIn("giving up", self.log())


class TimeLimit(Slurm):
    """The real thing: limits are minutes, and Slurm looks every half minute."""

    def test_both_launchers(self):
        self.set_pace(5)
        jobs = {}
        home = self.folder
        for script, signal in (("single_node.sbatch", "B:USR1@55"), ("requeue.sbatch", "USR1@55")):
            self.folder = home / script
            self.folder.mkdir()
            for name in ("in.jsonl", "model.gguf", "pace"):
                (self.folder / name).write_bytes((home / name).read_bytes())
            jobs[script] = self.submit(script, "--time=1", f"--signal={signal}")
        begin = time.monotonic()
        for script, job in jobs.items():
            self.folder = home / script
            self.wait_for(lambda job=job: int(self.cluster.job(job).get("Restarts", 0)) == 1, 75, "the requeue")
            self.assertGreater(time.monotonic() - begin, 3)
            self.assertGreater(len(self.notes()), 1)
            self.set_pace(0.02)
        for script, job in jobs.items():
            self.folder = home / script
            self.assertEqual(self.wait_for_end(job)["JobState"], "COMPLETED", self.log())
            self.expect_answers()


class Refusals(unittest.TestCase):
    def test_lines_that_are_answered_twice_are_noticed(self):
        case = Slurm()
        case.lines = ["a", "b"]
        with tempfile.TemporaryDirectory() as folder:
            case.folder = pathlib.Path(folder)
            for content in ("answer to a\n", "answer to a\nanswer to a\nanswer to b\n", "answer to b\nanswer to a\n"):
                (case.folder / "out.jsonl").write_text(content)
                with self.assertRaises(AssertionError):
                    case.expect_answers()
            (case.folder / "out.jsonl").write_text("answer to a\nanswer to b\n")
            case.expect_answers()

    def test_outside_of_slurm(self):
        # without a job there is nothing to ask scontrol about
        done = subprocess.run(["bash", SCRIPTS / "single_node.sbatch"], capture_output=True, timeout=20, check=False)
        self.assertNotEqual(done.returncode, 0)


if __name__ == "__main__":
    harness.main()
