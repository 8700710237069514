"""Kills `tandem batch` at random points, again and again, and holds what it writes in the end against an
uninterrupted run: the same bytes, and exactly one record a line. test_batch_resume.py runs some of it; by hand:

    tests/e2e/batch_kills.py TANDEM [KILLS [SEED]]        default 1000 kills, seed 1"""

import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import harness
from batch_support import Batch, mixed_lines

N_LINES = 40
KINDS = ("SIGKILL", "SIGTERM", "SIGUSR1", "torn")
TWO_RANKS = 0.1  # of the cases
LIMIT_S = 60.0
END_LIMIT_S = 10.0  # of all processes, on a busy machine; the checkpoint itself is quicker
REQUEUE = 75
N_MAGIC_BYTES = 8


class Failure(Exception):
    pass


def size_of(path):
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


class Kills:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.lines = mixed_lines(N_LINES, seed)
        self.counts = collections.Counter()
        self.n_kills = 0
        with tempfile.TemporaryDirectory() as folder:
            batch = Batch(folder, self.lines)
            start = time.monotonic()
            whole = batch.run("--keep-journal")
            self.seconds = time.monotonic() - start
            self.code, self.reference = whole.code, batch.bytes()
            self.journal_bytes = size_of(batch.journal)
            self.ids = [result["custom_id"] for result in batch.results()]
        if self.code != 65 or len(self.ids) != N_LINES or len(set(self.ids) - {None}) < N_LINES / 2:
            raise Failure(f"the reference is no good: {self.code}, {whole.err}")

    def start(self, batch, ranks):
        return batch.job(
            "-np", self.rng.choice([1, 3, 16]), "--sync-records", self.rng.choice([1, 64]), ranks=ranks
        )

    def wait_for_a_point(self, batch, job):
        """Until the journal has reached some size, or for some time. False where the job ended first."""
        if self.rng.random() < 0.7:
            wanted = self.rng.randint(1, self.journal_bytes)
            done = lambda: size_of(batch.journal) >= wanted  # noqa: E731
        else:
            deadline = time.monotonic() + self.rng.random() * self.seconds
            done = lambda: time.monotonic() >= deadline  # noqa: E731
        limit = time.monotonic() + LIMIT_S
        while not done():
            if job.process.poll() is not None:
                return False
            if time.monotonic() > limit:
                raise Failure(f"no progress: {job.stderr()}")
            time.sleep(0.0005)
        return job.process.poll() is None

    def tear(self, batch):
        """What a crash of the machine may do to the last record: it is cut short, or followed by anything."""
        n_records = size_of(batch.journal) - N_MAGIC_BYTES
        if n_records > 0 and self.rng.random() < 0.5:
            os.truncate(batch.journal, N_MAGIC_BYTES + n_records - self.rng.randint(1, min(n_records, 400)))
        elif n_records >= 0:
            with open(batch.journal, "ab") as file:
                file.write(bytes(self.rng.randrange(256) for _ in range(self.rng.randint(1, 100))))

    def kill_once(self, batch, ranks):
        kind = self.rng.choice(KINDS)
        number = {"torn": signal.SIGKILL}.get(kind) or getattr(signal, kind)
        with self.start(batch, ranks) as job:
            if not self.wait_for_a_point(batch, job):
                if job.process.poll() != self.code:
                    raise Failure(f"ended with {job.process.poll()}: {job.stderr()}")
                return
            job.pids = list(job.find_ranks().values()) if ranks else []
            for pid in job.pids:
                self.send(pid, number)
            if not job.pids or number == signal.SIGKILL:  # mpirun ends when its ranks have
                self.send(job.process.pid, number)
            started = time.monotonic()
            code = job.wait_for_end(LIMIT_S)
            self.check_end(kind, ranks, code, time.monotonic() - started, job)
        self.n_kills += 1
        self.counts[kind, 2 if ranks else 1] += 1
        if kind == "torn":
            self.tear(batch)

    @staticmethod
    def send(pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def check_end(self, kind, ranks, code, seconds, job):
        if kind in ("SIGKILL", "torn"):
            return
        # Before the program has its handlers it ends as any program does; at its end it may be done.
        if ranks == 0 and code not in (REQUEUE, self.code, -getattr(signal, kind)):
            raise Failure(f"{kind}: ended with {code}: {job.stderr()}")
        if seconds > END_LIMIT_S:  # the second that SIGTERM has is held by test_batch_resume, alone
            raise Failure(f"{kind}: ended after {seconds:.1f} s: {job.stderr()}")

    def case(self):
        """Some kills, then a run to the end."""
        ranks = 2 if self.rng.random() < TWO_RANKS else 0
        with tempfile.TemporaryDirectory() as folder:
            batch = Batch(folder, self.lines)
            for _ in range(self.rng.randint(1, 4)):
                self.kill_once(batch, ranks)
            result = batch.run(ranks=ranks if self.rng.random() < 0.5 else 0, limit_s=LIMIT_S)
            if result.code != self.code or not os.path.exists(batch.output):
                raise Failure(f"the last run ended with {result.code}: {result.err}")
            self.check(batch)

    def check(self, batch):
        if batch.bytes() != self.reference:
            ids = [result["custom_id"] for result in batch.results()]
            raise Failure(f"another output: {ids} in place of {self.ids}")
        if batch.files() != ["out.jsonl"]:
            raise Failure(f"left behind: {batch.files()}")

    def run(self, n_kills, report=None):
        n_cases = 0
        while self.n_kills < n_kills:
            self.case()
            n_cases += 1
            if report:
                report(self.n_kills)
        return n_cases


def main():
    harness._settings["program"] = os.path.abspath(sys.argv[1])
    n_kills = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    kills = Kills(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    start = time.monotonic()
    try:
        n_cases = kills.run(n_kills, lambda n: print(f"\r{n} kills", end="", file=sys.stderr, flush=True))
    except (Failure, subprocess.TimeoutExpired) as failure:
        sys.exit(f"\nafter {kills.n_kills} kills: {failure}")
    counts = ", ".join(
        f"{kind} on {ranks} rank{'s' if ranks > 1 else ''} {n}"
        for (kind, ranks), n in sorted(kills.counts.items())
    )
    print(
        f"\n{kills.n_kills} kills in {n_cases} jobs of {N_LINES} lines, {time.monotonic() - start:.0f} s: every output "
        f"byte-identical, one record a line ({counts})"
    )


if __name__ == "__main__":
    main()
