"""The kernels' own tests: as they are, under compute-sanitizer, and as compute_70 PTX that the driver
compiles for the GPU that is here."""

import functools
import re
import shutil

from suite import ROOT, Check, Failed, Skipped, harness

GOLDEN = ROOT / "tests" / "golden" / "hf"

# Every test of a program that needs a GPU is skipped where there is none: that is no pass.
SKIPPED = re.compile(r"\[  SKIPPED \] (\d+) test")
PASSED = re.compile(r"\[  PASSED  \] (\d+) test")

# A tool, what of which program it watches, and in how many processes: so that each ends within a minute.
SANITIZED = [
    ("memcheck", "test_cuda_gemv", "*AgreesWithTheReference*:*Gates*:*EmptyShards*:*RunsInAGraph*", 6),
    ("memcheck", "test_cuda_gemv", "*Shards*:*Parts*:*PairsOfFormats*:*Activations*:*ManyRows*", 4),
    ("memcheck", "test_cuda_products", "*GatesMeet*:*PartsHave*:*Shards*", 4),
    ("memcheck", "test_cuda_prompt_attention", "*EveryHeadSizeAnd*:*Windows*:*Beside*:*MoreSequences*", 4),
    ("memcheck", "test_cuda_norm", "*", 1),
    ("memcheck", "test_cuda_sampling", "*", 2),
    ("memcheck", "test_cuda_attention", "*-*EveryContext*:*EveryGroup*:*PiecesOfManyPages*:*NormsAnd*", 4),
    ("racecheck", "test_cuda_gemv", "*Gates*:*EmptyShards*:*RunsInAGraph*:*PairsOfFormats*", 6),
    ("racecheck", "test_cuda_products", "*GatesMeet*", 4),
    ("racecheck", "test_cuda_prompt_attention", "*EveryHeadSizeAnd*:*Beside*:*Records*", 3),
    ("racecheck", "test_cuda_norm", "*", 1),
    ("racecheck", "test_cuda_attention", "*EveryCacheType*:*FormsAre*:*ScoresFarApart*:*AGraph*", 4),
    # Ranks that wait for each other on one GPU never meet where kernels are taken one at a time.
    ("racecheck", "test_cuda_sampling", "*AFewCases*:*TokensBecome*", 2),
    ("synccheck", "test_cuda_gemv", "*Gates*:*PairsOfFormats*:*RunsInAGraph*", 4),
    ("synccheck", "test_cuda_products", "*GatesMeet*", 2),
    ("synccheck", "test_cuda_prompt_attention", "*EveryHeadSizeAnd*:*Beside*", 2),
    ("synccheck", "test_cuda_norm", "*", 1),
    ("synccheck", "test_cuda_sampling", "*", 2),
    ("synccheck", "test_cuda_attention", "*EveryCacheType*:*EveryHeadSize*:*Prompts*", 3),
]
NO_KERNELS = {"test_cuda_memory", "test_cuda_step_clock"}  # nothing for a tool that watches kernels
HOPPER_ALONE = {"test_cuda_gemm"}  # programs whose kernels are code for it
NOT_LISTED = "*"  # a program of kernels that the list doesn't know: all of it


def tally(out):
    """(passed, skipped) of a GoogleTest program."""
    return tuple(sum(map(int, pattern.findall(out))) for pattern in (PASSED, SKIPPED))


def ran(suite, done, what=""):
    """Numbers of a test program that ended well and ran something."""
    suite.expect_ok(done, what)
    passed, skipped = tally(done.out)
    if passed <= 0:
        raise Failed(f"nothing ran ({skipped} skipped)")
    return {"tests": passed, **({"tests_skipped": skipped} if skipped else {})}


def shards(n, i, **env):
    return {"GTEST_TOTAL_SHARDS": str(n), "GTEST_SHARD_INDEX": str(i), **env}


def programs_of(suite):
    others = set() if suite.gpus.are_hopper else HOPPER_ALONE
    return [name for name in suite.programs.like("test_cuda_") if not name.endswith("_ptx") and name not in others]


def kernel_checks(suite):
    def check(name):
        return ran(suite, suite.run([suite.programs(name)], 300, **suite.one_gpu()))

    def collective(n_ranks):
        command = [*harness.launch(n_ranks), suite.programs("test_device_collective")]
        return ran(suite, suite.run(command, 120))

    checks = [Check("kernels", name, lambda name=name: check(name)) for name in programs_of(suite)]
    for n in (1, 2)[: len(suite.gpus)]:
        checks.append(Check("kernels", f"test_device_collective on {n}", lambda n=n: collective(n)))
    if not programs_of(suite):
        checks.append(Check("kernels", "test_cuda_*", lambda: suite.programs("test_cuda_gemv")))
    return checks


def sanitizer():
    path = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if not path:
        raise Skipped("no compute-sanitizer")
    return path


def watched(tool, *command):
    # Calls that fail are no accesses: some tests ask for them, and NCCL tries what a driver may refuse.
    more = ["--report-api-errors", "no"] if tool == "memcheck" else []
    return [
        sanitizer(),
        "--tool",
        tool,
        "--error-exitcode",
        "99",
        "--print-limit",
        "20",
        *more,
        *map(str, command),
    ]


def expect_clean(done, n=1):
    """Each of n processes that were watched has to say that it saw nothing."""
    said = done.out + done.err
    if len(re.findall(r"ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards", said)) != n:
        lines = [line for line in said.splitlines() if line.startswith("=========")]
        raise Failed(f"code {done.code} after {done.seconds:.0f} s: {' | '.join(lines[1:5] + lines[-1:])}")


def sanitizer_checks(suite, limit_s):
    listed = list(SANITIZED)
    for name in programs_of(suite):
        if name not in NO_KERNELS | {program for _, program, _, _ in SANITIZED}:
            listed += [(tool, name, NOT_LISTED, 2) for tool in ("memcheck", "racecheck", "synccheck")]

    def check(tool, name, tests, n, i):
        command = watched(tool, suite.programs(name), f"--gtest_filter={tests}")
        done = suite.run(command, limit_s, **shards(n, i), **suite.one_gpu())
        expect_clean(done)
        return ran(suite, done)

    checks = []
    for tool, name, tests, n in listed:
        for i in range(n):
            label = f"{tool} {name} {tests[:16]}{f' {i + 1}/{n}' if n > 1 else ''}"
            work = functools.partial(check, tool, name, tests, n, i)
            checks.append(Check("sanitizer", label, work))
    return checks + step_checks(suite, limit_s)


def step_checks(suite, limit_s):
    """Whole steps under the memory checker: direct, recorded and replayed; alone and with a peer's window."""

    def check(model, n, comm):
        command = ["logits", "-m", GOLDEN / f"{model}.gguf", "--tokens", "1,2,3,4,5,6", "-b", "1"]
        command += ["--backend", suite.backend, "--comm", comm, "-o", "/dev/null"]
        launcher = harness.launch(n if n > 1 else 0)
        watch = watched("memcheck", suite.programs("tandem"), *command)
        done = suite.run([*launcher, *watch], limit_s, **(suite.one_gpu() if n == 1 else {}))
        expect_clean(done, n)
        suite.expect_ok(done)

    ways = [(model, 1, "auto") for model in ("llama-9-heads-3-kv", "mixtral", "gemma3")]
    if len(suite.gpus) >= 2:
        ways += [("llama-9-heads-3-kv", 2, "peer"), ("mixtral", 2, "nccl")]
    return [
        Check(
            "sanitizer", f"memcheck tandem {model}, {n} gpu {comm}", functools.partial(check, model, n, comm)
        )
        for model, n, comm in ways
    ]


def volta_checks(suite, limit_s):
    cache = suite.scratch / "jit"

    def check(name, n, i):
        path = suite.programs(name)
        only_ptx(suite, path)
        env = {"CUDA_CACHE_PATH": str(cache), "CUDA_CACHE_MAXSIZE": str(1 << 30)}
        launcher = harness.launch(1 if "collective" in name else 0)  # an MPI program
        return ran(suite, suite.run([*launcher, path], limit_s, **shards(n, i), **env, **suite.one_gpu()))

    checks = []
    for name in suite.programs.like("test_", "_ptx"):
        n = 6 if "gemv" in name else 1
        checks += [
            Check(
                "volta",
                f"{name}{f' {i + 1}/{n}' if n > 1 else ''}",
                lambda name=name, n=n, i=i: check(name, n, i),
            )
            for i in range(n)
        ]
    return checks or [Check("volta", "test_*_ptx", lambda: suite.programs("test_cuda_gemv_ptx"))]


def only_ptx(suite, path):
    """The program holds PTX of compute_70 and no machine code, so that what runs is what the driver made."""
    tool = shutil.which("cuobjdump") or shutil.which("cuobjdump", path="/usr/local/cuda/bin")
    if tool is None:
        raise Skipped("no cuobjdump to look into the program")

    def look():
        machine, ptx = (suite.run([tool, option, path], 60).out for option in ("--list-elf", "--list-ptx"))
        if "sm_" in machine or not re.findall(r"\.sm_70\.ptx", ptx) or re.search(r"\.sm_(?!70)\d+\.ptx", ptx):
            raise Failed(f"not PTX of compute_70 alone: {machine.strip()[:200]} {ptx.strip()[:200]}")

    suite.once(("only ptx", path), look)
