"""`tandem plan`: what it says is what a job then takes, and it needs neither ranks nor a GPU nor a file."""

import json
import re
import unittest

import harness
from harness import checked, golden_model, golden_models, real_model, tandem

MIB = 1 << 20
V100 = "31141MiB"


def plan(*arguments, **more):
    return json.loads(checked("plan", "--json", *arguments, **more).out)


def measured(model, ranks, *arguments):
    """What each rank of a real run says of its memory, in MiB: weights, cache, step buffers."""
    text = (harness.ROOT / "LICENSE").read_text()[:900]  # some 180 tokens at least: a full step
    result = checked(
        "run", "-m", model, "-p", text, "-n", 1, "-v", "--temp", 0, "--backend", "cpu", *arguments,
        ranks=ranks, limit_s=240,
    )  # fmt: skip
    found = {}
    for rank, weights, cache in re.findall(
        r"rank (\d+): CPU .*weights ([\d.]+) MiB, KV cache ([\d.]+) MiB", result.err
    ):
        found[int(rank)] = [float(weights), float(cache)]
    for rank, buffers in re.findall(r"^tandem: (?:rank (\d+): )?step buffers ([\d.]+) MiB", result.err, re.M):
        found[int(rank or 0)].append(float(buffers))
    return [found[rank] for rank in sorted(found)]


def n_apart(planned, real, tolerance=0.02):
    """How many of a rank's sizes are further apart than that share (and what the printed digits hide)."""
    sizes = [planned[name] / MIB for name in ("weight_bytes", "cache_bytes", "workspace_bytes")]
    return sum(abs(a - b) > tolerance * b + 0.051 for a, b in zip(sizes, real, strict=True))


class Measured(unittest.TestCase):
    def check(self, model, ranks, *arguments, split=(), n_context=4096):
        arguments = ("-c", n_context, "-b", 128, *arguments, *split)
        planned = plan(model, "--backend", "cpu", "-np", max(1, ranks), *arguments)["per_rank"]
        real = measured(model, ranks, *arguments)
        self.assertEqual(len(planned), len(real))
        for mine, theirs in zip(planned, real, strict=True):
            self.assertEqual(n_apart(mine, theirs), 0, (mine, theirs))
        return planned, real

    def test_tiny_models(self):
        for name in golden_models():
            for ranks, split in ((0, ()), (2, ("--split", "3,1"))):
                with self.subTest(model=name, ranks=ranks):
                    if "mixtral" in name:
                        continue  # with experts the step buffers are a bound
                    self.check(golden_model(name), ranks, split=split, n_context=2048)
        for split in ((), ("--split", "3,0,1")):
            self.check(golden_model(), 3, split=split, n_context=2048)

    def test_the_comparison_rejects(self):
        planned, real = self.check(golden_model(), 2, n_context=2048)
        for i in range(3):
            wrong = list(real[0])
            wrong[i] = 1.04 * wrong[i] + 0.1
            self.assertEqual(n_apart(planned[0], wrong), 1)


class RealModels(Measured):
    """The same on real models, where sizes are large enough to be read to a thousandth."""

    def test_tiny_models(self):
        for ranks, split in ((0, ()), (1, ()), (2, ()), (3, ()), (2, ("--split", "3,1"))):
            with self.subTest(ranks=ranks, split=split):
                self.check(real_model(), ranks, split=split)

    def test_gemma(self):
        for cache in ("f32", "q8_0", "q4_0"):
            self.check(real_model("gemma-3-270m-q4_k_m.gguf"), 2, "-ctk", cache, "-ctv", cache)

    def test_the_comparison_rejects(self):
        pass


class Questions(unittest.TestCase):
    def test_fits_as_asked(self):
        found = plan("--preset", "llama-3.1-70b", "-np", 2, "--memory", V100, "-c", 8192)
        self.assertTrue(found["fits"])
        self.assertEqual(found["usable_bytes"], int(31141 * MIB * 0.95))
        self.assertGreaterEqual(found["largest_context"], 8192)
        at_the_edge = plan(
            "--preset", "llama-3.1-70b", "-np", 2, "--memory", V100, "-c", found["largest_context"]
        )
        self.assertTrue(at_the_edge["fits"])
        beyond = plan(
            "--preset", "llama-3.1-70b", "-np", 2, "--memory", V100, "-c", found["largest_context"] + 64
        )
        self.assertFalse(beyond["fits"])
        n = found["largest_sequences"]
        for parallel, fits in ((n, True), (n + 1, False)):
            self.assertEqual(
                plan("--preset", "llama-3.1-70b", "-np", 2, "--memory", V100, "-c", 8192, "--parallel", parallel)[
                    "fits"
                ],
                fits,
            )
        self.assertFalse(plan("--preset", "llama-3.1-70b", "--type", "Q8_0", "-np", 2, "--memory", V100)["fits"])

    def test_contexts_that_no_memory_holds(self):
        far = ("--preset", "llama-3.1-70b", "-np", 2, "--memory", "80GB", "-c", 1 << 27)
        found = plan(*far)
        self.assertEqual((found["fits"], found["largest_sequences"]), (False, 0))
        found = plan(*far, "--parallel", 1 << 16)
        self.assertEqual((found["fits"], found["largest_context"]), (False, 0))
        self.assertGreater(found["largest_total_bytes"], 1 << 50)

    def test_without_memory_it_does_not_judge(self):
        found = plan("--preset", "yi-34b")
        self.assertIsNone(found["fits"])
        self.assertIn("--memory", tandem("plan", "--preset", "yi-34b").text)

    def test_sizes_of_memory(self):
        self.assertEqual(tandem("plan", "--preset", "yi-34b", "--memory", "24").code, 64)
        for text, n in (("32GB", 32 * 10**9), ("32GiB", 32 << 30), ("32g", 32 << 30), ("1e9", 10**9), ("80gb", 80 * 10**9)):
            self.assertEqual(plan("--preset", "yi-34b", "--memory", text)["memory_bytes"], n)
        for text in ("", "GB", "-1GB", "nan", "12XB", "1 2", "0", "1e99"):
            result = tandem("plan", "--preset", "yi-34b", f"--memory={text}")
            self.assertEqual((result.code, result.out), (64, b""), text)

    def test_bad_questions(self):
        for arguments, code in (
            ((), 64),
            (("--preset", "gpt-5"), 64),
            (("--preset", "yi-34b", "--type", "Q9"), 64),
            (("--preset", "yi-34b", golden_model()), 64),
            (("--preset", "yi-34b", "--split", "1,1", "-np", 3), 64),
            (("--preset", "yi-34b", "-ctk", "f32"), 64),
            (("--preset", "yi-34b", "-np", 4000), 64),
            (("/nowhere.gguf",), 74),
            ((harness.ROOT / "README.md",), 65),
        ):
            with self.subTest(arguments=arguments):
                result = tandem("plan", *arguments)
                self.assertEqual((result.code, result.out), (code, b""), result.err)
                self.assertEqual(len(result.lines()), 1, result.err)

    def test_split_names_the_ranks(self):
        found = plan("--preset", "llama-3.1-8b", "--split", "3,1")
        self.assertEqual(found["ranks"], 2)
        big, small = (rank["weight_bytes"] for rank in found["per_rank"])
        self.assertAlmostEqual(big / small, 3, delta=0.05)

    def test_under_mpirun_it_speaks_once(self):
        alone = tandem("plan", "--preset", "llama-3.1-8b", "-np", 2)
        self.assertEqual(tandem("plan", "--preset", "llama-3.1-8b", "-np", 2, ranks=2).out, alone.out)

    def test_text_says_what_json_says(self):
        arguments = ("--preset", "llama-3.1-70b", "-np", 2, "--memory", V100)
        found, text = plan(*arguments), tandem("plan", *arguments).text
        for rank in found["per_rank"]:
            line = re.search(rf"^rank {rank['rank']} .*$", text, re.M)[0]
            self.assertEqual(
                line.split()[2:],
                [
                    f"{rank[name] / MIB:.1f}"
                    for name in ("weight_bytes", "cache_bytes", "workspace_bytes", "exchange_bytes", "total_bytes")
                ],
            )
        self.assertIn(f"{found['largest_context']} positions", text)
        self.assertIn("It fits", text)


class Guide(unittest.TestCase):
    def test_rows(self):
        result = tandem("plan", "--guide", "--json")
        rows = {(row["preset"], row["mix"], row["gpus"]): row for row in json.loads(result.out)["rows"]}
        # What the reference box can hold.
        fits = {key: row["fits"] for key, row in rows.items()}
        for key in (
            ("llama-3.1-70b", "Q8_0", 2),
            ("mixtral-8x22b", "Q3_K_M", 2),
            ("deepseek-v2", "Q2_K", 2),
            ("deepseek-v2", "Q5_K_M", 2),
            ("llama-2-70b", "Q4_K_M", 1),
            ("qwen2.5-32b", "Q8_0", 1),
        ):
            self.assertFalse(fits[key], key)
        for key in (
            ("llama-3.1-8b", "Q8_0", 1),
            ("codellama-34b", "Q6_K", 1),
            ("llama-3.1-70b", "Q4_K_M", 2),
            ("llama-3.1-70b", "Q5_K_M", 2),
            ("mixtral-8x7b", "Q6_K", 2),
        ):
            self.assertTrue(fits[key], key)
            self.assertGreaterEqual(rows[key]["largest_context"], 4096)
        self.assertEqual(len(rows), len(fits))
        for key, row in rows.items():
            if not row["supported"]:
                continue
            asked = plan(
                "--preset", key[0], "--type", key[1], "-np", key[2], "--memory", V100, "-c", 4096,
                "--multiprocessors", 80,
            )  # fmt: skip
            self.assertEqual(asked["fits"], row["fits"], key)
            self.assertEqual(asked["largest_total_bytes"], row["gpu_bytes"])
            self.assertEqual(asked["file_bytes"], row["file_bytes"])

    def test_text_has_every_row(self):
        rows = json.loads(tandem("plan", "--guide", "--json").out)["rows"]
        text = tandem("plan", "--guide").text
        for row in rows:
            self.assertRegex(text, rf"{row['preset']} +{row['mix']} +~{row['claimed_gb']:.0f} +{row['file_bytes'] / 1e9:.1f}")


if __name__ == "__main__":
    harness.main()
