"""How far tandem's logits lie from an exact computation with the same weights, on 2,000 tokens of prose: at
most 1.1 times as far as llama.cpp's, whose divergence (October 2026, same files and tokens) stands below.
Needs numpy and gguf; the comparison itself is tested by tests/scripts/test_reference.py."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import unittest

import harness


class Divergence(unittest.TestCase):
    def measure(self, model, tokens, ranks):
        # Beside the build and not in /tmp: the reference is as large as the vocabulary times the text.
        scratch = tempfile.TemporaryDirectory(dir=os.path.dirname(harness.program()))
        self.addCleanup(scratch.cleanup)
        folder = scratch.name
        command = [sys.executable, harness.ROOT / "bench" / "quality" / "kl.py", "measure", "--json"]
        command += ["-m", harness.real_model(model), "--tokens", harness.ROOT / "tests" / "data" / tokens]
        command += ["--cache", folder, "--command", shlex.join(harness.launch(ranks, harness.program()))]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, check=True, env=harness.environment(folder)
        )
        return json.loads(done.stdout)

    def check(self, model, tokens, ranks, theirs):
        found = self.measure(model, tokens, ranks)
        self.assertEqual(found["n_positions"], 2000)
        self.assertLess(found["mean_kl"], 1.1 * theirs, found)
        self.assertGreater(found["mean_kl"], 1e-6, "8 bits an activation, and as good as exact")
        self.assertGreater(found["top1"], 0.97, found)

    def test_smollm2(self):
        self.check("SmolLM2-135M-Instruct.Q4_1.gguf", "prose.smollm2.tokens.json", 2, 2.9e-3)

    def test_gemma3(self):
        self.check("gemma-3-270m-q4_k_m.gguf", "prose.gemma3.tokens.json", 2, 4.9e-3)


if __name__ == "__main__":
    harness.main()
