"""What the end-to-end tests share: tandem started as its users start it, watched from outside, ended for
certain. Standard library only. A test file ends with harness.main(); its command line is

    test_NAME.py TANDEM [unittest arguments]

and the environment names the launcher (MPIEXEC, default mpirun, with MPIEXEC_PREFLAGS) and a folder of real
models (TANDEM_MODELS; tests that want them are skipped where it is unset)."""

import array
import ast
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "hf"
MPIEXEC = os.environ.get("MPIEXEC", "mpirun")
MPIEXEC_PREFLAGS = shlex.split(os.environ.get("MPIEXEC_PREFLAGS", ""))
START_LIMIT_S = 60.0  # a start on a busy machine; no requirement stands on it
# More ranks than cores, and as root in containers; launchers other than Open MPI's ignore it.
LAUNCHER_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
# After which silence tests have a rank given up: on a busy machine a thread waits a second for its core at times.
SILENCE_S = 4
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
SHELL_RANK = "".join(f"${{{name}-" for name in RANK_VARIABLES) + "0" + "}" * len(RANK_VARIABLES)  # in a shell's words

_settings = {"program": os.environ.get("TANDEM_PROGRAM", "")}


def program():
    """The tandem binary under test."""
    return _settings["program"]


def main():
    """Takes the binary's path from the command line and runs the file's tests. Exit 77 (skipped, to ctest)
    where every test of the selection was skipped."""
    _settings["program"] = os.path.abspath(sys.argv.pop(1))
    end(unittest.main(module="__main__", exit=False).result)


def end(result):
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(77 if result.skipped and len(result.skipped) >= result.testsRun else 0)


def real_model(name="SmolLM2-135M-Instruct.Q4_1.gguf"):
    """A real model's path; skips the test where there is none."""
    folder = os.environ.get("TANDEM_MODELS")
    if not folder:
        raise unittest.SkipTest("TANDEM_MODELS is not set")
    path = pathlib.Path(folder) / name
    if not path.is_file():
        raise AssertionError(f"{path}: no such model")
    return str(path)


def golden_model(name="llama"):
    """A tiny model with random weights; its texts mean nothing."""
    return str(GOLDEN / f"{name}.gguf")


def golden_models():
    return sorted(path.stem for path in GOLDEN.glob("*.gguf"))


def environment(scratch, **more):
    """The caller's environment without its TANDEM_ settings, and with a launcher that leaves nothing
    behind."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("TANDEM_")}
    # What a killed launcher leaves behind (session files, Open MPI's segments) goes with the folder.
    env.update(
        **LAUNCHER_ENVIRONMENT,
        TMPDIR=scratch,
        OMPI_MCA_btl_vader_backing_directory=scratch,
    )
    env.update(more)
    return {key: value for key, value in env.items() if value is not None}


def launch(n_ranks, *arguments):
    """The command line for n_ranks ranks; 0: one rank without a launcher."""
    launcher = [MPIEXEC, "-np", str(n_ranks), *MPIEXEC_PREFLAGS] if n_ranks else []
    return [*launcher, *map(str, arguments)]


class Result:
    """How a run ended and what it said."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err.decode(errors="replace")

    @property
    def text(self):
        return self.out.decode()

    def lines(self):
        """What tandem itself said on stderr; the launcher's own words are not ours to judge."""
        return [line for line in self.err.splitlines() if line.startswith("tandem:")]


def tandem(
    *arguments,
    ranks=0,
    stdin=b"",
    stdout=subprocess.PIPE,
    cwd=None,
    limit_s=120.0,
    wrapper=(),
    binary=None,
    **env,
):
    """Runs `tandem ARGUMENTS` to its end. `ranks` 0: without a launcher. `wrapper`: words in front of the
    program, on each rank. Keywords in capitals are environment variables (None: unset)."""
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            launch(ranks, *wrapper, binary or program(), *arguments),
            input=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environment(scratch, **env),
            timeout=limit_s,
            check=False,
        )
    return Result(done.returncode, done.stdout or b"", done.stderr)


def codes_of_ranks(n_ranks, *arguments, limit_s=START_LIMIT_S, **env):
    """The exit code of every rank in the order of ranks, seen by a shell around each: a launcher reports but
    one. It kills the others' process groups when the first one ends, so each shell has a session of its own
    and writes down what its rank did by itself."""
    with tempfile.TemporaryDirectory() as folder:
        script = f'timeout {limit_s} "$@"; echo $? > "$CODES_DIR/.{SHELL_RANK}"; cd "$CODES_DIR"; mv ".{SHELL_RANK}" "{SHELL_RANK}"'
        result = tandem(
            *arguments,
            ranks=n_ranks,
            wrapper=("setsid", "--wait", "sh", "-c", script, "sh"),
            limit_s=limit_s,
            CODES_DIR=folder,
            **env,
        )
        files = [pathlib.Path(folder) / str(rank) for rank in range(n_ranks)]
        wait_for(lambda: all(file.is_file() for file in files), limit_s, "a rank has not ended")
        codes = [int(file.read_text()) for file in files]
    return codes, result


def is_alive(pid):
    """True for a process that still runs; a zombie has ended."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid):
    """The process and all below it."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children") as children:
                    found += map(int, children.read().split())
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def wait_for(condition, limit_s, what):
    """What `condition` returns once that is true; an AssertionError after limit_s. `what` may be a
    function."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {limit_s} s: {what() if callable(what) else what}")
        time.sleep(0.002)


class Job:
    """A running command; leaving the block kills what is left of it. Output goes to files, so that nobody
    has to read it for the job to go on."""

    def __init__(self, command, binary=None, stdin=subprocess.DEVNULL, cwd=None, **env):
        self.binary = os.path.realpath(binary or program())
        self.folder = tempfile.TemporaryDirectory()
        self.streams = {
            name: open(os.path.join(self.folder.name, name), "w+b") for name in ("stdout", "stderr")
        }
        self.process = subprocess.Popen(
            command,
            env=environment(self.folder.name, **env),
            stdin=stdin,
            cwd=cwd,
            start_new_session=True,
            **self.streams,
        )
        self.pids = []  # of the ranks, in their order

    def __enter__(self):
        return self

    def __exit__(self, *_):
        left = descendants(self.process.pid) if is_alive(self.process.pid) else []
        for pid in {*left, *self.pids, self.process.pid}:
            try:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        for stream in self.streams.values():
            stream.close()
        self.folder.cleanup()

    def read(self, name):
        with open(os.path.join(self.folder.name, name), "rb") as file:
            return file.read()

    def stdout(self):
        return self.read("stdout")

    def stderr(self):
        return self.read("stderr").decode(errors="replace")

    def lines(self):
        """What tandem itself said, notes included."""
        return [line for line in re.split(r"[\n\r]", self.stderr()) if line.startswith("tandem:")]

    def find_ranks(self):
        """The ranks' pids by rank, as far as they are there."""
        pids = {}
        for pid in descendants(self.process.pid):
            try:
                if os.path.realpath(f"/proc/{pid}/exe") != self.binary:
                    continue
                with open(f"/proc/{pid}/environ", "rb") as file:
                    env = dict(item.partition("=")[::2] for item in file.read().decode().split("\0"))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            ranks = [int(env[name]) for name in RANK_VARIABLES if name in env]
            pids[ranks[0] if ranks else 0] = pid
        return pids

    def wait_for(self, condition, what, limit_s=START_LIMIT_S):
        """Waits for a condition of a job that has not ended."""

        def holds():
            if condition():
                return True
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the job ended with {self.process.returncode} before {what}: {self.stderr()}"
                )
            return False

        wait_for(holds, limit_s, lambda: f"waiting for {what}: {self.stderr()}")

    def wait_for_ranks(self, n_ranks):
        self.wait_for(lambda: len(self.find_ranks()) == n_ranks, f"{n_ranks} ranks")
        found = self.find_ranks()
        self.pids = [found[rank] for rank in range(n_ranks)]

    def wait_for_text(self, text, name="stdout"):
        self.wait_for(lambda: text in self.read(name), f"{text!r} on {name}")

    def wait_for_end(self, limit_s):
        """The exit status, once the launcher and all ranks are gone."""

        def left():
            return [pid for pid in self.pids if is_alive(pid)]

        wait_for(
            lambda: self.process.poll() is not None and not left(),
            limit_s,
            lambda: f"status {self.process.poll()}, left {left()} of {self.pids}: {self.stderr()}",
        )
        return self.process.returncode


class Npy:
    """A float32 matrix as tandem writes it, read without NumPy."""

    def __init__(self, path):
        content = pathlib.Path(path).read_bytes()
        if content[:8] != b"\x93NUMPY\x01\x00":
            raise AssertionError(f"{path}: not an .npy file of version 1.0")
        n_header = int.from_bytes(content[8:10], "little")
        header = ast.literal_eval(content[10 : 10 + n_header].decode())
        if header["descr"] != "<f4" or header["fortran_order"]:
            raise AssertionError(f"{path}: {header}")
        self.shape = header["shape"]
        self.bytes = content[10 + n_header :]
        if (10 + n_header) % 64 or len(self.bytes) != 4 * self.shape[0] * self.shape[1]:
            raise AssertionError(f"{path}: {len(self.bytes)} bytes for {self.shape}")

    def row(self, i):
        n = self.shape[1]
        return array.array("f", self.bytes[4 * n * i : 4 * n * (i + 1)])


def logits(*arguments, ranks=0, **env):
    """What `tandem logits` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "out.npy")
        result = tandem("logits", *arguments, "-o", path, ranks=ranks, **env)
        if result.code != 0 or os.listdir(folder) != ["out.npy"]:
            raise AssertionError(
                f"{arguments} on {ranks} ranks: {result.code}, {os.listdir(folder)}: {result.err}"
            )
        return Npy(path)


def checked(*arguments, **options):
    """tandem(), which has to end well."""
    result = tandem(*arguments, **options)
    if result.code != 0:
        raise AssertionError(f"{arguments}: {result.code}: {result.err}")
    return result


def token_ids(model, text, *arguments):
    result = checked("tokenize", "-m", model, "-p", text, *arguments)
    return [int(word) for word in result.text.strip("[]\n").split(",") if word.strip()]
