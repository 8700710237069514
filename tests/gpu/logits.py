"""Are the numbers right on GPUs: float32 against the CPU and Hugging Face's logits, every type of the cache
against the CPU's, real weights against an F32 computation, and the same bits by every road where
--deterministic asks for them."""

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import sys

import numpy as np

from suite import ALONE, ROOT, SHORT_JOBS, Check, Failed, Skipped

GOLDEN = ROOT / "tests" / "golden" / "hf"
CACHES = ("f16", "q8_0", "q4_0")


def cache_of(cache):
    return ("-ctk", cache, "-ctv", cache)


F32 = cache_of("f32")
MOST_KL = 1e-5  # of float32 logits between any two devices
MOST_RELATIVE = 1e-4  # of float32 logits to the golden ones
ABOVE_CPU_CACHE = 1.5  # KL of a cache's type to an f32 cache, in the CPU's of that type
ABOVE_CPU = 1.1  # KL of real weights to F32, in the CPU's
ABOVE_ONE_TOKEN = 1.2  # the same of prompts, batches and a q8_0 cache, in one-token decode's with an f16 cache
BETWEEN_PATHS = 1.5  # KL between two paths, in the CPU's to F32
COMMS = ("peer", "nccl", "mpi")
FAMILIES = ("llama-9-heads-3-kv", "mixtral", "qwen2", "gemma3")
REAL_MODELS = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": "prose.smollm2.tokens.json",
    "gemma-3-270m-q4_k_m.gguf": "prose.gemma3.tokens.json",
}


@dataclasses.dataclass(frozen=True)
class Way:
    """A road through the program."""

    n_gpus: int  # 0: the CPU
    comm: str = "auto"
    graphs: str = "on"
    batch: int = 512

    def __str__(self):
        if self.n_gpus == 0:
            return "cpu"
        comm = "" if self.n_gpus == 1 else f" {self.comm}"
        return f"{self.n_gpus} gpu{comm} graphs {self.graphs} batch {self.batch}"

    def arguments(self, backend):
        if self.n_gpus == 0:
            return ["--backend", "cpu", "-b", "512"]
        return ["--backend", backend, "--comm", self.comm, "--graphs", self.graphs, "-b", str(self.batch)]


def logits(suite, way, model, tokens, *more, limit_s=60.0):
    """float32 (n_tokens, n_vocab), as the program writes them."""
    out = suite.scratch / f"{abs(hash((way, model, len(tokens), more)))}.{next(_counter)}.npy"
    done = suite.tandem(
        max(1, way.n_gpus),
        *("logits", "-m", model, "--tokens", ",".join(map(str, tokens)), "-o", out),
        *way.arguments(suite.backend),
        *more,
        limit_s=limit_s,
    )
    suite.expect_ok(done, str(way))
    values = np.load(out, mmap_mode="r")  # many of them are compared, a gigabyte each
    out.unlink()
    if not np.isfinite(values).all():
        raise Failed(f"{way}: a logit is not a finite number")
    return values


_counter = itertools.count()


def log_probabilities(rows):
    rows = rows.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def all_kl(arrays):
    """(a, b) → mean over positions of KL(a || b), from logits of the same shape by name."""
    first = next(iter(arrays.values()))
    for values in arrays.values():
        if values.shape != first.shape:
            raise Failed(f"logits of {values.shape} beside {first.shape}")

    def sums(position):
        """Σ p_a (log p_a − log p_b): a row each a, a column each b."""
        logs = np.concatenate([log_probabilities(values[position : position + 1]) for values in arrays.values()])
        return np.array([(log - logs) @ np.exp(log) for log in logs])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:  # numpy lets other threads run
        means = sum(pool.map(sums, range(len(first)))) / len(first)
    names = list(arrays)
    return {
        (a, b): float(means[i, j]) for i, a in enumerate(names) for j, b in enumerate(names) if a != b
    }


def mean_kl(reference, candidate):
    return all_kl({"reference": reference, "candidate": candidate})["reference", "candidate"]


def ways(n_gpus):
    """Every road of the machine's GPUs."""
    kinds = (("on", 1), ("off", 1), ("on", 512))
    found = [Way(1, "auto", graphs, batch) for graphs, batch in kinds]
    if n_gpus >= 2:
        found += [Way(2, comm, graphs, batch) for comm in COMMS for graphs, batch in kinds]
    return found


# --- golden logits


def golden_checks(suite, everything):
    known = json.loads((GOLDEN / "tokens.json").read_text())

    def cpu(name):
        return suite.once(
            ("golden", name),
            lambda: logits(suite, Way(0), GOLDEN / f"{name}.gguf", known[name], *F32, "-t", "2"),
        )

    def check(way, names):
        relative, kl = 0.0, 0.0
        for name in names:
            got = logits(suite, way, GOLDEN / f"{name}.gguf", known[name], *F32)
            expected = np.load(GOLDEN / f"{name}.npy")
            relative = max(relative, float(np.abs(got - expected).max() / np.abs(expected).max()))
            kl = max(kl, mean_kl(cpu(name), got))
        result = {
            "models": len(names),
            "largest_relative_error": f"{relative:.1e}",
            "largest_kl_to_cpu": f"{kl:.1e}",
        }
        if not relative <= MOST_RELATIVE or not kl <= MOST_KL:
            raise Failed(str(result))
        return result

    first = {Way(1, "auto", "on", 1), Way(2, "peer", "on", 1), Way(2, "peer", "on", 512)}
    checks = []
    for way in ways(len(suite.gpus)):
        names = list(known) if everything or way in first else list(FAMILIES)
        checks.append(Check("golden", str(way), lambda way=way, names=names: check(way, names), SHORT_JOBS))
    return checks


# --- types of the cache


def cache_checks(suite, models):
    """What a type costs on GPUs is what it costs on the CPU: KL to the CPU's logits with an f32 cache."""
    known = json.loads((GOLDEN / "tokens.json").read_text())
    inputs = {GOLDEN / f"{name}.gguf": known[name] for name in FAMILIES}
    for path in real_models(models):
        tokens = json.loads((ROOT / "tests" / "data" / REAL_MODELS[path.name]).read_text())
        inputs[path] = tokens["segments"][0][:200]

    def cpu(path):
        def make():
            rows = {
                cache: logits(suite, Way(0), path, inputs[path], *cache_of(cache), limit_s=120)
                for cache in ("f32", *CACHES)
            }
            return rows["f32"], {cache: mean_kl(rows["f32"], rows[cache]) for cache in CACHES}

        return suite.once(("caches", path), make)

    def check(way, path):
        exact, costs = cpu(path)
        found = {
            cache: mean_kl(exact, logits(suite, way, path, inputs[path], *cache_of(cache), limit_s=120))
            for cache in CACHES
        }
        return judged_caches(found, costs)

    return [
        Check("caches", f"{path.stem}, {way}", lambda way=way, path=path: check(way, path), SHORT_JOBS)
        for path in inputs
        for way in ways(len(suite.gpus))
        if way.graphs == "on" and way.comm in ("auto", "peer")
    ]


def judged_caches(found, costs):
    """Both: type → mean KL. That of f16 on the CPU is what other roundings of activations make anyway."""
    result = {cache: f"{found[cache]:.2e}, the CPU {costs[cache]:.2e}" for cache in found}
    for cache, kl in found.items():
        if not kl <= ABOVE_CPU_CACHE * max(costs[cache], costs["f16"]) + MOST_KL:
            raise Failed(str(result))
    if not found["q4_0"] > found["q8_0"] > 0:
        raise Failed(f"the cache's type doesn't show: {result}")
    return result


# --- the same bits


def synthetic(suite):
    """A small file of the K formats, made here; skipped where the Python lacks what makes it."""
    path = suite.scratch / "synthetic.gguf"
    command = [
        sys.executable,
        ROOT / "scripts" / "synth_gguf",
        "--arch",
        "llama",
        "--layers",
        "3",
        "--heads",
        "9",
    ]
    command += ["--kv-heads", "3", "--type", "mixed", "--seed", "7", "-o", path]
    done = suite.run(list(map(str, command)), 60)
    if done.code != 0:
        raise Skipped(f"no synthetic model: {done.err.strip().splitlines()[-1:]}")
    return path


def deterministic_checks(suite, models):
    tokens = [1 + (i * 37) % 250 for i in range(150)]

    def all_bits(name, path, n_gpus):
        roads = [way for way in ways(len(suite.gpus)) if way.n_gpus == n_gpus]
        roads += [dataclasses.replace(roads[0], batch=batch) for batch in (7, 64)]
        found = {way: logits(suite, way, path, tokens, "--deterministic") for way in roads}
        first = roads[0]
        for way, values in found.items():
            n_wrong = differing(found[first], values)
            if n_wrong:
                raise Failed(f"{name}: {n_wrong} of {values.size} logits by {way} are not {first}'s")
        return found[first], len(found)

    def check(name, path):
        n_ways, by_gpus = 0, {}
        for n_gpus in (1, 2)[: len(suite.gpus)]:
            by_gpus[n_gpus], n = all_bits(name, path(), n_gpus)
            n_ways += n
        result = {"ways": n_ways}
        if len(by_gpus) == 2:  # two roundings: what shows that the comparison can see one
            result["bits_that_2_gpus_round_otherwise"] = differing(by_gpus[1], by_gpus[2])
            if suite.backend == "cuda" and result["bits_that_2_gpus_round_otherwise"] == 0:
                raise Failed("one GPU and two give the same bits: nothing was compared")
        return result

    def check_batch(name, path):
        outputs = {}
        for n_gpus in (1, 2)[: len(suite.gpus)]:
            outputs[n_gpus] = batch_bytes(suite, name, path(), n_gpus)
        if suite.backend == "cuda" and len(outputs) == 2 and outputs[1] == outputs[2]:
            raise Failed("one GPU and two write the same: nothing was compared")
        return {"bytes": len(outputs[1])}

    paths = {name: lambda name=name: GOLDEN / f"{name}.gguf" for name in ("llama-9-heads-3-kv", "mixtral")}
    paths["synthetic"] = lambda: suite.once("synthetic", lambda: synthetic(suite))
    for path in real_models(models):
        paths[path.stem] = lambda path=path: path
    return [
        Check("deterministic", label, lambda name=name, path=path, work=work: work(name, path), SHORT_JOBS)
        for name, path in paths.items()
        for label, work in ((name, check), (f"batch, {name}", check_batch))
    ]


def batch_bytes(suite, name, path, n_gpus):
    """What `tandem batch` writes with log probabilities, the same however requests meet in its steps: one after
    the other or together, whole prompts or parts of them, beside generated tokens or not."""
    stem = suite.scratch / f"{name}.{n_gpus}.{next(_counter)}"
    requests = stem.with_suffix(".jsonl")
    with requests.open("w") as lines:
        for i in range(14):
            prompt = [1 + (k * 37) % 250 for k in range(70)]  # alike, more than a page: found by the later ones
            prompt += [1 + (k * 11 + 13 * i) % 250 for k in range(17 * i)]
            body = {"prompt": prompt, "max_tokens": 5 + i, "logprobs": 3, "seed": i, "temperature": 0.9}
            body["ignore_eos"] = True
            lines.write(json.dumps({"custom_id": f"q{i}", "method": "POST", "url": "/v1/completions", "body": body}))
            lines.write("\n")
    roads = [("-np", "14"), ("-np", "1"), ("-np", "14", "-b", "48"), ("-np", "5", "--graphs", "off")]
    if n_gpus > 1:
        roads += [("-np", "9", "--comm", comm) for comm in COMMS]
    first = None
    for number, road in enumerate(roads):
        out = stem.with_suffix(f".{number}.out")
        command = ("batch", "-m", path, "--backend", suite.backend, "-i", requests, "-o", out, "-c", "512", *road)
        suite.expect_ok(suite.tandem(n_gpus, *command), f"{name} {road}")
        written = out.read_bytes()
        if first is None:
            first = written
        if written != first or written.count(b"top_logprobs") != 14:
            raise Failed(f"{name}: with {' '.join(road)} a batch writes other bytes than with {' '.join(roads[0])}")
    return first


def differing(a, b):
    """How many float32 of two arrays differ in a bit."""
    if a.shape != b.shape:
        return max(a.size, b.size)
    return int((a.view(np.uint32) != b.view(np.uint32)).sum())


# --- real weights


def real_models(folder):
    return [folder / name for name in REAL_MODELS if folder is not None and (folder / name).is_file()]


def segments_of(tokens_file, n_tokens):
    """The file's texts, as tokens, cut where there are n_tokens in all."""
    found = []
    for tokens in json.loads((ROOT / "tests" / "data" / tokens_file).read_text())["segments"]:
        if n_tokens > 0:
            found.append(tokens[:n_tokens])
        n_tokens -= len(tokens)
    return found


def reference(suite, model, tokens):
    """Logits of bench/quality/reference.py."""
    stem = f"{model.stem}.{next(_counter)}"
    ids, out = suite.scratch / f"{stem}.json", suite.scratch / f"{stem}.npy"
    ids.write_text(json.dumps({"segments": [tokens]}))
    command = [
        sys.executable,
        ROOT / "bench" / "quality" / "kl.py",
        "reference",
        "-m",
        model,
        "--tokens",
        ids,
        "-o",
        out,
    ]
    done = suite.run(list(map(str, command)), 240)
    if "the Python package" in done.err:
        raise Skipped(done.err.strip())
    suite.expect_ok(done, "reference")
    return np.load(out, mmap_mode="r")


def kl_checks(suite, models, n_tokens):
    def inputs(model, index, tokens):
        """The reference's logits and the CPU's: made while others use the GPUs."""

        def make():
            return reference(suite, model, tokens), logits(suite, Way(0), model, tokens, limit_s=120)

        return suite.once(("kl", model, index), make)

    def prepare(model, index, tokens):
        inputs(model, index, tokens)
        return {"tokens": len(tokens)}

    def check(model, segments):
        one_token = Way(1, "auto", "on", 1)
        paths = [(one_token, "f16")]
        paths += [(Way(1, "auto", "on", batch), "f16") for batch in (4, 16, 64, 512)]
        paths += [(Way(1, "auto", "on", batch), "q8_0") for batch in (1, 512)]
        if len(suite.gpus) >= 2:
            paths += [(Way(2, "auto", "on", batch), "f16") for batch in (1, 512)]
            paths.append((Way(2, "auto", "on", 1), "q8_0"))
        kl = {}
        n_all = sum(map(len, segments))
        for index, tokens in enumerate(segments):
            truth, cpu = inputs(model, index, tokens)
            found = {"f32": truth, "cpu": cpu}
            for way, cache in paths:
                name = f"{way}{'' if cache == 'f16' else f' {cache}'}"
                found[name] = logits(suite, way, model, tokens, *cache_of(cache), limit_s=120)
            for pair, mean in all_kl(found).items():
                kl[pair] = kl.get(pair, 0.0) + mean * len(tokens) / n_all
        return judged(
            {b: value for (a, b), value in kl.items() if a == "f32"},
            {f"{a} | {b}": value for (a, b), value in kl.items() if "f32" not in (a, b)},
            str(one_token),
        )

    checks = []
    for path in real_models(models):
        segments = segments_of(REAL_MODELS[path.name], n_tokens)
        for index, tokens in enumerate(segments):
            work = functools.partial(prepare, path, index, tokens)
            checks.append(Check("kl", f"reference of {path.stem}, text {index + 1}", work))
        checks.append(Check("kl", path.stem, functools.partial(check, path, segments), ALONE))
    if not checks:

        def none():
            raise Skipped(f"none of {', '.join(REAL_MODELS)} in --models")

        checks.append(Check("kl", "real weights", none))
    return checks


def judged(to_f32, between, one_token):
    """The largest ratios, which must stay within their bounds. to_f32, between: path → mean KL. one_token: the
    path of one-token decode with an f16 cache."""
    base = to_f32["cpu"]
    if not base > 0:
        raise Failed(f"the CPU's KL is {base}")
    if not np.isfinite([*to_f32.values(), *between.values()]).all():
        raise Failed(f"not finite: {to_f32} {between}")
    worst = max((path for path in to_f32 if path != "cpu"), key=to_f32.get)
    pair = max(between, key=between.get)
    result = {
        "kl_of_cpu": f"{base:.2e}",
        "of_one_token": f"{to_f32[one_token]:.2e} = {to_f32[one_token] / base:.2f} of the CPU's",
        "largest_kl": f"{to_f32[worst]:.2e} = {to_f32[worst] / to_f32[one_token]:.2f} of one token's ({worst})",
        "largest_kl_between": f"{between[pair]:.2e} = {between[pair] / base:.2f} of the CPU's ({pair})",
        "all": {path: f"{value:.3e}" for path, value in to_f32.items()},
    }
    kept = (
        to_f32[one_token] <= ABOVE_CPU * base
        and to_f32[worst] <= ABOVE_ONE_TOKEN * to_f32[one_token]
        and between[pair] <= BETWEEN_PATHS * base
    )
    if not kept:
        raise Failed(str(result))
    return result
