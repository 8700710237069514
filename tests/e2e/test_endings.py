"""How a job ends: killed, stopped, failed, asked to. Each case starts job_program (the real job frame with a
loop of collectives in it) under mpirun, does something to one rank, and checks that within LIMIT_S every
process is gone, that the exit status says so, and that exactly one line tells which rank it was.

    test_endings.py JOB_PROGRAM TANDEM [-k PATTERN]      see harness.py
"""

import os
import re
import signal
import sys
import tempfile
import time
import unittest

import harness
from harness import SILENCE_S, START_LIMIT_S, is_alive

LIMIT_S = 5.0
PROGRAM = None


class Job(harness.Job):
    """N ranks of job_program; each writes its pid to a file once it runs."""

    def __init__(self, n_ranks, *arguments, launcher=True, **environment):
        self.n_ranks = n_ranks
        self.pid_folder = tempfile.TemporaryDirectory()
        super().__init__(
            harness.launch(n_ranks if launcher else 0, PROGRAM, *arguments),
            binary=PROGRAM,
            PID_DIR=self.pid_folder.name,
            **environment,
        )

    def __exit__(self, *of):
        super().__exit__(*of)
        self.pid_folder.cleanup()

    def read_pids(self):
        pids = []
        for rank in range(self.n_ranks):
            try:
                with open(os.path.join(self.pid_folder.name, str(rank))) as file:
                    text = file.read()
            except FileNotFoundError:
                return []
            if not text.endswith("\n"):
                return []
            pids.append(int(text))
        return pids

    def wait_until_running(self):
        self.wait_for(self.read_pids, "all ranks run")
        self.pids = self.read_pids()
        time.sleep(0.05)

    def wait_for_end(self, limit_s=LIMIT_S):
        return super().wait_for_end(limit_s)


class Killed(unittest.TestCase):
    def check_killed(self, n_ranks, victim, phase, number, **environment):
        with self.subTest(n_ranks=n_ranks, victim=victim, phase=phase), Job(
            n_ranks, phase, "loop", **environment
        ) as job:
            job.wait_until_running()
            os.kill(job.pids[victim], number)
            self.assertNotEqual(job.wait_for_end(LIMIT_S + float(environment.get("TANDEM_WATCHDOG_S", 0))), 0)
            if n_ranks == 1:
                self.assertEqual(job.lines(), [])
                return
            self.assertEqual(len(job.lines()), 1, job.stderr())
            how = "gave no sign of life" if number == signal.SIGSTOP else "died"
            self.assertRegex(
                job.lines()[0], rf"rank {victim} \(pid {job.pids[victim]} on \S+\) {how} in {phase};"
            )

    def test_each_rank_in_each_phase(self):
        for n_ranks in (1, 2, 3, 4):
            for victim in range(n_ranks):
                phases = ("load", "prompt", "decode", "idle")
                for phase in phases if n_ranks == 2 else (phases[(n_ranks + victim) % 4],):
                    self.check_killed(n_ranks, victim, phase, signal.SIGKILL)

    def test_other_deadly_signals(self):
        for number in (signal.SIGSEGV, signal.SIGABRT):
            self.check_killed(2, 1, "decode", number)

    def test_stopped(self):
        self.check_killed(2, 1, "decode", signal.SIGSTOP, TANDEM_WATCHDOG_S=str(SILENCE_S))
        self.check_killed(3, 0, "idle", signal.SIGSTOP, TANDEM_WATCHDOG_S=str(SILENCE_S))

    def test_stopped_all_and_continued(self):
        # A job that is suspended as a whole (Ctrl-Z, a sleeping machine) is not dead.
        with Job(2, "decode", "loop", TANDEM_WATCHDOG_S=str(SILENCE_S)) as job:
            job.wait_until_running()
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in job.pids:
                    os.kill(pid, number)
                time.sleep(SILENCE_S + 1)
            self.assertEqual([is_alive(pid) for pid in job.pids], [True, True], job.stderr())
            os.kill(job.pids[0], signal.SIGTERM)
            self.assertEqual(job.wait_for_end(), 143, job.stderr())

    def test_launcher(self):
        with Job(3, "decode", "loop") as job:
            job.wait_until_running()
            os.kill(job.process.pid, signal.SIGKILL)
            self.assertNotEqual(job.wait_for_end(), 0)

    def test_on_a_node_of_several(self):
        with Job(4, "decode", "loop", TANDEM_FAKE_NODES="2") as job:
            job.wait_until_running()
            os.kill(job.pids[2], signal.SIGKILL)
            self.assertNotEqual(job.wait_for_end(), 0)
            self.assertLessEqual(len(job.lines()), 1, job.stderr())


class Failed(unittest.TestCase):
    def check_failed(self, n_ranks, arguments, status, line, **environment):
        with self.subTest(n_ranks=n_ranks, arguments=arguments), Job(
            n_ranks, *arguments, **environment
        ) as job:
            self.assertEqual(job.wait_for_end(START_LIMIT_S), status, job.stderr())
            self.assertEqual(len(job.lines()), 1, job.stderr())
            self.assertRegex(job.lines()[0], line)

    def test_one_rank_throws(self):
        for n_ranks in (1, 2, 3, 4):
            for rank in range(n_ranks):
                who = "" if rank == 0 else f"rank {rank}: "
                self.check_failed(
                    n_ranks,
                    ("decode", "throw", str(rank)),
                    65,
                    rf"^tandem: {who}model.gguf: block 7 is broken \(fetch it again\)$",
                )

    def test_all_ranks_throw(self):
        for n_ranks in (1, 2, 3, 4):
            self.check_failed(n_ranks, ("prompt", "throw"), 65, "^tandem: model.gguf: block 7 is broken")

    def test_own_bugs(self):
        self.check_failed(
            2, ("decode", "require", "1"), 70, "^tandem: rank 1: internal error at .*: a rule is broken 7$"
        )
        self.check_failed(2, ("load", "throw_other"), 70, "^tandem: internal error: something else$")

    def test_nodes(self):
        self.check_failed(
            4, ("decode", "throw", "3"), 65, "^tandem: rank 3: model.gguf", TANDEM_FAKE_NODES="2"
        )

    def test_same_code_on_every_rank(self):
        codes, _ = harness.codes_of_ranks(3, "decode", "throw", "1", binary=PROGRAM)
        self.assertEqual(codes, [65] * 3)


class Asked(unittest.TestCase):
    def test_signal_to_a_rank(self):
        for n_ranks in (1, 2, 3, 4):
            for victim, number in (
                (0, signal.SIGTERM),
                (n_ranks - 1, signal.SIGTERM),
                (n_ranks - 1, signal.SIGINT),
            ):
                with self.subTest(n_ranks=n_ranks, victim=victim, number=number), Job(
                    n_ranks, "decode", "loop"
                ) as job:
                    job.wait_until_running()
                    os.kill(job.pids[victim], number)
                    self.assertEqual(job.wait_for_end(), 128 + number, job.stderr())
                    self.assertEqual(job.lines(), [])

    def test_signal_to_the_launcher(self):
        for number, statuses in ((signal.SIGTERM, None), (signal.SIGINT, None), (signal.SIGUSR1, [138])):
            with self.subTest(number=number), Job(2, "decode", "loop") as job:
                job.wait_until_running()
                os.kill(job.process.pid, number)
                status = job.wait_for_end()
                self.assertNotEqual(status, 0)
                self.assertTrue(statuses is None or status in statuses, status)

    def test_deaf_rank(self):
        for n_ranks in (1, 3):
            with self.subTest(n_ranks=n_ranks), Job(n_ranks, "decode", "stuck") as job:
                job.wait_until_running()
                os.kill(job.pids[-1], signal.SIGTERM)
                self.assertEqual(job.wait_for_end(), 143)
                self.assertEqual(len(job.lines()), 1, job.stderr())
                self.assertRegex(job.lines()[0], r"^tandem: SIGTERM, and not ended after 2 s \(in decode\)")

    def test_second_signal(self):
        with Job(2, "decode", "stuck") as job:
            job.wait_until_running()
            os.kill(job.pids[0], signal.SIGTERM)
            time.sleep(0.1)
            os.kill(job.pids[0], signal.SIGTERM)
            self.assertEqual(job.wait_for_end(), 143)
            self.assertEqual(job.lines(), [], "it didn't wait for the first one's limit, which says so")

    def test_without_a_launcher(self):
        for what, number in (
            ("loop", signal.SIGTERM),
            ("loop", signal.SIGINT),
            ("loop", signal.SIGUSR1),
            ("stuck", signal.SIGINT),
        ):
            with self.subTest(what=what, number=number), Job(1, "decode", what, launcher=False) as job:
                job.wait_until_running()
                os.kill(job.pids[0], number)
                self.assertEqual(job.wait_for_end(), 128 + number)

    def test_common_return(self):
        for n_ranks in (1, 2, 4):
            with self.subTest(n_ranks=n_ranks), Job(n_ranks, "decode", "return") as job:
                self.assertEqual(job.wait_for_end(START_LIMIT_S), 75, job.stderr())
                self.assertEqual(job.lines(), [])


class Program(unittest.TestCase):
    """The tandem binary itself: wrong use before MPI, on all ranks alike."""

    def run_tandem(self, n_ranks, *arguments):
        return harness.tandem(*arguments, ranks=n_ranks, limit_s=START_LIMIT_S)

    def test_wrong_use(self):
        for n_ranks in (0, 1, 3):
            for arguments, hint in (
                ((), "--help"),
                (("nonsense",), "--help"),
                (("version", "--nope"), "version --help"),
            ):
                with self.subTest(n_ranks=n_ranks, arguments=arguments):
                    result = self.run_tandem(n_ranks, *arguments)
                    self.assertEqual(result.code, 64, result.err)
                    self.assertEqual(len(result.lines()), 1, result.err)
                    self.assertIn(f"tandem {hint}", result.lines()[0])
                    self.assertEqual(result.out, b"")

    def test_help_and_version_come_once(self):
        for n_ranks in (0, 2):
            for arguments, text in (
                (("--help",), "usage: tandem"),
                (("--version",), "\nmpi "),
                (("version", "--help"), "usage: tandem version"),
            ):
                with self.subTest(n_ranks=n_ranks, arguments=arguments):
                    result = self.run_tandem(n_ranks, *arguments)
                    self.assertEqual(result.code, 0, result.err)
                    self.assertEqual(len(re.findall(text, result.text)), 1, result.text)


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    harness.main()
