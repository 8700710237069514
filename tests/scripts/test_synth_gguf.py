"""Tests of scripts/synth_gguf: sizes and types against known files, contents through the gguf package's own
reader."""

import contextlib
import importlib.machinery
import importlib.util
import io
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import gguf
import numpy as np

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "synth_gguf"


def load_script():
    loader = importlib.machinery.SourceFileLoader("synth_gguf", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("synth_gguf", loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


synth_gguf = load_script()
from synth import blocks, mix, shapes, vocab  # noqa: E402  (the script put its folder on the path)


def run(*arguments):
    """What the command prints to stdout."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        synth_gguf.main(list(arguments))
    return out.getvalue()


def dry_size(*arguments):
    return int(re.search(r"^file size (\d+) bytes", run(*arguments, "--dry-run"), re.M)[1])


def moments_fit(values, std):
    """Whether the values look like weights: finite, of mean 0 (to a 50th of std) and of this deviation (to 5
    %)."""
    return bool(
        np.isfinite(values).all() and abs(values.mean()) < 0.02 * std and abs(values.std() / std - 1) < 0.05
    )


class Sizes(unittest.TestCase):
    def test_sizes_of_real_files(self):
        # GB; the 70B Q3_K_M figure is what llama-quantize --dry-run says, the others are of published files.
        listed = {
            ("llama-3.1-70b", "Q2_K"): (26.3, 26.3),
            ("llama-3.1-70b", "Q3_K_M"): (34.26, 34.26),
            ("llama-3.1-70b", "Q4_K_M"): (42.5, 42.5),
            ("llama-3.1-70b", "Q5_K_M"): (49.9, 49.9),
            ("llama-3.1-70b", "Q6_K"): (57.9, 57.9),
            ("llama-3.1-70b", "Q8_0"): (75.0, 75.0),
            ("mixtral-8x7b", "Q6_K"): (38.3, 38.3),
            ("mixtral-8x22b", "Q3_K_M"): (64.8, 67.8),
            ("llama-3.1-8b", "Q4_K_M"): (4.92, 4.92),
        }
        for (preset, kind), (low, high) in listed.items():
            with self.subTest(preset=preset, type=kind):
                size = dry_size("--preset", preset, "--type", kind) / 1e9
                self.assertGreater(size, 0.99 * low)
                self.assertLess(size, 1.01 * high)

    def test_every_preset_has_every_mix(self):
        for preset in shapes.PRESETS.values():
            tensors = shapes.tensors(preset)
            for wanted in ("Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0", "F16"):
                types = mix.types(preset, tensors, wanted)
                for t in tensors:
                    self.assertEqual(
                        0, t.dims[0] % mix.block_elements(types[t.name]), (preset.name, wanted, t.name)
                    )


class Rules(unittest.TestCase):
    def types(self, preset, wanted):
        model = shapes.PRESETS[preset]
        return mix.types(model, shapes.tensors(model), wanted)

    def test_more_bits_at_both_ends_and_every_third_layer_between(self):
        types = self.types("llama-3.1-8b", "Q4_K_M")
        more = [i for i in range(32) if types[f"blk.{i}.ffn_down.weight"] == "Q6_K"]
        self.assertEqual(more, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31])
        self.assertEqual(more, [i for i in range(32) if types[f"blk.{i}.attn_v.weight"] == "Q6_K"])
        self.assertEqual(types["output.weight"], "Q6_K")
        self.assertEqual(types["blk.0.attn_norm.weight"], "F32")

    def test_grouped_70b_gives_attn_v_more(self):
        self.assertEqual(self.types("llama-2-70b", "Q4_K_M")["blk.20.attn_v.weight"], "Q5_K")
        self.assertEqual(self.types("yi-34b", "Q4_K_M")["blk.20.attn_v.weight"], "Q4_K")

    def test_eight_experts(self):
        types = self.types("mixtral-8x7b", "Q4_K_M")
        self.assertEqual({types[f"blk.9.attn_{x}.weight"] for x in "kv"}, {"Q8_0"})
        self.assertEqual(types["blk.9.attn_output.weight"], "Q5_K")
        self.assertEqual(types["blk.9.ffn_gate_inp.weight"], "F32")

    def test_rows_of_29568_fall_back(self):
        for wanted, expected in (
            ("Q2_K", {"Q4_0"}),
            ("Q4_K_M", {"Q5_0", "Q8_0"}),
            ("Q5_K_M", {"Q5_1", "Q8_0"}),
            ("Q6_K", {"Q8_0"}),
        ):
            types = self.types("qwen2.5-72b", wanted)
            self.assertEqual({types[f"blk.{i}.ffn_down.weight"] for i in range(80)}, expected)

    def test_tied_embedding_is_typed_as_the_head(self):
        model = shapes.TINY["gemma3"]
        wide = shapes.dataclasses.replace(model, n_embd=256)
        self.assertEqual(mix.types(wide, shapes.tensors(wide), "Q4_K_M")["token_embd.weight"], "Q6_K")
        self.assertEqual(mix.types(model, shapes.tensors(model), "Q4_K_M")["token_embd.weight"], "Q8_0")


class Blocks(unittest.TestCase):
    def test_every_format_is_valid_and_centred(self):
        for name in mix.TYPES:
            with self.subTest(type=name):
                n = 200_000 // mix.block_elements(name)
                data = blocks.random_blocks(name, n, 0.02, np.random.default_rng(5))
                self.assertEqual(len(data), n * mix.block_bytes(name))
                self.assertTrue(moments_fit(blocks.dequantise(data, name), 0.02))

    def test_the_moments_are_really_judged(self):
        good = np.random.default_rng(6).standard_normal(100_000) * 0.02
        self.assertTrue(moments_fit(good, 0.02))
        self.assertFalse(moments_fit(good + 0.001, 0.02))
        self.assertFalse(moments_fit(good * 1.1, 0.02))
        self.assertFalse(moments_fit(np.append(good, np.inf), 0.02))


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, name, *arguments):
        path = self.folder / name
        run(*arguments, "-o", str(path))
        return path

    def test_tiny_models_of_every_family(self):
        for arch in shapes.TINY:
            for kind in ("mixed", "Q4_K_M", "F16"):
                with self.subTest(arch=arch, type=kind):
                    path = self.write("m.gguf", "--arch", arch, "--type", kind)
                    self.assertEqual(path.stat().st_size, dry_size("--arch", arch, "--type", kind))
                    reader = gguf.GGUFReader(path)
                    self.assertEqual(
                        [t.name for t in reader.tensors], [t.name for t in shapes.tensors(shapes.TINY[arch])]
                    )
                    for tensor in reader.tensors:
                        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
                        self.assertTrue(np.isfinite(values).all(), tensor.name)
                        self.assertGreater(values.std(), 0, tensor.name)

    def test_mixed_holds_every_type(self):
        path = self.write(
            "m.gguf",
            "--arch",
            "llama",
            "--type",
            "mixed",
            "--embd",
            "256",
            "--head-dim",
            "64",
            "--heads",
            "4",
            "--kv-heads",
            "2",
            "--ff",
            "512",
        )
        present = {t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
        self.assertEqual(present, set(mix.TYPES))

    def test_a_seed_makes_a_file(self):
        first, again, other = (
            self.write(f"{i}.gguf", "--arch", "llama", "--type", "Q4_K", "--seed", seed)
            for i, seed in enumerate("112")
        )
        self.assertEqual(first.read_bytes(), again.read_bytes())
        self.assertNotEqual(first.read_bytes(), other.read_bytes())

    def test_a_shortened_preset_by_pools(self):
        shape = [
            "--preset",
            "mixtral-8x7b",
            "--layers",
            "1",
            "--embd",
            "512",
            "--heads",
            "4",
            "--kv-heads",
            "2",
            "--ff",
            "1024",
            "--type",
            "Q3_K_M",
        ]
        path = self.write("m.gguf", *shape)
        self.assertEqual(path.stat().st_size, dry_size(*shape))
        wanted = {
            t.name: t for t in shapes.tensors(synth_gguf.model_of(synth_gguf.parse([*shape, "--dry-run"])))
        }
        for tensor in gguf.GGUFReader(path).tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            if values.size > 10_000:
                self.assertTrue(moments_fit(values, wanted[tensor.name].std), tensor.name)

    def test_llama3_factors(self):
        path = self.write("m.gguf", "--arch", "llama", "--rope-scaling", "llama3:8", "--ctx", "4096")
        factors = next(t for t in gguf.GGUFReader(path).tensors if t.name == "rope_freqs.weight").data
        self.assertEqual((len(factors), factors[0], factors[-1]), (16, 1, 8))
        self.assertTrue((np.diff(factors) >= 0).all())

    def test_a_vocabulary_is_copied_and_filled_up(self):
        small = self.write("small.gguf", "--arch", "mixtral", "--vocab-size", "300")
        larger = self.write("large.gguf", "--arch", "llama", "--vocab-size", "310", "--vocab", str(small))
        before, after = (gguf.GGUFReader(p).fields for p in (small, larger))
        tokens = after["tokenizer.ggml.tokens"].contents()
        self.assertEqual(tokens[:300], before["tokenizer.ggml.tokens"].contents())
        self.assertEqual(len(set(tokens)), 310)
        self.assertEqual(
            [len(after[f"tokenizer.ggml.{x}"].contents()) for x in ("scores", "token_type")], [310, 310]
        )
        self.assertEqual(after["tokenizer.ggml.model"].contents(), "llama")
        refused = subprocess.run(
            [
                sys.executable,
                SCRIPT,
                "--arch",
                "llama",
                "--vocab-size",
                "299",
                "--vocab",
                small,
                "-o",
                self.folder / "x.gguf",
            ],
            capture_output=True,
            text=True,
        )
        self.assertEqual(refused.returncode, 1)
        self.assertIn("300 tokens, more than", refused.stderr)

    def test_bad_shapes_are_refused_and_leave_nothing(self):
        for bad in (
            ["--heads", "5", "--kv-heads", "2"],
            ["--head-dim", "31"],
            ["--vocab-size", "100"],
            ["--layers", "0"],
        ):
            with self.subTest(bad=bad), self.assertRaises(ValueError):
                run("--arch", "llama", *bad, "-o", str(self.folder / "x.gguf"))
        self.assertEqual(list(self.folder.iterdir()), [])


class Vocabularies(unittest.TestCase):
    def test_every_byte_is_spelt_and_every_merge_is_a_token(self):
        for kind, n in (("llama-bpe", 400), ("qwen2", 259)):
            keys = {name: value for name, _, value in vocab.small(kind, n)}
            tokens = keys["tokenizer.ggml.tokens"]
            self.assertEqual((len(tokens), len(set(tokens))), (n, n))
            self.assertEqual(len(keys["tokenizer.ggml.token_type"]), n)
            self.assertEqual(len([t for t in tokens if len(t) == 1]), 256)
            for merge in keys["tokenizer.ggml.merges"]:
                self.assertIn(merge.replace(" ", ""), tokens)
        for kind, n in (("spm", 500), ("gemma", 261)):
            keys = {name: value for name, _, value in vocab.small(kind, n)}
            tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
            self.assertEqual((len(tokens), len(set(tokens)), len(keys["tokenizer.ggml.scores"])), (n, n, n))
            self.assertEqual(
                [t for t, k in zip(tokens, kinds) if k == 6], [f"<0x{b:02X}>" for b in range(256)]
            )


if __name__ == "__main__":
    unittest.main()
