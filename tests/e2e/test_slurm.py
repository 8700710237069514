"""scripts/slurm on a Slurm that runs here: jobs are submitted, run, are stopped by the time limit and by signals, go back
into the queue and finish, and every line is answered once. Skipped, saying so, where Slurm isn't installed."""

import json
import os
import pathlib
import random
import shlex
import shutil
import tempfile
import unittest

import harness
import slurm_cluster

SCRIPTS = harness.ROOT / "scripts" / "slurm"
STAND_IN = pathlib.Path(__file__).parent / "batch_stand_in.py"
N_LINES = 12
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL"}


def program_file(path, text):
    """A program of that text, and its path."""
    path.write_text(text)
    path.chmod(0o755)
    return path


class Work:
    """A folder with what one job reads and writes, and the job."""

    def __init__(self, cluster, folder, n_lines=N_LINES):
        self.cluster, self.folder = cluster, folder
        folder.mkdir(exist_ok=True)
        self.write_lines([f"line {i}" for i in range(n_lines)])
        (folder / "model.gguf").write_bytes(os.urandom(100_000))
        self.set_pace(0.02)

    def write_lines(self, lines):
        self.lines = lines
        (self.folder / "in.jsonl").write_text("\n".join(lines) + "\n")

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
        name = "log-%A_%a" if any("array" in option for option in options) else "log-%j"
        if not self.cluster.has_gpus:
            options = ("--gres=none", *options)
        self.job = self.cluster.submit(
            SCRIPTS / script,
            cwd=self.folder,
            options=("--cpus-per-task=1", f"--output={self.folder}/{name}", *options),
            **settings,
        )
        return self

    def log(self):
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("log-*")))

    def notes(self):
        """What each rank saw when it began."""
        try:
            return [json.loads(line) for line in (self.folder / "notes").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def journal(self):
        """The answers that a run which isn't done has so far."""
        try:
            return (self.folder / "out.jsonl.journal").read_text().splitlines()
        except FileNotFoundError:
            return []

    def field(self, name):
        return self.cluster.job(self.job).get(name)

    def states(self):
        return self.cluster.states(self.job)

    def wait_for(self, condition, limit_s, what):
        try:
            return self.cluster.wait_for(condition, limit_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n--- the job's log\n{self.log()}") from None

    def wait_for_ranks(self, n):
        self.wait_for(lambda: len(self.notes()) >= n, 40, f"{n} ranks")

    def wait_for_restart(self, limit_s):
        self.wait_for(lambda: int(self.field("Restarts") or 0) >= 1, limit_s, "the requeue")

    def wait_for_end(self, limit_s=90):
        """How the job ended: its state, exit code and number of restarts."""
        self.wait_for(lambda: self.states() and set(self.states()) <= ENDED, limit_s, "the job's end")
        return self.field("JobState"), self.field("ExitCode"), self.field("Restarts")

    def faults(self, lines=None, name="out.jsonl"):
        """Why this isn't each line's answer once, in order, with nothing left behind; empty where it is."""
        found = (self.folder / name).read_text().splitlines()
        faults = []
        if found != [f"answer to {line}" for line in lines or self.lines]:
            faults.append(f"answers: {found}")
        if left := [path.name for path in self.folder.glob(f"{name}.*") if not path.name.endswith(".end")]:
            faults.append(f"a journal is left: {left}")
        if left := [path.name for path in self.folder.glob("tandem-*")]:
            faults.append(f"staged copies are left: {left}")
        return faults


class Slurm(unittest.TestCase):
    """One cluster of two nodes for all tests; a folder a test."""

    @classmethod
    def setUpClass(cls):
        missing = slurm_cluster.missing_programs()
        if missing:
            raise unittest.SkipTest(f"no Slurm here: {', '.join(missing)}")
        cls.cluster = slurm_cluster.Cluster()
        cls.addClassCleanup(cls.cluster.__exit__)
        cls.cluster.__enter__()

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="tandem-job-")
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        self.work = Work(self.cluster, self.folder / "work")

    def expect_done(self, work, n_restarts=0):
        self.assertEqual(work.wait_for_end(), ("COMPLETED", "0:0", str(n_restarts)), work.log())
        self.assertEqual(work.faults(), [], work.log())


class Jobs(Slurm):
    def check_plain(self, script, n_ranks, *options):
        work = self.work.submit(script, *options)
        self.expect_done(work)
        self.assertEqual(sorted(note["rank"] for note in work.notes()), list(range(n_ranks)))
        self.assertIn("on each node's own disk", work.log())
        for note in work.notes():
            words = note["arguments"]
            self.assertEqual(words[0], "batch")
            self.assertEqual(words[words.index("-m") + 1], f"{work.folder}/tandem-{work.job}/model.gguf")
            if self.cluster.has_gpus:
                self.assertEqual(note["CUDA_VISIBLE_DEVICES"], "0,1")
        return work.notes()

    def test_one_node_by_mpirun(self):
        for note in self.check_plain("single_node.sbatch", 2):
            self.assertEqual(note["OMPI_COMM_WORLD_SIZE"], "2")

    def test_one_node_by_srun(self):
        for note in self.check_plain("requeue.sbatch", 2):
            self.assertEqual(note["SLURM_STEP_NUM_TASKS"], "2")
            self.assertEqual(note["PMIX_RANK"], str(note["rank"]))

    def test_two_nodes(self):
        notes = self.check_plain("multi_node.sbatch", 4)
        self.assertEqual(sorted(note["SLURMD_NODENAME"] for note in notes), ["n1", "n1", "n2", "n2"])

    def test_array(self):
        work, folder = self.work, self.work.folder
        for task in range(3):
            (folder / f"in.{task}.jsonl").write_text(f"only {task}\nand {task}\n")
        work.submit(
            "array.sbatch",
            "--array=0-2",
            INPUT=folder / "in.%a.jsonl",
            OUTPUT=folder / "out.%a.jsonl",
            TANDEM_STAGE_DIR=folder / "kept",
        )
        work.wait_for_end()
        self.assertEqual(work.states(), ["COMPLETED"] * 3, work.log())
        for task in range(3):
            self.assertEqual(work.faults([f"only {task}", f"and {task}"], f"out.{task}.jsonl"), [])
        self.assertEqual((folder / "kept/model.gguf").read_bytes(), (folder / "model.gguf").read_bytes())
        if self.cluster.has_gpus:
            self.assertTrue(all(note["CUDA_VISIBLE_DEVICES"] in ("0", "1") for note in work.notes()))

    def test_scaling(self):
        recorder = program_file(self.folder / "scaling", '#!/bin/bash\nprintf "%s\\n" "$@" > "$NOTE_FILE"\n')
        work = self.work.submit(
            "scaling.sbatch", "--ntasks=4", "--gres=none", SCALING=recorder, BACKEND="cpu", STAGE=0
        )
        self.assertEqual(work.wait_for_end(), ("COMPLETED", "0:0", "0"), work.log())
        words = (work.folder / "notes").read_text().splitlines()
        self.assertEqual(words[words.index("--ranks") + 1], "1,2,4")
        self.assertEqual(words[words.index("-m") + 1], str(work.folder / "model.gguf"))
        self.assertEqual(words[words.index("--launcher") + 1], "mpirun --bind-to none -np {n}")

    def test_what_goes_wrong(self):
        def work(name):
            return Work(self.cluster, self.folder / name)

        failed = work("failed")
        failed.write_lines(["good", "bad"])
        failed.submit("single_node.sbatch", "--gres=none")
        missing = work("missing").submit("single_node.sbatch", "--gres=none", MODEL="")
        refuses = program_file(self.folder / "refuses", "#!/bin/sh\nexit 65\n")
        wrong = work("wrong").submit("single_node.sbatch", "--gres=none", TANDEM=refuses)
        same = work("same").submit("array.sbatch", "--array=0-1", "--gres=none")
        (self.folder / "file").write_text("")
        no_stage = work("no_stage").submit("requeue.sbatch", "--gres=none", TANDEM_STAGE_DIR=self.folder / "file/x")

        self.assertEqual(failed.wait_for_end(), ("FAILED", "65:0", "0"), failed.log())
        self.assertEqual(failed.faults(), [])
        self.assertIn("some lines failed", failed.log())
        self.assertEqual(missing.wait_for_end(), ("FAILED", "64:0", "0"))
        self.assertEqual(wrong.wait_for_end(), ("FAILED", "65:0", "0"))
        self.assertIn("failed with 65", wrong.log())
        self.assertNotIn("done", wrong.log())
        self.assertIn("set MODEL", missing.log())
        same.wait_for_end()
        self.assertEqual(same.states(), ["FAILED"] * 2)
        self.assertIn("%a", same.log())
        self.assertEqual(same.notes(), [])
        self.expect_done(no_stage)  # by the model where it is
        words = no_stage.notes()[0]["arguments"]
        self.assertEqual(words[words.index("-m") + 1], str(no_stage.folder / "model.gguf"))


class Requeues(Slurm):
    """Stopped by the time limit or a signal, back in the queue, finished: by both launchers, all at the same time."""

    # Limits are minutes. Slurm looks every half minute, and warns when the warning's time may be over before it looks
    # again: 20 to 50 seconds after a job has begun. That is time enough for a run to which the test gives speed.
    WARNED = ("--time=1", "--signal=B:USR1@10")
    # name: script, ranks, more options, how it is stopped (None: by the time limit)
    STOPS = {
        "limit-mpirun": ("single_node.sbatch", 2, WARNED, None),
        "limit-srun": ("requeue.sbatch", 2, WARNED, None),
        # no warning that means anything: the end itself, and the seconds that Slurm gives then
        "limit-unwarned": ("requeue.sbatch", 2, ("--time=1", "--signal=B:CONT@10"), None),
        # the batch shell alone is told, or the steps and not the shell
        "mpirun": ("single_node.sbatch", 2, (), ("--batch",)),
        "srun": ("requeue.sbatch", 2, (), ("--batch",)),
        "srun-step": ("requeue.sbatch", 2, (), ()),
        "two nodes": ("multi_node.sbatch", 4, (), ("--batch",)),
    }

    def test_stop_and_finish(self):
        works = {}
        for name, (script, _, options, _) in self.STOPS.items():
            work = works[name] = Work(self.cluster, self.folder / name.replace(" ", "-"))
            work.set_pace(0.2 if "limit" not in name else 10)
            work.submit(script, "--gres=none", *options)
        kept = {}
        for name, (_, n_ranks, _, how) in self.STOPS.items():
            work = works[name]
            if how is None:
                continue
            work.wait_for_ranks(n_ranks)
            work.wait_for(lambda work=work: len(work.journal()) >= 2, 20, "two answers")
            self.cluster.call("scancel", *how, "--signal=USR1", work.job)
        for name, work in self.as_they_restart(works, 120):
            kept[name] = work.journal()
            self.assertLess(len(kept[name]), N_LINES)
            work.set_pace(0.02)
        for name, (_, n_ranks, _, how) in self.STOPS.items():
            with self.subTest(stopped=name):
                work = works[name]
                self.expect_done(work, n_restarts=1)
                answers = (work.folder / "out.jsonl").read_text().splitlines()
                self.assertEqual(answers[: len(kept[name])], kept[name], "what was done stays as it was")
                runs = [note["SLURM_RESTART_COUNT"] for note in work.notes()]
                self.assertEqual(runs[:n_ranks], [None] * n_ranks)
                self.assertEqual(runs[-n_ranks:], [work.field("Restarts")] * n_ranks)
                self.assertIn("back into the queue", work.log())
                self.assertEqual("told to stop: a checkpoint" in work.log(), how != ())

    def as_they_restart(self, works, limit_s):
        """Each name and work as soon as it is back in the queue: its next run begins a few seconds later."""
        left = dict(works)
        while left:
            limit = next(iter(left.values()))
            limit.wait_for(lambda: any(int(w.field("Restarts") or 0) >= 1 for w in left.values()), limit_s, f"{list(left)}")
            for name, work in list(left.items()):
                if int(work.field("Restarts") or 0) >= 1:
                    yield name, left.pop(name)

    def test_runs_that_get_nowhere(self):
        work = self.work
        work.set_pace(100)
        work.submit("requeue.sbatch", "--gres=none", MAX_STUCK=2)
        for run in (1, 2):
            work.wait_for_ranks(2 * run)
            self.cluster.call("scancel", "--signal=USR1", work.job)
        self.assertEqual(work.wait_for_end(), ("FAILED", "75:0", "1"), work.log())
        self.assertIn("no line was finished in 2 runs", work.log())
        self.assertFalse(list(work.folder.glob("*.stuck")))

    # How the run is held before its ranks listen: a program in front of the real one, or a slow one in place of tandem.
    SLOW = "#!/bin/bash\n{when}touch {mark} && sleep 3\nexec {program} \"$@\"\n"
    EARLY = {
        "staging": ("sha256sum", "", "before it began"),
        "launcher": ("srun", '[[ "$*" == *orted* || "$*" == *batch* ]] && ', "a checkpoint"),
        "program": ("program", "", "a checkpoint"),
        # between the steps: the second time that the shell makes a folder
        "shell": ("mktemp", '[[ ! -e first ]] && touch first || ', "a checkpoint"),
    }

    def test_told_to_stop_before_it_listens(self):
        works = {}
        for held, (slow, when, _) in self.EARLY.items():
            for script in ("single_node.sbatch", "requeue.sbatch"):
                work = works[held, script] = Work(self.cluster, self.folder / f"{held}-{script.removesuffix('.sbatch')}")
                program = STAND_IN if slow == "program" else shutil.which(slow)
                text = self.SLOW.format(when=when, mark=work.folder / "mark", program=program)
                tool = program_file(work.folder / slow, text)
                settings = {"TANDEM": tool} if slow == "program" else {"PATH": f"{work.folder}:{os.environ['PATH']}"}
                work.submit(script, "--gres=none", **settings)
        left = dict(works)
        while left:
            works["staging", "requeue.sbatch"].wait_for(
                lambda: any((work.folder / "mark").exists() for work in left.values()), 60, f"{list(left)} to be held"
            )
            for name, work in list(left.items()):
                if (work.folder / "mark").exists():
                    self.cluster.call("scancel", "--batch", "--signal=USR1", left.pop(name).job)
        for (held, script), work in works.items():
            with self.subTest(held=held, script=script):
                self.expect_done(work, n_restarts=1)
                self.assertIn(self.EARLY[held][2], work.log())
                if held == "staging":
                    self.assertEqual({note["SLURM_RESTART_COUNT"] for note in work.notes()}, {"1"}, "nothing ran before")

    def test_steps_told_to_stop_while_they_stage(self):
        work = self.work
        text = self.SLOW.format(when="", mark=self.folder / "mark", program=shutil.which("sha256sum"))
        program_file(self.folder / "sha256sum", text)
        work.submit("requeue.sbatch", "--gres=none", PATH=f"{self.folder}:{os.environ['PATH']}")
        work.wait_for((self.folder / "mark").exists, 30, "a copy")
        self.cluster.call("scancel", "--signal=USR1", work.job)
        self.expect_done(work, n_restarts=1)
        self.assertIn("before it began", work.log())
        self.assertEqual({note["SLURM_RESTART_COUNT"] for note in work.notes()}, {"1"}, "nothing ran before")

    def test_cancelled_stays_so_and_can_be_submitted_again(self):
        works = {}
        for script in ("single_node.sbatch", "requeue.sbatch"):
            work = works[script] = Work(self.cluster, self.folder / script)
            work.set_pace(0.2)
            work.submit(script, "--gres=none")
        for work in works.values():
            work.wait_for(lambda work=work: len(work.journal()) >= 2, 40, "two answers")
            self.cluster.call("scancel", work.job)
        for script, work in works.items():
            with self.subTest(script=script):
                self.assertEqual(work.wait_for_end()[::2], ("CANCELLED", "0"), work.log())
                work.wait_for(lambda work=work: "Slurm ends this job" in work.log(), 20, "the job's last word")
                self.assertFalse(list(work.folder.glob("tandem-*")), "the staged copy")
                self.assertFalse((work.folder / "out.jsonl").exists())
        for script, work in works.items():
            work.set_pace(0.02)
            work.submit(script, "--gres=none")
        for script, work in works.items():
            with self.subTest(script=script):
                self.expect_done(work)

    def test_no_more_restarts(self):
        work = self.work
        work.set_pace(0.2)
        work.submit("requeue.sbatch", MAX_RESTARTS=0)
        work.wait_for_ranks(2)
        self.cluster.call("scancel", "--signal=USR1", work.job)
        self.assertEqual(work.wait_for_end(), ("FAILED", "75:0", "0"))
        self.assertIn("giving up", work.log())


class Tandem(Slurm):
    """The same with tandem itself on a tiny model: the output is, to the byte, that of a run which nobody stopped."""

    N_REQUESTS = 3000
    N_PROMPT = 200
    # A rank of the first run stands still as soon as there are some results, until it is told to stop: so that every
    # machine meets the limit amid the work, however fast it is.
    FIRST_RUN = """#!/bin/bash
[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || exec @tandem@ "$@"
@tandem@ "$@" &
pid=$!
told=0
trap told=1 USR1
until ((told)) || (($(stat -c %s "$OUTPUT.journal" 2>/dev/null || echo 0) > 8192)); do sleep 0.05; done
kill -STOP $pid
until ((told)); do sleep 0.05; done
kill -USR1 $pid
kill -CONT $pid
wait $pid
"""

    def setUp(self):
        super().setUp()
        random_tokens = random.Random(3)
        self.lines = []
        for i in range(self.N_REQUESTS):
            prompt = [random_tokens.randrange(3, 200) for _ in range(self.N_PROMPT)]
            body = {"prompt": prompt, "max_tokens": 2, "temperature": 0.8, "seed": i}
            self.lines.append(
                json.dumps({"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": body})
            )
        text = self.FIRST_RUN.replace("@tandem@", shlex.quote(str(harness.program())))
        self.program = program_file(self.folder / "tandem", text)

    def work_of(self, name, script, *options, **env):
        work = Work(self.cluster, self.folder / name)
        work.write_lines(self.lines)
        (work.folder / "model.gguf").write_bytes(pathlib.Path(harness.golden_model()).read_bytes())
        # nobody is to notice that the other ranks stand still
        env = {"TANDEM_WATCHDOG_S": 0, "TANDEM": self.program, "TANDEM_ARGS": "-t 1 --backend cpu --progress off", **env}
        return work.submit(script, "--gres=none", *options, **env)

    def test_stop_and_finish(self):
        works = {
            "limit": self.work_of("limit", "single_node.sbatch", *Requeues.WARNED),
            "srun": self.work_of("srun", "requeue.sbatch"),
            "nodes": self.work_of("nodes", "multi_node.sbatch", "--ntasks-per-node=1"),
        }
        for name in ("srun", "nodes"):
            work = works[name]
            journal = work.folder / "out.jsonl.journal"
            work.wait_for(
                lambda journal=journal: journal.exists() and journal.stat().st_size > 8192, 60, "some results"
            )
            self.cluster.call("scancel", "--signal=USR1", work.job)
        for work in works.values():
            work.wait_for_restart(120)
            self.assertFalse((work.folder / "out.jsonl").exists())
        folder = works["limit"].folder
        plain = folder / "plain.jsonl"
        result = harness.tandem(
            "batch", "-m", folder / "model.gguf", "-i", folder / "in.jsonl", "-o", plain, "-t", 1
        )
        self.assertEqual(result.code, 0, result.err)
        expected = plain.read_bytes()
        self.assertEqual(len(expected.splitlines()), self.N_REQUESTS)
        for name, work in works.items():
            with self.subTest(stopped=name):
                self.assertEqual(work.wait_for_end(120), ("COMPLETED", "0:0", "1"), work.log())
                self.assertIn("are done already", work.log())
                self.assertEqual((work.folder / "out.jsonl").read_bytes(), expected)
                self.assertFalse((work.folder / "out.jsonl.journal").exists())


class Comparer(unittest.TestCase):
    def test_wrong_answers_are_noticed(self):
        with tempfile.TemporaryDirectory() as folder:
            work = Work(None, pathlib.Path(folder), n_lines=0)
            work.lines = ["a", "b"]
            output = work.folder / "out.jsonl"
            for content in ("answer to a\n", "answer to a\nanswer to a\nanswer to b\n", "answer to b\nanswer to a\n"):
                output.write_text(content)
                self.assertEqual(len(work.faults()), 1)
            output.write_text("answer to a\nanswer to b\n")
            self.assertEqual(work.faults(), [])
            (work.folder / "out.jsonl.journal").write_text("answer to a\n")
            (work.folder / "tandem-1").mkdir()
            self.assertEqual(len(work.faults()), 2)


if __name__ == "__main__":
    harness.main()
