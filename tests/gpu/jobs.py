"""Whole jobs on GPUs: do all ranks choose the same tokens, and does a job end well: killed while an exchange
spins, refused for want of memory, and time after time by itself."""

import os
import re
import signal
import time

from suite import ALONE, ROOT, SHORT_JOBS, Check, Failed, Skipped, harness

KILLED_LIMIT_S = 5.0
PROMPTS_S = 2.0  # behind the model: roads are measured, and prompts have begun
MEMORY_LIMIT_S = 5.0
MEMORY_SLACK_MIB = 16
GOLDEN = ROOT / "tests" / "golden" / "hf"
ENDLESS_PROMPTS = ("-p", "512", "-n", "0", "-r", "10000")
ENDLESS = ("--seed", "1", "--ignore-eos", "-c", "200000", "-n", "-1", "-p", "a b c")


def model_of(models):
    """A real model where there is one, else a tiny one."""
    path = models / "SmolLM2-135M-Instruct.Q4_1.gguf" if models else None
    return path if path and path.is_file() else GOLDEN / "llama-9-heads-3-kv.gguf"


# --- every rank's tokens


def token_checks(suite, models, n_steps):
    n = min(2, len(suite.gpus))
    agreed = re.compile(r"all (\d+) ranks chose the same (\d+) tokens in (\d+) steps")

    def check(model, comm, sampling):
        done = suite.tandem(
            n,
            "run",
            "-m",
            model,
            "--backend",
            suite.backend,
            "--comm",
            comm,
            "-p",
            "a b c",
            "-c",
            str(n_steps + 64),
            "-n",
            str(n_steps),
            "--ignore-eos",
            "--seed",
            "7",
            *sampling,
            "--verify-ranks",
            "1",
            limit_s=120,
        )
        suite.expect_ok(done)
        found = agreed.search(done.err)
        if not found or found.group(1) != str(n) or int(found.group(3)) < n_steps - 1:
            raise Failed(f"no word of {n_steps} compared steps: {done.said()}")
        return {"steps": int(found.group(3)), "steps_per_s": round(n_steps / done.seconds)}

    ways = {"greedy": ("--temp", "0"), "sampled": ("--temp", "1", "--top-k", "0", "--top-p", "0.95")}
    checks = []
    if n < 2:
        return [Check("tokens", "two GPUs", lambda: skip("one GPU only"))]
    for comm in ("peer", "nccl"):
        for way, sampling in ways.items():
            checks.append(
                Check(
                    "tokens",
                    f"{way}, {comm}",
                    lambda comm=comm, sampling=sampling: check(
                        GOLDEN / "llama-9-heads-3-kv.gguf", comm, sampling
                    ),
                    ALONE,
                )
            )
    return checks


def skip(why):
    raise Skipped(why)


# --- a rank dies while the others' exchange spins


def wait_for_memory(suite, before):
    """Seconds until no GPU holds more than before."""
    start = time.monotonic()
    while True:
        now = suite.gpus.used_mib()
        if all(a <= b + MEMORY_SLACK_MIB for a, b in zip(now, before)):
            return round(time.monotonic() - start, 2)
        if time.monotonic() - start > MEMORY_LIMIT_S:
            raise Failed(f"after {MEMORY_LIMIT_S:.0f} s the GPUs hold {now} MiB, before {before}")
        time.sleep(0.1)


def kill_checks(suite, models):
    def job_of(comm, task):
        args = ("-m", model_of(models), "--backend", suite.backend, "--comm", comm)
        if task == "prompts":  # steps of many tokens, whose sums travel another way than single tokens'
            return harness.launch(2, suite.programs("tandem"), "bench", *args, *ENDLESS_PROMPTS)
        return harness.launch(2, suite.programs("tandem"), "run", *args, *ENDLESS)

    def wait_for_steps(job, task):
        job.wait_for_ranks(2)
        if task == "prompts":  # which print nothing until all are measured
            job.wait_for(lambda: ", loaded in " in job.stderr(), "the model", 60)
            time.sleep(PROMPTS_S)
        else:
            job.wait_for(lambda: len(job.stdout()) > 20, "text", 60)

    def check(comm, victim, task):
        before = suite.gpus.used_mib()
        with harness.Job(job_of(comm, task)) as job:
            wait_for_steps(job, task)
            # Stopped, it sends nothing more, so that the other one's exchange spins; then it dies.
            os.kill(job.pids[victim], signal.SIGSTOP)
            time.sleep(0.3)
            alive = harness.is_alive(job.pids[1 - victim])
            start = time.monotonic()
            os.kill(job.pids[victim], signal.SIGKILL)
            code = job.wait_for_end(KILLED_LIMIT_S)
            seconds = round(time.monotonic() - start, 2)
            said = [line for line in job.lines() if ", loaded in " not in line]
            suite.log(f"killed rank {victim} ({comm}, {task}): {seconds} s, code {code}\n{job.stderr()}")
        if not alive:
            raise Failed("the other rank had ended before the victim died")
        if code == 0 or len(said) != 1 or not re.search(rf"rank {victim} .*died", said[0]):
            raise Failed(f"code {code}, said {said}")
        return {"gone_after_s": seconds, "memory_back_after_s": wait_for_memory(suite, before)}

    if len(suite.gpus) < 2:
        return [Check("killed", "two GPUs", lambda: skip("one GPU only"))]
    return [
        Check(
            "killed",
            f"rank {victim}, {comm}, {task}",
            lambda comm=comm, victim=victim, task=task: check(comm, victim, task),
            stage=ALONE,
        )
        for comm, task in (("peer", "text"), ("peer", "prompts"), ("nccl", "text"), ("mpi", "text"))
        for victim in (1, 0)
    ]


# --- no memory


def refusal_of(line):
    """(size in MiB by name, context that would fit) of the line that refuses a model for want of memory."""
    sizes = {name: int(mib) for name, mib in re.findall(r"([A-Za-z][A-Za-z ]*?) (\d+) MiB", line)}
    fits = re.search(r"(\d+) positions", line)
    if len(sizes) < 3 or not {"weights", "KV cache"} <= sizes.keys() or not fits:
        raise Failed(f"sizes and a context that would fit are not told: {line}")
    return sizes, int(fits.group(1))


def memory_checks(suite, models):
    def check(n):
        arguments = (
            "run",
            "-m",
            model_of(models),
            "--backend",
            "cuda",
            "--mem-fraction",
            "0.02",
            "--temp",
            "0",
        )
        arguments += ("--seed", "1", "--ignore-eos", "-p", "a b c", "-n", "3", "-c")
        before = suite.gpus.used_mib()
        done = suite.tandem(n, *arguments, "100000000")
        lines = done.said()
        if done.code != 69 or len(lines) != 1:
            raise Failed(f"code {done.code}, said {lines}")
        sizes, fits = refusal_of(lines[0])
        suite.expect_ok(suite.tandem(n, *arguments, str(fits)), f"-c {fits}, as advised,")
        return {"mib": sizes, "advised_context": fits, "memory_back_after_s": wait_for_memory(suite, before)}

    if suite.gpus.pretended:
        return [Check("memory", "GPUs", lambda: skip("the CPU stands in"))]
    return [Check("memory", f"{n} gpu", lambda n=n: check(n), ALONE) for n in (1, 2)[: len(suite.gpus)]]


# --- ends, again and again


def exit_checks(suite, models, n_times):
    model = GOLDEN / "llama-9-heads-3-kv.gguf"
    on_gpu = ("-m", model, "--backend", suite.backend)
    text = suite.scratch / "text.txt"
    text.write_text((ROOT / "tests" / "data" / "prose.txt").read_text()[:3000])
    prompts, answers = suite.scratch / "prompts.txt", suite.scratch / "answers.jsonl"
    prompts.write_text("a b c\nb c\nc a\n")
    commands = {  # those that take long first
        "doctor": ("doctor",),
        "bench": ("bench", *on_gpu, "-p", "16", "-n", "8", "-r", "1"),
        "run": ("run", *on_gpu, "-p", "a b c", "-n", "8"),
        "chat": ("chat", *on_gpu, "-n", "4"),
        "batch": ("batch", *on_gpu, "--prompts", prompts, "-o", answers, "-n", "4"),
        "perplexity": ("perplexity", *on_gpu, "-f", text, "-c", "64"),
        "logits": ("logits", *on_gpu, "--tokens", "1,2,3", "-o", "/dev/null"),
        "inspect": ("inspect", model),
        "plan": ("plan", "-m", model),
        "tokenize": ("tokenize", "-m", model, "-p", "a b c"),
        "version": ("version",),
    }
    n_ranks = min(2, len(suite.gpus))
    bad = re.compile(r"error|abort|assert|signal|hang|corrupt|leak|destroy", re.IGNORECASE)

    def check(name):
        command = harness.launch(n_ranks if n_ranks > 1 else 0, suite.programs("tandem"), *commands[name])
        start = time.monotonic()
        for i in range(n_times):
            answers.unlink(missing_ok=True)  # a batch would find its work done
            try:
                done = suite.run(command, 60, stdin=b"hello\n" if name == "chat" else None)
            except Skipped as why:
                raise Skipped(f"{i} times of {n_times} were clean; {why}") from why
            suite.expect_ok(done, f"{i + 1}. time")
            if bad.search(done.err):
                raise Failed(f"{i + 1}. time: {done.err.strip()[-300:]}")
        return {"times": n_times, "each_s": round((time.monotonic() - start) / n_times, 2)}

    checks = [Check("exits", name, lambda name=name: check(name), SHORT_JOBS) for name in commands]
    before = suite.gpus.used_mib()
    checks.append(
        Check("exits", "memory is back", lambda: {"after_s": wait_for_memory(suite, before)}, stage=ALONE)
    )
    return checks
