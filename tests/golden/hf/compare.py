"""Holds a program's logits against the golden ones beside this file:

    compare.py --command "mpirun -np 2 build/cpu/tandem" [--arguments "--cache-type f32"] [NAME...]

runs `COMMAND logits -m NAME.gguf --tokens … -o …` for every model (or those named) and asks for
max |a - b| ≤ 1e-4 · max |b|. Exit 0 where all agree. The program must compute in float32 throughout."""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
TOLERANCE = 1e-4


def models():
    """Name → token ids of every golden model."""
    return json.loads((HERE / "tokens.json").read_text())


def golden(name):
    return np.load(HERE / f"{name}.npy")


def relative_error(logits, expected):
    """max |a - b| / max |b|; infinite where the shapes differ or a number is not finite."""
    if logits.shape != expected.shape or not np.isfinite(logits).all():
        return float("inf")
    return float(np.abs(logits.astype(np.float64) - expected).max() / np.abs(expected).max())


def computed(command, arguments, name, tokens):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "logits.npy"
        ids = ",".join(map(str, tokens))
        fixed = ["logits", "-m", HERE / f"{name}.gguf", "--tokens", ids, "-o", out]
        subprocess.run([*shlex.split(command), *fixed, *shlex.split(arguments)], check=True)
        return np.load(out)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--command", required=True)
    parser.add_argument("--arguments", default="", help="further arguments for each run")
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    wrong = 0
    for name, tokens in models().items():
        if args.names and name not in args.names:
            continue
        error = relative_error(computed(args.command, args.arguments, name, tokens), golden(name))
        wrong += not error <= TOLERANCE
        print(f"{name:20} {error:.1e} {'ok' if error <= TOLERANCE else 'WRONG'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"compare.py: {error}")
