#!/usr/bin/env python3
"""Stands in for `tandem batch -m MODEL -i IN -o OUT` where the sbatch files are tested and not tandem: the same promises
(a journal, 0 / 65 / 75, USR1 and TERM make a checkpoint, ranks end alike), at a pace that the test sets. Environment:
PACE_FILE holds the seconds that a line takes; NOTE_FILE gets what each rank saw when it began, a line a rank."""

import json
import os
import pathlib
import signal
import sys
import time

RANK = next(
    int(os.environ[name])
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
    if name in os.environ
)
SEEN = (
    "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURMD_NODENAME", "SLURM_ARRAY_TASK_ID", "CUDA_VISIBLE_DEVICES",
    "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "PMIX_RANK",
)  # fmt: skip


def note():
    with open(os.environ["NOTE_FILE"], "a") as file:
        seen = {name: os.environ.get(name) for name in SEEN}
        file.write(json.dumps({"rank": RANK, "arguments": sys.argv[1:], "at": time.time(), **seen}) + "\n")


def pace():
    return float(pathlib.Path(os.environ["PACE_FILE"]).read_text())


def main():
    asked = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda n, _: asked.append(n))
    note()
    if sys.argv[1] != "batch":
        return 64
    arguments = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=False))
    output = pathlib.Path(arguments["-o"])
    end = pathlib.Path(f"{output}.{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', 0)}.end")
    if RANK != 0:
        while not end.exists():
            time.sleep(0.05)
        return int(end.read_text())
    code = work(arguments, output, asked)
    end.with_suffix(".tmp").write_text(str(code))
    end.with_suffix(".tmp").rename(end)
    time.sleep(0.3)  # the others end alike before a launcher kills them
    return code


def work(arguments, output, asked):
    if not pathlib.Path(arguments["-m"]).is_file():
        return 74
    journal = pathlib.Path(f"{output}.journal")
    lines = pathlib.Path(arguments["-i"]).read_text().splitlines()
    with open(journal, "a+") as kept:
        kept.seek(0)
        n_done = len(kept.read().splitlines())
        for i in range(n_done, len(lines)):
            deadline = time.monotonic() + pace()
            while time.monotonic() < deadline and not asked:
                time.sleep(0.01)
            if asked:
                return 75
            kept.write(f"answer to {lines[i]}\n")
            kept.flush()
    os.replace(journal, output)
    return 65 if "bad" in lines else 0


if __name__ == "__main__":
    # Not sys.exit(): Python takes its signal handlers away before it ends, and a late USR1 would kill it.
    os._exit(main())
