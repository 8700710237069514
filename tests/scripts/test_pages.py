"""The pages name files, folders, presets and commands that are there."""

import json
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "scripts/slurm/README.md")]
FOLDERS = ("launch", "runtime", "comm", "ops", "bench", "tests", "scripts", ".ci")


def named_paths(text):
    """What looks like a path from the root, in code or as a link."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    quoted = [code or link for code, link in re.findall(r"`([^`]+)`|\]\(([^)]+)\)", prose)]
    words = re.findall(r"[\w./*-]+", " ".join(quoted))
    words += re.findall(r"^(scripts/\S+)", text, re.M)
    return sorted({word.rstrip(".:") for word in words if word.split("/")[0] in FOLDERS and "/" in word})


def missing(text):
    return [path for path in named_paths(text) if "NAME" not in path and not list(ROOT.glob(path))]


class Pages(unittest.TestCase):
    def test_paths_are_there(self):
        for page in PAGES:
            with self.subTest(page=page.name):
                self.assertEqual(missing(page.read_text()), [])
        self.assertGreater(len(named_paths((ROOT / "ARCHITECTURE.md").read_text())), 20)

    def test_a_wrong_path_is_found(self):
        found = missing("`ops/verbs.h` and `ops/nowhere.h`, [here](bench/no)")
        self.assertEqual(found, ["bench/no", "ops/nowhere.h"])

    def test_presets_are_there(self):
        configured = json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]
        presets = {preset["name"] for preset in configured}
        for page in PAGES:
            for name in re.findall(r"(?:cmake|ctest) --preset (\w+)", page.read_text()):
                self.assertIn(name, presets, page.name)

    def test_every_command_is_in_the_table(self):
        table = (ROOT / "README.md").read_text()
        names = re.findall(r'Command\{"(\w+)"', (ROOT / "launch" / "main.cpp").read_text())
        self.assertGreater(len(names), 7)
        for name in names:
            self.assertRegex(table, rf"tandem (--)?{name}\b")


if __name__ == "__main__":
    unittest.main()
