"""The shell scripts parse, and refuse a flag that they do not know before they touch anything."""

import pathlib
import subprocess
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


if __name__ == "__main__":
    unittest.main()
