#!/usr/bin/env python3
"""How far a program's logits lie from an exact computation with the same weights: mean Kullback-Leibler
divergence and top-1 agreement over the positions of a text.

  kl.py reference -m model.gguf --tokens ids.json -o reference.npy      (numpy: bench/quality/reference.py)
  kl.py compare reference.npy candidate.npy [--max-kl 3e-3] [--min-top1 0.97]
  kl.py measure -m model.gguf --tokens ids.json --cache DIR --command "mpirun -np 2 build/cpu/tandem"

A tokens file is JSON: {"segments": [[ids], …]}, each segment a sequence of its own; logits of all segments
follow each other in the .npy files: float32, (n_tokens, n_vocab). measure runs `COMMAND logits -m … --tokens
… -o …` a segment; its reference is kept in DIR under a name made from the model's, the tokens' and the
computation's content."""

import argparse
import hashlib
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
try:
    import numpy as np

    from reference import Reference
except ModuleNotFoundError as missing:
    sys.exit(f"kl.py: the Python package {missing.name} is missing: python3 -m pip install numpy gguf")

ROWS_AT_ONCE = 64


class BadInput(ValueError):
    """Logits or tokens that no comparison can be made with."""


def read_segments(path):
    data = json.loads(pathlib.Path(path).read_text())
    segments = data["segments"] if isinstance(data, dict) else [data]
    if not segments or not all(s and all(isinstance(t, int) for t in s) for s in segments):
        raise BadInput(f"{path}: not a list of token ids, nor of segments of them")
    return segments


def open_logits(path):
    logits = np.load(path, mmap_mode="r")
    if logits.dtype != np.float32 or logits.ndim != 2 or logits.shape[1] < 2:
        raise BadInput(f"{path}: {logits.dtype} {logits.shape}, not float32 (n_tokens, n_vocab)")
    return logits


def log_probabilities(rows, path):
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise BadInput(f"{path}: a logit is not a finite number")
    if (rows.max(axis=1) == rows.min(axis=1)).any():
        raise BadInput(f"{path}: a position whose logits are all equal")
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def compare(reference_path, candidate_path):
    """Statistics over positions: mean_kl with its standard error, median_kl, max_kl, top1, n_positions."""
    reference, candidate = open_logits(reference_path), open_logits(candidate_path)
    if reference.shape != candidate.shape:
        raise BadInput(f"{candidate_path}: {candidate.shape}, but {reference_path} is {reference.shape}")
    divergence, same_top = [], 0
    for begin in range(0, len(reference), ROWS_AT_ONCE):
        p = log_probabilities(reference[begin : begin + ROWS_AT_ONCE], reference_path)
        q = log_probabilities(candidate[begin : begin + ROWS_AT_ONCE], candidate_path)
        divergence.append((np.exp(p) * (p - q)).sum(axis=1))
        same_top += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
    divergence = np.concatenate(divergence)
    return {
        "mean_kl": float(divergence.mean()),
        "mean_kl_error": float(divergence.std() / np.sqrt(len(divergence))),
        "median_kl": float(np.median(divergence)),
        "max_kl": float(divergence.max()),
        "top1": same_top / len(divergence),
        "n_positions": len(divergence),
    }


def reference_logits(model, segments, output):
    """Computes the reference and writes it row by row; (n_tokens, n_vocab) float32 at `output`."""
    reference, out, at = Reference(model), None, 0
    n_tokens = sum(map(len, segments))
    part = pathlib.Path(f"{output}.part")
    for segment in segments:
        logits = reference.logits(segment)
        if out is None:
            out = np.lib.format.open_memmap(part, "w+", np.float32, (n_tokens, logits.shape[1]))
        out[at : at + len(segment)] = logits
        at += len(segment)
    out.flush()
    part.replace(output)


def cached_reference(model, segments, folder):
    """The path of the reference's logits, computed where the folder lacks them."""
    digest = hashlib.sha256(json.dumps(segments).encode())
    for path in (model, pathlib.Path(__file__).with_name("reference.py")):
        with open(path, "rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{pathlib.Path(model).stem}.{digest.hexdigest()[:16]}.npy"
    if not path.exists():
        reference_logits(model, segments, path)
    return path


def candidate_logits(command, model, segments, output):
    """Runs the program a segment at a time and joins what it wrote."""
    out, at = None, 0
    with tempfile.TemporaryDirectory() as folder:
        for segment in segments:
            path = pathlib.Path(folder) / "logits.npy"
            arguments = ["logits", "-m", model, "--tokens", ",".join(map(str, segment)), "-o", path]
            subprocess.run([*shlex.split(command), *arguments], check=True)
            logits = open_logits(path)
            if len(logits) != len(segment):
                raise BadInput(f"{command}: logits of {len(logits)} positions for {len(segment)} tokens")
            if out is None:
                shape = (sum(map(len, segments)), logits.shape[1])
                out = np.lib.format.open_memmap(output, "w+", np.float32, shape)
            out[at : at + len(segment)] = logits
            at += len(segment)
    out.flush()


def report(statistics, args):
    """Prints the statistics; false where a bound that was asked for does not hold."""
    if args.json:
        print(json.dumps(statistics))
    else:
        s = statistics
        print(
            f"mean KL {s['mean_kl']:.3e} ± {s['mean_kl_error']:.1e}, median {s['median_kl']:.3e}, largest "
            f"{s['max_kl']:.3e}; top-1 agreement {100 * s['top1']:.2f} % of {s['n_positions']} positions"
        )
    return statistics["mean_kl"] <= args.max_kl and statistics["top1"] >= args.min_top1


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    reference, comparer, measure = (commands.add_parser(n) for n in ("reference", "compare", "measure"))
    for p in (reference, measure):
        p.add_argument("-m", "--model", required=True)
        p.add_argument("--tokens", required=True, metavar="JSON")
    reference.add_argument("-o", "--output", required=True, metavar="NPY")
    comparer.add_argument("reference")
    comparer.add_argument("candidate")
    measure.add_argument("--cache", required=True, metavar="DIR", help="where the reference is kept")
    measure.add_argument("--command", required=True, help='for example "mpirun -np 2 build/cpu/tandem"')
    for p in (comparer, measure):
        p.add_argument("--max-kl", type=float, default=float("inf"), help="fail where the mean KL is larger")
        p.add_argument(
            "--min-top1", type=float, default=0, help="fail where the agreement is smaller (0 to 1)"
        )
        p.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def main(arguments):
    args = parse(arguments)
    if args.what == "reference":
        reference_logits(args.model, read_segments(args.tokens), args.output)
        return 0
    if args.what == "compare":
        return 0 if report(compare(args.reference, args.candidate), args) else 1
    segments = read_segments(args.tokens)
    reference = cached_reference(args.model, segments, pathlib.Path(args.cache))
    # Beside the reference and not in /tmp: these files are as large as the vocabulary times the text.
    with tempfile.NamedTemporaryFile(suffix=".npy", dir=reference.parent) as candidate:
        candidate_logits(args.command, args.model, segments, candidate.name)
        return 0 if report(compare(reference, candidate.name), args) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"kl.py: {error}")
