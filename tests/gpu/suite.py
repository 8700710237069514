"""What scripts/gpu_check is made of: checks that run side by side or alone, commands with limits, one log and
one summary. A check is a function that returns numbers worth keeping, or raises Failed or Skipped."""

import concurrent.futures
import dataclasses
import datetime
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import typing

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
import harness  # noqa: E402


class Failed(Exception):
    """A check found what must not be."""


class Skipped(Exception):
    """What a check needs is not here."""


# When a check runs. Jobs of two GPUs that are short stay apart from what keeps GPUs busy: kernels that wait for each
# other get their turn rarely beside others. Long ones run alone, as does what looks at the GPUs' memory.
SIDE_BY_SIDE, SHORT_JOBS, ALONE = range(3)


@dataclasses.dataclass
class Check:
    part: str
    name: str
    work: typing.Callable[[], dict]
    stage: int = SIDE_BY_SIDE


@dataclasses.dataclass
class Done:
    """How a command ended; code None: it was ended at its limit."""

    code: int | None
    out: str
    err: str
    seconds: float

    def said(self):
        """What tandem itself said."""
        return [line for line in self.err.replace("\r", "\n").splitlines() if line.startswith("tandem:")]


def only(checks, names):
    """Those whose names contain one of `names`, which commas divide; all where it is None."""
    return [c for c in checks if names is None or any(name in c.name for name in names.split(","))]


class Programs:
    """The binaries by name, in a build folder or in a folder where they lie side by side."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        if not self.folder.is_dir():
            raise Skipped(f"{folder}: no such folder")
        self._paths = {}
        for path in sorted(self.folder.rglob("*")):
            is_program = path.name == "tandem" or path.name.startswith(("test_", "bench_"))
            if is_program and path.is_file() and os.access(path, os.X_OK):
                self._paths.setdefault(path.name, path)

    def __call__(self, name):
        if name not in self._paths:
            raise Skipped(f"no {name} in {self.folder}")
        return str(self._paths[name])

    def like(self, prefix, suffix=""):
        return [name for name in self._paths if name.startswith(prefix) and name.endswith(suffix)]


class Gpus:
    """The GPUs as nvidia-smi tells them. On a machine that only pretends, two CPU ranks stand in."""

    def __init__(self, pretended):
        self.pretended = pretended
        self.names, self.driver, self.are_hopper = [], "", False
        if pretended:
            self.names = ["the CPU"] * 2
            return
        for line in self._query("name,driver_version"):
            name, self.driver = (text.strip() for text in line.rsplit(",", 1))
            self.names.append(name)
        self.are_hopper = all(line.startswith("9.") for line in self._query("compute_cap"))

    def __len__(self):
        return len(self.names)

    def used_mib(self):
        """Memory in use on each GPU."""
        return [] if self.pretended else [int(line) for line in self._query("memory.used")]

    @staticmethod
    def _query(what):
        if not shutil.which("nvidia-smi"):
            return []
        command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.splitlines() if done.returncode == 0 else []


class Suite:
    def __init__(self, programs, gpus, folder, seconds):
        self.programs, self.gpus = programs, gpus
        self.end = time.monotonic() + seconds
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="gpu_check."))
        self.records = []
        self._log = open(self.folder / "gpu_check.log", "w", encoding="utf-8")
        self._lock = threading.Lock()
        self._turn = 0
        self._once = {}
        harness._settings["program"] = programs("tandem")

    # --- commands

    @property
    def backend(self):
        return "cpu" if self.gpus.pretended else "cuda"

    def tandem(self, n_ranks, command, *arguments, limit_s=60.0, **env):
        """Runs tandem on so many GPUs, a rank each; a single one without a launcher, on the GPUs in turn."""
        return self.run(
            harness.launch(n_ranks if n_ranks > 1 else 0, self.programs("tandem"), command, *arguments),
            limit_s,
            **(self.one_gpu() if n_ranks == 1 else {}),
            **env,
        )

    def one_gpu(self):
        """The environment in which the next GPU in turn is the only one."""
        if self.gpus.pretended or len(self.gpus) < 2:
            return {}
        with self._lock:
            self._turn += 1
            return {"CUDA_VISIBLE_DEVICES": str(self._turn % len(self.gpus))}

    def run(self, command, limit_s=60.0, stdin=None, **env):
        """Runs a command to its end or to the limit, with all its output in the log. Skipped where the time for all
        checks ends it before its limit: that shows nothing."""
        asked_s, limit_s = limit_s, max(1.0, min(limit_s, self.end - time.monotonic()))
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
            kept = {k: v for k, v in os.environ.items() if k in ("TANDEM_NCCL_LIBRARY",)}
            kept["GTEST_COLOR"] = "no"  # mpirun gives its ranks a terminal
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env=harness.environment(scratch, **kept, **env),
            )
            code = None
            try:
                out, err = process.communicate(stdin, timeout=limit_s)
                code = process.returncode
            except subprocess.TimeoutExpired:
                end_all(process.pid)
                out, err = process.communicate()
        done = Done(
            code, out.decode(errors="replace"), err.decode(errors="replace"), time.monotonic() - start
        )
        self.log(
            f"$ {shlex.join(map(str, command))[:2000]}  {env or ''}\n"
            f"  code {code} after {done.seconds:.1f} s\n{clipped(done.out)}{clipped(done.err)}"
        )
        if code is None and limit_s < asked_s:
            raise Skipped(f"no time left: it had {limit_s:.0f} s of {asked_s:.0f}")
        return done

    def expect_ok(self, done, what=""):
        """The command, where it ended with 0; else Failed with the last lines that it wrote."""
        if done.code == 0:
            return done
        lines = (done.err.strip() or done.out.strip()).splitlines()[-3:]
        how = f"not within {done.seconds:.0f} s" if done.code is None else f"code {done.code}"
        raise Failed(f"{what}{': ' if what else ''}{how}: {' | '.join(lines)}")

    def once(self, key, make):
        """What `make` gives, made by the first check that asks; the others wait for it."""
        with self._lock:
            future = self._once.get(key)
            mine = future is None
            if mine:
                future = self._once[key] = concurrent.futures.Future()
        if mine:
            try:
                future.set_result(make())
            except Exception as error:
                future.set_exception(error)
        return future.result()

    def log(self, text):
        with self._lock:
            self._log.write(text.rstrip() + "\n")
            self._log.flush()

    # --- checks

    def run_checks(self, checks, width):
        """Stage by stage, so many at once, in the order given."""
        for stage in (SIDE_BY_SIDE, SHORT_JOBS, ALONE):
            with concurrent.futures.ThreadPoolExecutor(1 if stage == ALONE else width) as pool:
                for future in [pool.submit(self._one, check) for check in checks if check.stage == stage]:
                    future.result()

    def _one(self, check):
        start = time.monotonic()
        record = {"part": check.part, "check": check.name, "result": "passed"}
        try:
            if start > self.end - 2:
                raise Skipped("no time left")
            record.update(check.work() or {})
        except Skipped as why:
            record.update(result="skipped", why=str(why))
        except (Failed, AssertionError) as why:
            record.update(result="failed", why=str(why)[:1000])
        except Exception as why:  # a fault of the check's own is a failure, never the end of the others
            record.update(result="failed", why=f"{type(why).__name__}: {why}"[:1000])
        record["seconds"] = round(time.monotonic() - start, 1)
        self.log(f"== {json.dumps(record)}")
        with self._lock:
            self.records.append(record)
            print(
                f"{record['result']:8} {check.part:13} {check.name:44} {record['seconds']:6.1f} s  "
                f"{numbers_of(record)}",
                flush=True,
            )

    def summary(self, commit):
        results = [record["result"] for record in self.records]
        return {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": commit,
            "gpus": self.gpus.names,
            "driver": self.gpus.driver,
            **{name: results.count(name) for name in ("passed", "failed", "skipped")},
            "checks": self.records,
        }

    def close(self):
        self._log.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def end_all(pid):
    """Kills a process and everything below it."""
    for each in reversed(harness.descendants(pid)):
        try:
            os.kill(each, 9)
        except ProcessLookupError:
            pass


def clipped(text, most=6000):
    if len(text) > most:
        text = f"{text[: most // 2]}\n  … {len(text) - most} characters …\n{text[-most // 2 :]}"
    return text.rstrip() + "\n" if text.strip() else ""


def numbers_of(record):
    known = ("part", "check", "result", "seconds")
    return ", ".join(f"{key} {value}" for key, value in record.items() if key not in known)
