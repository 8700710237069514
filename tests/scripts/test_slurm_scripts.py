"""The sbatch files are what their page says they are, parse, and please shellcheck; staging copies a model whole or not
at all. Running them on a Slurm is tests/e2e/test_slurm.py's."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "slurm"
PAGE = (FOLDER / "README.md").read_text()
SBATCH = sorted(FOLDER.glob("*.sbatch"))
SHELL = [*SBATCH, FOLDER / "lib.sh", FOLDER / "stage", FOLDER / "task"]


def directives(path):
    return dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in path.read_text().splitlines()
        if line.startswith("#SBATCH")
    )


def stage(*arguments, **env):
    return subprocess.run(
        [FOLDER / "stage", *arguments], env={**os.environ, **env}, capture_output=True, text=True, timeout=30, check=False
    )


class Files(unittest.TestCase):
    def test_there_are_the_five(self):
        self.assertEqual(
            {path.stem for path in SBATCH}, {"single_node", "multi_node", "array", "requeue", "scaling"}
        )

    def test_they_parse(self):
        for path in SHELL:
            with self.subTest(script=path.name):
                done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
                self.assertEqual((done.returncode, done.stderr), (0, ""))

    @unittest.skipUnless(shutil.which("shellcheck"), "no shellcheck")
    def test_shellcheck(self):
        done = subprocess.run(["shellcheck", "-x", *SHELL], cwd=FOLDER, capture_output=True, text=True, check=False)
        self.assertEqual(done.stdout, "")

    def test_the_batch_shell_is_warned(self):
        for path in SBATCH:
            if path.stem == "scaling":
                continue
            with self.subTest(script=path.name):
                signal = directives(path)["signal"]
                self.assertRegex(signal, r"^B:USR1@\d+$")
                self.assertIn("requeue", directives(path))
                self.assertEqual(directives(path)["open-mode"], "append")
                self.assertRegex(PAGE, rf"\| `{path.name}` \|.*`--signal={signal}` \|")

    def test_flags(self):
        lib = (FOLDER / "lib.sh").read_text()
        for flag in ("--mpi=pmix", "--kill-on-bad-exit=1", "--gpu-bind=none"):
            self.assertRegex(lib, rf"srun_options=\(.*{flag}")

    def test_page_names_every_setting(self):
        used = set()
        for path in SHELL:
            text = re.sub(r"#.*", "", path.read_text())
            used |= set(re.findall(r"\$\{([A-Z_]+)[:-]", text)) | set(re.findall(r"^need (.*)$", text, re.M))
        used = {name for words in used for name in words.split()}
        ours = {name for name in used if not name.startswith(("SLURM_", "CUDA_", "BASH", "TMPDIR"))}
        self.assertGreater(len(ours), 8)
        self.assertEqual({name for name in ours if f"`{name}" not in PAGE and f", `{name}`" not in PAGE}, set())


class Task(unittest.TestCase):
    def visible(self, **env):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "CUDA_"))}
        done = subprocess.run(
            [FOLDER / "task", "sh", "-c", "echo ${CUDA_VISIBLE_DEVICES-unset}"],
            env={**clean, **env}, capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def test_gpus(self):
        n_here = sum(os.access(path, os.R_OK) for path in pathlib.Path("/dev").glob("nvidia[0-9]*"))
        given = ",".join(str(7 + i) for i in range(n_here + 1))  # fewer can be opened than were given
        self.assertEqual(self.visible(), "unset")
        self.assertEqual(self.visible(SLURM_STEP_GPUS=given), given)
        self.assertEqual(self.visible(SLURM_JOB_GPUS=given), given)
        self.assertEqual(self.visible(SLURM_STEP_GPUS=given, SLURM_JOB_GPUS="1,2,3,4,5,6,7,8,9"), given)
        self.assertEqual(self.visible(SLURM_STEP_GPUS=given, CUDA_VISIBLE_DEVICES="0"), "0")


    def test_says_that_it_began(self):
        with tempfile.TemporaryDirectory() as folder:
            mark = pathlib.Path(folder) / "began"
            for path in (mark, pathlib.Path(folder) / "elsewhere" / "began"):
                done = subprocess.run(
                    [FOLDER / "task", "sh", "-c", f"ls {folder}; env | grep -c tandem_began"],
                    env={**os.environ, "tandem_began": str(path)}, capture_output=True, text=True, timeout=20, check=False,
                )  # fmt: skip
                self.assertEqual(done.stdout, "began\n0\n")


class Stage(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.model = self.folder / "m.gguf"
        self.model.write_bytes(os.urandom(1_000_000))
        self.node = self.folder / "node"

    def left(self):
        return sorted(path.name for path in self.node.iterdir() if path.name != ".lock")

    def expect_refusal(self, done, text):
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(text, done.stderr)

    def test_copy_is_the_model(self):
        for env in ({}, {"STAGE_CHECKSUM": "0"}):
            with self.subTest(env=env):
                shutil.rmtree(self.node, ignore_errors=True)
                self.assertEqual(stage(self.model, self.node, **env).returncode, 0)
                self.assertEqual(self.left(), ["m.gguf"])
                self.assertEqual((self.node / "m.gguf").read_bytes(), self.model.read_bytes())

    def test_kept_while_it_is_the_same(self):
        stage(self.model, self.node)
        first = (self.node / "m.gguf").stat().st_ino
        stage(self.model, self.node)
        self.assertEqual((self.node / "m.gguf").stat().st_ino, first)
        self.model.write_bytes(os.urandom(1_000_000))
        os.utime(self.model, (1, 1))
        stage(self.model, self.node)
        self.assertEqual((self.node / "m.gguf").read_bytes(), self.model.read_bytes())

    def test_all_parts_of_a_split_model(self):
        names = [f"s-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
        for name in names:
            (self.folder / name).write_bytes(os.urandom(1000))
        self.assertEqual(stage(self.folder / names[0], self.node).returncode, 0)
        self.assertEqual(self.left(), names)
        (self.folder / names[2]).unlink()
        self.expect_refusal(stage(self.folder / names[0], self.folder / "other"), names[2])

    def test_checksum_beside_the_model(self):
        told = subprocess.run(["sha256sum", self.model], capture_output=True, text=True, check=True).stdout
        self.model.with_name("m.gguf.sha256").write_text(told)
        self.assertEqual(stage(self.model, self.node).returncode, 0)
        shutil.rmtree(self.node)
        self.model.with_name("m.gguf.sha256").write_text("0" * 64 + "  m.gguf\n")
        self.expect_refusal(stage(self.model, self.node), "checksum")
        self.assertEqual(self.left(), [])

    def test_a_copy_that_differs(self):
        # a tee that loses a byte, and one that changes one
        for spoil, text in (("head -c -1", "differs"), ("tr '\\000' '\\001'", "differs")):
            tools = self.folder / "tools"
            tools.mkdir(exist_ok=True)
            fake = tools / "tee"
            fake.write_text(f'#!/bin/bash\n/usr/bin/tee >({spoil} > "${{@: -1}}")\nsleep 0.2\n')
            fake.chmod(0o755)
            done = stage(self.model, self.node, PATH=f"{tools}:{os.environ['PATH']}")
            self.expect_refusal(done, text)
            self.assertEqual(self.left(), [])

    def test_no_room(self):
        tools = self.folder / "tools"
        tools.mkdir()
        fake = tools / "df"
        fake.write_text("#!/bin/sh\necho Avail\necho 999999\n")
        fake.chmod(0o755)
        self.expect_refusal(stage(self.model, self.node, PATH=f"{tools}:{os.environ['PATH']}"), "free")
        self.assertEqual(self.left(), [])

    def test_usage(self):
        self.assertEqual(stage().returncode, 64)
        self.expect_refusal(stage(self.folder / "no.gguf", self.node), "cannot read")


if __name__ == "__main__":
    unittest.main()
