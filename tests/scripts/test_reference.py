"""bench/quality/reference.py against Hugging Face's golden logits, and the comparers against wrong
answers."""

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import unittest

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "bench" / "quality"), str(ROOT / "tests" / "golden" / "hf")]
import compare as golden  # noqa: E402
import kl  # noqa: E402
from reference import Reference  # noqa: E402

FAMILIES = {
    "llama",
    "llama-tied-llama3",
    "llama-linear",
    "llama-yarn",
    "mixtral",
    "qwen2",
    "gemma3",
    "gemma3-as-27b",
}


class Golden(unittest.TestCase):
    def test_every_family_is_there_and_no_file_is_constant(self):
        self.assertLessEqual(FAMILIES, set(golden.models()))
        for name, tokens in golden.models().items():
            logits = golden.golden(name)
            self.assertEqual((len(tokens), logits.dtype), (len(logits), np.float32))
            self.assertGreater(len(set(tokens)), 20)
            self.assertGreater(logits.std(axis=1).min(), 0.1, name)
            self.assertGreater(logits.std(axis=0).min(), 0.1, name)

    def test_the_reference_agrees(self):
        for name, tokens in golden.models().items():
            with self.subTest(model=name):
                logits = Reference(golden.HERE / f"{name}.gguf").logits(tokens)
                self.assertLess(golden.relative_error(logits, golden.golden(name)), 3e-5)

    def test_no_model_passes_for_another(self):
        names = list(golden.models())
        for name, other in zip(names, names[1:]):
            self.assertGreater(golden.relative_error(golden.golden(other), golden.golden(name)), 0.1)

    def test_perturbed_logits_are_refused(self):
        right = golden.golden("llama")
        self.assertEqual(golden.relative_error(right, right), 0)
        largest = np.abs(right).max()
        for wrong in (
            right + 2e-4 * largest,
            right[:-1],
            right[::-1],
            np.where(right == right.max(), np.nan, right),
        ):
            self.assertGreater(golden.relative_error(wrong, right), golden.TOLERANCE)
        self.assertLess(golden.relative_error(right + 0.5e-4 * largest, right), golden.TOLERANCE)

    def test_the_command_is_run_and_judged(self):
        with tempfile.TemporaryDirectory() as folder:
            fake = pathlib.Path(folder) / "program.py"
            fake.write_text("import sys, shutil; a = sys.argv; shutil.copy(a[3][:-4] + 'npy', a[7])\n")
            logits = golden.computed(f"{sys.executable} {fake}", "", "qwen2", [1, 2])
            self.assertEqual(golden.relative_error(logits, golden.golden("qwen2")), 0)


class Divergence(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.reference = golden.golden("llama")
        self.reference_path = self.save("reference", self.reference)

    def save(self, name, logits):
        np.save(self.folder / f"{name}.npy", logits)
        return self.folder / f"{name}.npy"

    def test_known_divergence(self):
        # Two tokens with probabilities (1/2, 1/2) and (1/4, 3/4): KL = ln 2 - ln 3 / 2 = 0.143841.
        p, q = np.float32([[0, 0.0000001]] * 3), np.float32([[0, np.log(3)]] * 3)
        result = kl.compare(self.save("p", p), self.save("q", q))
        self.assertAlmostEqual(result["mean_kl"], np.log(2) - np.log(3) / 2, places=6)
        self.assertEqual((result["top1"], result["n_positions"]), (1, 3))
        swapped = kl.compare(self.save("q", q), self.save("r", -q))
        self.assertEqual(swapped["top1"], 0)

    def test_equal_and_shifted_logits_diverge_by_nothing(self):
        result = kl.compare(self.reference_path, self.save("shifted", self.reference + np.float32(3)))
        self.assertLess(abs(result["mean_kl"]), 1e-10)
        self.assertEqual(result["top1"], 1)

    def test_noise_is_seen(self):
        noise = np.random.default_rng(3).standard_normal(self.reference.shape).astype(np.float32)
        result = kl.compare(self.reference_path, self.save("noisy", self.reference + 0.1 * noise))
        self.assertTrue(0.003 < result["mean_kl"] < 0.007, result)  # half the variance of the noise
        self.assertLess(result["top1"], 1)

    def test_wrong_input_is_refused(self):
        nan = self.reference.copy()
        nan[7, 7] = np.nan
        flat = self.reference.copy()
        flat[3] = 1
        wrong = {
            "short": self.reference[:-1],
            "narrow": self.reference[:, :-1],
            "nan": nan,
            "flat": flat,
            "double": self.reference.astype(np.float64),
            "one row": self.reference[0],
        }
        for name, logits in wrong.items():
            with self.subTest(wrong=name), self.assertRaises(kl.BadInput):
                kl.compare(self.reference_path, self.save(name, logits))

    def test_bounds_decide_the_exit(self):
        noisy = self.save(
            "noisy", self.reference + np.sin(np.arange(self.reference.shape[1], dtype=np.float32))
        )
        with contextlib.redirect_stdout(io.StringIO()) as out:
            self.assertEqual(kl.main(["compare", str(self.reference_path), str(noisy), "--json"]), 0)
            self.assertEqual(
                kl.main(["compare", str(self.reference_path), str(noisy), "--max-kl", "1e-3"]), 1
            )
            self.assertEqual(
                kl.main(["compare", str(self.reference_path), str(noisy), "--min-top1", "0.999"]), 1
            )
        self.assertIn('"mean_kl"', out.getvalue())

    def test_a_program_is_measured_by_segments(self):
        tokens = self.folder / "tokens.json"
        tokens.write_text(
            json.dumps({"segments": [golden.models()["llama"][:9], golden.models()["llama"][9:]]})
        )
        fake = self.folder / "program.py"
        fake.write_text(
            f"import sys\nsys.path.insert(0, {str(ROOT / 'bench' / 'quality')!r})\nimport numpy as np\n"
            "from reference import Reference\na = sys.argv\n"
            "np.save(a[7], Reference(a[3]).logits([int(t) for t in a[5].split(',')]))\n"
        )
        with contextlib.redirect_stdout(io.StringIO()) as out:
            arguments = ["-m", str(golden.HERE / "llama.gguf"), "--tokens", str(tokens)]
            arguments += ["--cache", str(self.folder / "cache"), "--command", f"{sys.executable} {fake}"]
            self.assertEqual(
                kl.main(["measure", *arguments, "--json", "--max-kl", "1e-9", "--min-top1", "1"]), 0
            )
        self.assertEqual(json.loads(out.getvalue())["n_positions"], 40)
        (kept,) = (self.folder / "cache").iterdir()
        self.assertLess(golden.relative_error(np.load(kept)[:9], self.reference[:9]), 1e-5)

    def test_tokens_files(self):
        for text in ("[]", '{"segments": []}', '{"segments": [[]]}', '["a"]'):
            path = self.folder / "tokens.json"
            path.write_text(text)
            with self.subTest(text=text), self.assertRaises(kl.BadInput):
                kl.read_segments(path)
        for model, bos in (("smollm2", None), ("gemma3", 2)):
            segments = kl.read_segments(ROOT / "tests" / "data" / f"prose.{model}.tokens.json")
            self.assertEqual([len(s) for s in segments], [1000, 1000])
            if bos is not None:
                self.assertEqual({s[0] for s in segments}, {bos})


if __name__ == "__main__":
    unittest.main()
