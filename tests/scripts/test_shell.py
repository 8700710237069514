"""The shell scripts parse, refuse a flag that they do not know before they touch anything, and end where a step fails."""

import os
import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = [
    path
    for path in [*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run"]
    if path.is_file() and (path.suffix == ".sh" or b"bash" in path.read_bytes().split(b"\n", 1)[0])
]


class Shell(unittest.TestCase):
    def test_there_are_some(self):
        self.assertLessEqual(
            {"quickstart", "test", "format", "fetch_models", "run"}, {p.name for p in SCRIPTS}
        )

    def test_they_parse(self):
        for path in SCRIPTS:
            with self.subTest(script=path.name):
                done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_unknown_flags_are_usage_errors(self):
        for name in ("quickstart", "test", "check_volta"):
            with self.subTest(script=name):
                done = subprocess.run([ROOT / "scripts" / name, "--nonsense"], capture_output=True, text=True)
                self.assertEqual(done.returncode, 64)
                self.assertIn("Usage:", done.stderr)

    def test_a_failed_installation_is_not_taken_for_one(self):
        with tempfile.TemporaryDirectory() as folder:
            command = f'set -euo pipefail; source "{ROOT}/scripts/common.sh"; python=$(python_venv it nothing); echo $python'
            for _ in range(2):
                done = subprocess.run(
                    ["bash", "-c", command],
                    env={**os.environ, "TANDEM_CACHE": folder, "PIP_NO_INDEX": "1"},
                    capture_output=True, text=True, timeout=100, check=False,
                )  # fmt: skip
                self.assertNotEqual(done.returncode, 0)
                self.assertEqual(done.stdout, "")
                self.assertIn("nothing", done.stderr)

    @unittest.skipUnless(os.environ.get("TANDEM_MODELS"), "no models here")
    def test_models_that_are_there_are_left_alone(self):
        env = {**os.environ, "TANDEM_CACHE": "/proc/none"}
        done = subprocess.run(
            [ROOT / "scripts" / "fetch_models", "smollm2", "gemma"], env=env, capture_output=True, text=True, check=False
        )
        self.assertEqual((done.stdout, done.stderr), (os.environ["TANDEM_MODELS"] + "\n", ""))
        done = subprocess.run(
            [ROOT / "scripts" / "fetch_models", "other"], env=env, capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("unknown model 'other'", done.stderr)


if __name__ == "__main__":
    unittest.main()
