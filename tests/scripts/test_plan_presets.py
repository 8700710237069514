"""`tandem plan --preset` knows the same models as scripts/synth_gguf: every preset at every mix, by the bytes of each
format."""

import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TANDEM = pathlib.Path(os.environ["TANDEM_TEST_BINARY_DIR"]) / "tandem"
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts"))

from synth import mix, shapes  # noqa: E402


def plan(*arguments):
    done = subprocess.run(
        [TANDEM, "plan", "--json", *map(str, arguments)], capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


def synthesised(model, wanted):
    """Bytes of each format in the file that synth_gguf would write."""
    tensors = shapes.tensors(model)
    types = mix.types(model, tensors, wanted)
    out = collections.Counter()
    for tensor in tensors:
        out[types[tensor.name]] += mix.n_bytes(tensor, types[tensor.name])
    return dict(out)


def choices(flag):
    text = subprocess.run([TANDEM, "plan", "--help"], capture_output=True, text=True, check=True).stdout
    return re.search(rf"--{flag} ([\w.|-]+)", text)[1].split("|")


@unittest.skipUnless(TANDEM.is_file(), f"{TANDEM} was not built")
class Presets(unittest.TestCase):
    def test_names(self):
        self.assertEqual(set(choices("preset")), set(shapes.PRESETS))
        self.assertEqual(set(choices("type")), set(mix.MIXES))

    def test_every_preset_at_every_mix(self):
        for name, model in shapes.PRESETS.items():
            for wanted in mix.MIXES:
                with self.subTest(preset=name, mix=wanted):
                    found = plan("--preset", name, "--type", wanted)
                    self.assertEqual(found["bytes_by_type"], synthesised(model, wanted))
                    self.assertEqual(found["weights"], sum(t.n_elements for t in shapes.tensors(model)))
                    self.assertEqual(found["trained_context"], model.n_ctx)

    def test_the_comparison_tells_mixes_apart(self):
        model = shapes.PRESETS["llama-3.1-8b"]
        self.assertNotEqual(
            plan("--preset", "llama-3.1-8b", "--type", "Q4_K_M")["bytes_by_type"], synthesised(model, "Q4_K_S")
        )

    def test_cache(self):
        # layers · (K, V) · KV heads · head size · f16, of the whole job
        for name, model in shapes.PRESETS.items():
            for ranks in (1, 2, 4):
                found = plan("--preset", name, "-np", ranks, "-c", 4096, "--parallel", 3)
                bytes_a_position = model.n_layers * 2 * model.n_kv_heads * model.head_dim * 2
                self.assertEqual(
                    sum(rank["cache_bytes"] for rank in found["per_rank"]), 3 * 4096 * bytes_a_position
                )


if __name__ == "__main__":
    unittest.main()
