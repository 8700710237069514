"""How a job ends: killed, stopped, failed, asked to. Each case starts job_program (the real job frame with a loop of
collectives in it) under mpirun, does something to one rank, and checks that within LIMIT_S every process is gone, that
the exit status says so, and that exactly one line tells which rank it was.

    test_endings.py JOB_PROGRAM TANDEM [-k PATTERN]      MPIEXEC names the launcher (default mpirun)
"""
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

LIMIT_S = 5.0
START_LIMIT_S = 60.0
PROGRAM = TANDEM = None
MPIEXEC = os.environ.get("MPIEXEC", "mpirun")
# More ranks than cores, and as root in containers; launchers other than Open MPI's ignore it.
LAUNCHER_ENV = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                "OMPI_MCA_rmaps_base_oversubscribe": "1"}


def is_alive(pid):
    """True for a process that still runs; a zombie has ended."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Job:
    """N ranks of job_program; leaving the block kills what is left of them."""

    def __init__(self, n_ranks, *arguments, launcher=True, **environment):
        self.n_ranks = n_ranks
        self.folder = tempfile.TemporaryDirectory()
        command = [MPIEXEC, "-np", str(n_ranks)] if launcher else []
        # What a killed launcher leaves behind (session files, Open MPI's segments) goes with the folder.
        self.env = dict(os.environ, **LAUNCHER_ENV,
                        PID_DIR=self.folder.name, TMPDIR=self.folder.name,
                        OMPI_MCA_btl_vader_backing_directory=self.folder.name, **environment)
        self.output = open(os.path.join(self.folder.name, "stderr"), "w+b")
        self.process = subprocess.Popen(command + [PROGRAM, *arguments], env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=self.output, start_new_session=True)
        self.pids = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self.pids + [self.process.pid]:
            try:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.output.close()
        self.folder.cleanup()

    def wait_until_running(self):
        deadline = time.monotonic() + START_LIMIT_S
        while len(self.pids) < self.n_ranks:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"the job did not start: {self.stderr()}")
            self.pids = []
            for rank in range(self.n_ranks):
                try:
                    with open(os.path.join(self.folder.name, str(rank))) as file:
                        text = file.read()
                except FileNotFoundError:
                    break
                if not text.endswith("\n"):
                    break
                self.pids.append(int(text))
            time.sleep(0.01)
        time.sleep(0.05)

    def stderr(self):
        self.output.seek(0)
        return self.output.read().decode(errors="replace")

    def lines(self):
        """What tandem itself said; the launcher's own words are not ours to judge."""
        return [line for line in self.stderr().splitlines() if line.startswith("tandem:")]

    def wait_for_end(self, limit_s=LIMIT_S):
        """The exit status, once the launcher and all ranks are gone."""
        deadline = time.monotonic() + limit_s
        while True:
            status = self.process.poll()
            left = [pid for pid in self.pids if is_alive(pid)]
            if status is not None and not left:
                return status
            if time.monotonic() > deadline:
                raise AssertionError(f"after {limit_s} s: status {status}, left {left} of {self.pids}: {self.stderr()}")
            time.sleep(0.01)


class Killed(unittest.TestCase):
    def check_killed(self, n_ranks, victim, phase, number, **environment):
        with self.subTest(n_ranks=n_ranks, victim=victim, phase=phase), \
                Job(n_ranks, phase, "loop", **environment) as job:
            job.wait_until_running()
            os.kill(job.pids[victim], number)
            self.assertNotEqual(job.wait_for_end(LIMIT_S + float(environment.get("TANDEM_WATCHDOG_S", 0))), 0)
            if n_ranks == 1:
                self.assertEqual(job.lines(), [])
                return
            self.assertEqual(len(job.lines()), 1, job.stderr())
            how = "gave no sign of life" if number == signal.SIGSTOP else "died"
            self.assertRegex(job.lines()[0], rf"rank {victim} \(pid {job.pids[victim]} on \S+\) {how} in {phase};")

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
        self.check_killed(2, 1, "decode", signal.SIGSTOP, TANDEM_WATCHDOG_S="1")
        self.check_killed(3, 0, "idle", signal.SIGSTOP, TANDEM_WATCHDOG_S="1")

    def test_stopped_all_and_continued(self):
        # A job that is suspended as a whole (Ctrl-Z, a sleeping machine) is not dead.
        with Job(2, "decode", "loop", TANDEM_WATCHDOG_S="0.5") as job:
            job.wait_until_running()
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in job.pids:
                    os.kill(pid, number)
                time.sleep(1.5)
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
        with self.subTest(n_ranks=n_ranks, arguments=arguments), Job(n_ranks, *arguments, **environment) as job:
            self.assertEqual(job.wait_for_end(START_LIMIT_S), status, job.stderr())
            self.assertEqual(len(job.lines()), 1, job.stderr())
            self.assertRegex(job.lines()[0], line)

    def test_one_rank_throws(self):
        for n_ranks in (1, 2, 3, 4):
            for rank in range(n_ranks):
                who = "" if rank == 0 else f"rank {rank}: "
                self.check_failed(n_ranks, ("decode", "throw", str(rank)), 65,
                                  rf"^tandem: {who}model.gguf: block 7 is broken \(fetch it again\)$")

    def test_all_ranks_throw(self):
        for n_ranks in (1, 2, 3, 4):
            self.check_failed(n_ranks, ("prompt", "throw"), 65, "^tandem: model.gguf: block 7 is broken")

    def test_own_bugs(self):
        self.check_failed(2, ("decode", "require", "1"), 70, "^tandem: rank 1: internal error at .*: a rule is broken 7$")
        self.check_failed(2, ("load", "throw_other"), 70, "^tandem: internal error: something else$")

    def test_nodes(self):
        self.check_failed(4, ("decode", "throw", "3"), 65, "^tandem: rank 3: model.gguf", TANDEM_FAKE_NODES="2")

    def test_same_code_on_every_rank(self):
        # Seen through a shell around each rank, since a launcher reports but one.
        script = f'trap : TERM; "{PROGRAM}" decode throw 1; echo "code $?" >> "$PID_DIR/codes"'
        with tempfile.TemporaryDirectory() as folder:
            env = dict(os.environ, **LAUNCHER_ENV, PID_DIR=folder)
            subprocess.run([MPIEXEC, "-np", "3", "sh", "-c", script], env=env, timeout=START_LIMIT_S,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            with open(os.path.join(folder, "codes")) as codes:
                self.assertEqual(codes.read().split("\n")[:-1], ["code 65"] * 3)


class Asked(unittest.TestCase):
    def test_signal_to_a_rank(self):
        for n_ranks in (1, 2, 3, 4):
            for victim, number in ((0, signal.SIGTERM), (n_ranks - 1, signal.SIGTERM), (n_ranks - 1, signal.SIGINT)):
                with self.subTest(n_ranks=n_ranks, victim=victim, number=number), \
                        Job(n_ranks, "decode", "loop") as job:
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
            start = time.monotonic()
            os.kill(job.pids[0], signal.SIGTERM)
            time.sleep(0.1)
            os.kill(job.pids[0], signal.SIGTERM)
            self.assertEqual(job.wait_for_end(), 143)
            self.assertLess(time.monotonic() - start, 1.8)
            self.assertEqual(job.lines(), [])

    def test_without_a_launcher(self):
        for what, number in (("loop", signal.SIGTERM), ("loop", signal.SIGINT), ("loop", signal.SIGUSR1),
                             ("stuck", signal.SIGINT)):
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
        command = [MPIEXEC, "-np", str(n_ranks), TANDEM] if n_ranks > 0 else [TANDEM]
        env = dict(os.environ, **LAUNCHER_ENV)
        return subprocess.run(command + list(arguments), env=env, capture_output=True, text=True, check=False,
                              timeout=START_LIMIT_S)

    def test_wrong_use(self):
        for n_ranks in (0, 1, 3):
            for arguments, hint in (((), "--help"), (("nonsense",), "--help"), (("version", "--nope"), "version --help")):
                with self.subTest(n_ranks=n_ranks, arguments=arguments):
                    result = self.run_tandem(n_ranks, *arguments)
                    lines = [line for line in result.stderr.splitlines() if line.startswith("tandem:")]
                    self.assertEqual(result.returncode, 64, result.stderr)
                    self.assertEqual(len(lines), 1, result.stderr)
                    self.assertIn(f"tandem {hint}", lines[0])
                    self.assertEqual(result.stdout, "")

    def test_help_and_version_come_once(self):
        for n_ranks in (0, 2):
            for arguments, text in ((("--help",), "usage: tandem"), (("--version",), "\nmpi "),
                                    (("version", "--help"), "usage: tandem version")):
                with self.subTest(n_ranks=n_ranks, arguments=arguments):
                    result = self.run_tandem(n_ranks, *arguments)
                    self.assertEqual(result.returncode, 0, result.stderr)
                    self.assertEqual(len(re.findall(text, result.stdout)), 1, result.stdout)


if __name__ == "__main__":
    PROGRAM, TANDEM = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
