"""How `tandem run` itself ends when a rank is killed, stopped or asked to end, while it loads, computes the
prompt or generates: every process is gone in time, the status says so, and one line names the rank.
(test_endings.py does the same with a stand-in, in more ways.)"""

import os
import pathlib
import re
import signal
import tempfile
import time
import unittest

import harness
from harness import SILENCE_S, real_model, wait_for

KILLED_LIMIT_S = 5.0
ASKED_LIMIT_S = 2.0
LAUNCHER_S = 1.5  # what the launcher may take to report an end, beyond the ranks' own limit
PHASES = ("load", "prompt", "decode")


class Running:
    """`tandem run` on n ranks, brought to a phase: a prompt of some seconds, then text without end."""

    def __init__(self, case, n_ranks, phase, launcher=True, wrapper=(), **env):
        self.model = real_model(
            "gemma-3-270m-q4_k_m.gguf" if phase == "load" else "SmolLM2-135M-Instruct.Q4_1.gguf"
        )
        self.n_ranks, self.phase = n_ranks, phase
        arguments = ["run", "-m", self.model, "-n", -1, "--ignore-eos", "--temp", 0, "-c", 8192]
        if phase == "prompt":
            file = tempfile.NamedTemporaryFile("w", suffix=".txt")
            case.addCleanup(file.close)
            file.write((harness.ROOT / "LICENSE").read_text() * 2)
            file.flush()
            arguments += ["-f", file.name, "-b", 32]
        else:
            arguments += ["-p", "Once upon a time"]
        command = harness.launch(n_ranks if launcher else 0, *wrapper, harness.program(), *arguments)
        self.job = harness.Job(command, **env)
        case.addCleanup(self.job.__exit__)
        self.job.wait_for_ranks(n_ranks)

    def holds_model(self, rank):
        """True while this rank has the model file open: it loads."""
        try:
            folder = f"/proc/{self.job.pids[rank]}/fd"
            return any(
                os.path.realpath(f"{folder}/{fd}") == os.path.realpath(self.model)
                for fd in os.listdir(folder)
            )
        except (FileNotFoundError, ProcessLookupError):
            return False

    def wait_for_phase(self, rank):
        if self.phase == "load":
            self.job.wait_for(lambda: self.holds_model(rank), "loading")
        elif self.phase == "prompt":
            self.job.wait_for_text(b", loaded in ", "stderr")
            time.sleep(0.1)
        else:
            self.job.wait_for(lambda: len(self.job.stdout()) > 20, "text")


def faults(job):
    return [line for line in job.lines() if ", loaded in " not in line]


class Killed(unittest.TestCase):
    def check(self, n_ranks, victim, phase, number=signal.SIGKILL, **env):
        with self.subTest(n_ranks=n_ranks, victim=victim, phase=phase):
            run = Running(self, n_ranks, phase, **env)
            run.wait_for_phase(victim)
            os.kill(run.job.pids[victim], number)
            status = run.job.wait_for_end(KILLED_LIMIT_S + float(env.get("TANDEM_WATCHDOG_S", 0)))
            self.assertNotEqual(status, 0)
            self.assertNotIn("tokens/s", run.job.stderr())
            if n_ranks == 1:  # nobody is left to say anything
                self.assertEqual(faults(run.job), [])
                return
            self.assertEqual(len(faults(run.job)), 1, run.job.stderr())
            how = "gave no sign of life" if number == signal.SIGSTOP else "died"
            self.assertRegex(
                faults(run.job)[0], rf"rank {victim} \(pid {run.job.pids[victim]} on \S+\) {how} in {phase};"
            )

    def test_one_rank(self):
        for phase in PHASES:
            self.check(1, 0, phase)

    def test_two_ranks(self):
        for phase in PHASES:
            for victim in range(2):
                self.check(2, victim, phase)

    def test_three_ranks(self):
        for phase in PHASES:
            for victim in range(3):
                self.check(3, victim, phase)

    def test_four_ranks(self):
        for phase in PHASES:
            for victim in range(4):
                self.check(4, victim, phase)

    def test_at_any_moment_of_the_start(self):
        for delay_s in (0.0, 0.02, 0.05, 0.1, 0.2):
            with self.subTest(delay_s=delay_s):
                run = Running(self, 2, "load")
                time.sleep(delay_s)
                os.kill(run.job.pids[1], signal.SIGKILL)
                wait_for(
                    lambda: not any(map(harness.is_alive, run.job.pids)), KILLED_LIMIT_S, "ranks are left"
                )
                try:
                    self.assertNotEqual(run.job.wait_for_end(KILLED_LIMIT_S), 0)
                except AssertionError:
                    # Open MPI's launcher hangs at times if a rank dies while the two get to know each other.
                    if "PMIX ERROR: UNREACHABLE" not in run.job.stderr():
                        raise
                self.assertLessEqual(len(faults(run.job)), 1, run.job.stderr())

    def test_stopped(self):
        self.check(2, 1, "decode", signal.SIGSTOP, TANDEM_WATCHDOG_S=str(SILENCE_S))
        self.check(3, 0, "prompt", signal.SIGSTOP, TANDEM_WATCHDOG_S=str(SILENCE_S))


class Asked(unittest.TestCase):
    """SIGTERM and SIGINT to a rank: every rank ends with 128 + signal and without a complaint."""

    # Each rank runs below a shell that writes down how it ended, and when.
    WRAPPER = ("sh", "-c", 'trap : TERM INT; "$@"; echo $? > "$CODES_DIR/$$"', "sh")

    def check(self, n_ranks, victim, phase, number, launcher=True):
        with self.subTest(
            n_ranks=n_ranks, victim=victim, phase=phase, number=number
        ), tempfile.TemporaryDirectory() as folder:
            run = Running(self, n_ranks, phase, launcher, self.WRAPPER, CODES_DIR=folder)
            run.wait_for_phase(victim)
            start = time.monotonic()
            os.kill(run.job.pids[victim], number)
            wait_for(
                lambda: not any(map(harness.is_alive, run.job.pids)),
                ASKED_LIMIT_S + LAUNCHER_S,
                "ranks are left",
            )
            seconds = time.monotonic() - start
            run.job.wait_for_end(KILLED_LIMIT_S)
            codes = [int(path.read_text()) for path in pathlib.Path(folder).iterdir()]
            self.assertEqual(codes, [128 + number] * n_ranks, run.job.stderr())
            # A step that takes longer than the grace period is cut short, which a line says.
            late = [line for line in faults(run.job) if "not ended after 2 s" in line]
            self.assertEqual(faults(run.job), late if seconds > ASKED_LIMIT_S - 0.1 else [])

    def test_decode(self):
        for n_ranks in (1, 2, 3, 4):
            self.check(n_ranks, n_ranks - 1, "decode", signal.SIGTERM)
        self.check(2, 0, "decode", signal.SIGINT)
        self.check(4, 1, "decode", signal.SIGINT)

    def test_prompt(self):
        for n_ranks in (1, 2, 4):
            self.check(n_ranks, 0, "prompt", signal.SIGINT)
        self.check(3, 2, "prompt", signal.SIGTERM)

    def test_load(self):
        for n_ranks in (1, 2, 3, 4):
            self.check(n_ranks, n_ranks - 1, "load", signal.SIGTERM)

    def test_without_a_launcher(self):
        for phase in PHASES:
            self.check(1, 0, phase, signal.SIGINT, launcher=False)

    def test_launcher_itself(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            run = Running(self, 2, "decode")
            run.wait_for_phase(0)
            os.kill(run.job.process.pid, number)
            self.assertNotEqual(run.job.wait_for_end(KILLED_LIMIT_S), 0)
            self.assertFalse(re.search("internal|died", run.job.stderr()), run.job.stderr())


if __name__ == "__main__":
    harness.main()
