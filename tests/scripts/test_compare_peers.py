"""scripts/compare_peers with fake programs: what it starts in which order and on which GPUs, the medians and ratios it
prints, and what it refuses."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Notes how it was called, and answers with the next speed of its list, for a prompt and a generation.
FAKE = """#!{python}
import json, os, sys
name, speeds, log = {name!r}, {speeds!r}, {log!r}
done = sum(json.loads(line)["name"] == name for line in open(log)) if os.path.exists(log) else 0
with open(log, "a") as file:
    call = {{"name": name, "arguments": sys.argv[1:], "devices": os.environ.get("CUDA_VISIBLE_DEVICES")}}
    file.write(json.dumps(call) + "\\n")
speed = speeds[done % len(speeds)]
rows = [{{"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 10 * speed, "build_commit": name + "-id"}},
        {{"n_prompt": 0, "n_gen": 128, "n_depth": 0, "avg_ts": speed, "build_commit": name + "-id"}}]
for row in rows:
    row.update({more!r})
print(json.dumps(rows))
"""

# Starts one process of the program that it is given behind -np N, as a launcher would start its rank 0.
FAKE_MPIRUN = """#!{python}
import os, sys
with open({log!r} + ".mpirun", "a") as file:
    file.write(sys.argv[2] + "\\n")
os.execv(sys.argv[3], sys.argv[3:])
"""


class ComparePeers(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        self.log = str(self.folder / "calls")
        mpirun = self.program("mpirun", FAKE_MPIRUN.format(python=sys.executable, log=self.log))
        self.fixed = ["-m", "model.gguf", "--mpirun", mpirun, "-o", str(self.folder / "out.json")]

    def program(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def fake(self, name, speeds, **more):
        return self.program(
            name, FAKE.format(python=sys.executable, name=name, speeds=speeds, log=self.log, more=more)
        )

    def run_it(self, *arguments, **env):
        inherited = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "compare_peers"), *self.fixed, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**inherited, **env},
            check=False,
        )

    def calls(self):
        return [json.loads(line) for line in open(self.log)]

    def result(self):
        return json.loads((self.folder / "out.json").read_text())

    def test_gpus(self):
        peer = self.fake("llama-bench", [10.0, 20.0, 40.0])
        tandem = self.fake("tandem", [30.0, 30.0, 60.0], gpu_info="NVIDIA H200", driver="580.1")
        done = self.run_it(
            "--llama-bench", peer, "--tandem", tandem, "--backend", "cuda", "--ranks", "1,2", "--rounds", 3
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        calls = self.calls()
        self.assertEqual([call["name"] for call in calls], ["llama-bench", "tandem"] * 6)
        self.assertEqual([call["devices"] for call in calls], ["0"] * 6 + ["0,1"] * 6)
        self.assertEqual(pathlib.Path(self.log + ".mpirun").read_text().split(), ["1"] * 3 + ["2"] * 3)
        for call, split in ((calls[0], "none"), (calls[6], "tensor")):
            text = " ".join(call["arguments"])
            for part in ("-m model.gguf", "-ngl 99", "-fa 1", f"-sm {split}", "-r 1", "-o json"):
                self.assertIn(part, text)
        self.assertIn("bench -m model.gguf -p 512 -n 128", " ".join(calls[1]["arguments"]))
        self.assertIn("--backend cuda", " ".join(calls[1]["arguments"]))
        self.assertNotIn("--comm", calls[1]["arguments"])
        self.assertIn("--comm auto", " ".join(calls[7]["arguments"]))
        found = self.result()
        for key, value in (
            ("device", "NVIDIA H200"),
            ("driver", "580.1"),
            ("tandem_commit", "tandem-id"),
            ("llama_cpp_commit", "llama-bench-id"),
            ("rounds", 3),
        ):
            self.assertEqual(found[key], value)
        self.assertRegex(found["date"], r"^\d{4}-\d\d-\d\d$")
        self.assertTrue(found["commit"])
        rows = {(row["ranks"], row["program"], row["test"]): row for row in found["results"]}
        self.assertEqual(len(rows), 8)
        row = rows[(2, "tandem, auto", "tg128")]
        # Neighbouring runs: 30/10, 30/20, 60/40; not the medians' quotient, 30/20.
        self.assertEqual(row["median_ts"], 30)
        self.assertEqual(row["median_ratio_to_llama_cpp"], 1.5)
        self.assertEqual(row["samples_ts"], [30, 30, 60])
        self.assertEqual(rows[(1, "llama.cpp", "pp512")]["median_ts"], 200)
        self.assertRegex(done.stdout, r"tg128 +2 tandem, auto +30\.0 +1\.50")

    def test_devices_that_are_given(self):
        peer, tandem = self.fake("llama-bench", [1.0]), self.fake("tandem", [1.0], gpu_info="G", driver="1")
        arguments = ("--llama-bench", peer, "--tandem", tandem, "--backend", "cuda", "--rounds", 1)
        done = self.run_it(*arguments, "--ranks", 2, "--comm", "peer,nccl", CUDA_VISIBLE_DEVICES="3,1,2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual({call["devices"] for call in self.calls()}, {"3,1"})
        self.assertEqual({row["program"] for row in self.result()["results"]},
                         {"llama.cpp", "tandem, peer", "tandem, nccl"})
        done = self.run_it(*arguments, "--ranks", 2, CUDA_VISIBLE_DEVICES="3")
        self.assertEqual(done.returncode, 1)
        self.assertIn("--ranks 2, but CUDA_VISIBLE_DEVICES=3 has 1", done.stderr)

    def test_cpus(self):
        peer, tandem = self.fake("llama-bench", [10.0]), self.fake("tandem", [25.0])
        done = self.run_it("--llama-bench", peer, "--tandem", tandem, "--threads", "1,2", "--rounds", 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([call["name"] for call in self.calls()],
                         ["llama-bench", "tandem"] * 2 + ["llama-bench", "tandem", "tandem"] * 2)
        rows = {(row["threads"], row["program"], row["test"]): row for row in self.result()["results"]}
        for key in ((1, "tandem"), (2, "tandem, 2 ranks"), (2, "tandem, 2 threads")):
            self.assertEqual(rows[(*key, "tg128")]["median_ratio_to_llama_cpp"], 2.5)
        self.assertNotIn("driver", self.result())

    def test_what_fails(self):
        peer = self.fake("llama-bench", [1.0])
        for name, text, says in (
            ("fails", "import sys\nsys.exit('out of memory')", "ended with 1:\nout of memory"),
            ("talks", "print('hello')", "printed no table"),
            ("partial", "print('[{\"n_prompt\": 512, \"n_gen\": 0, \"avg_ts\": 1}]')", "ran ['pp512']"),
        ):
            with self.subTest(name=name):
                tandem = self.program(name, f"#!{sys.executable}\n{text}\n")
                done = self.run_it("--llama-bench", peer, "--tandem", tandem, "--threads", 1, "--rounds", 1)
                self.assertEqual(done.returncode, 1)
                self.assertIn(says, done.stderr)
                self.assertFalse((self.folder / "out.json").exists())
        done = self.run_it("--llama-bench", "/nowhere/llama-bench", "--tandem", peer, "--threads", 1)
        self.assertIn("No such file", done.stderr)
        self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    unittest.main()
