"""tandem doctor on ranks without GPUs: its JSON and its text, on one to three ranks; and Slurm tasks that came
up alone."""

import json
import unittest

import harness
from harness import codes_of_ranks, tandem


class Doctor(unittest.TestCase):
    def found(self, ranks, **env):
        # Hidden from CUDA where there are some: this is about machines without.
        result = tandem("doctor", "--json", ranks=ranks, CUDA_VISIBLE_DEVICES="", **env)
        self.assertEqual(result.code, 0, result.err)
        return json.loads(result.out)

    def test_json(self):
        for ranks in (0, 1, 2, 3):
            with self.subTest(ranks=ranks):
                found = self.found(ranks)
                self.assertEqual([rank["rank"] for rank in found["ranks"]], list(range(max(1, ranks))))
                self.assertEqual(found["nodes"], 1)
                for rank in found["ranks"]:
                    self.assertGreater(rank["read_gbps"], 0.01)
                    self.assertGreaterEqual(rank["cpus"], rank["usable_cpus"])
                    self.assertGreater(rank["memory_bytes"], rank["available_bytes"])
                    self.assertEqual(rank["n_gpus"], 0)
                    self.assertNotIn("gpu", rank)
                self.assertEqual("exchange" in found, ranks > 1)
                for row in found.get("exchange", []):
                    self.assertGreater(row["us"], 0)
                texts = [finding["text"] for finding in found["verdict"]]
                self.assertTrue(any("no GPU" in text for text in texts), texts)

    def test_between_nodes(self):
        found = self.found(2, TANDEM_FAKE_NODES="2")
        self.assertEqual(found["nodes"], 2)
        self.assertTrue(any("through MPI" in finding["text"] for finding in found["verdict"]))

    def test_text(self):
        result = tandem("doctor", ranks=2, CUDA_VISIBLE_DEVICES="")
        self.assertEqual(result.code, 0, result.err)
        text = result.out.decode()
        for part in ("2 ranks on 1 node", "rank 0 on", "rank 1 on", "GB/s", "verdict", "no GPU"):
            self.assertIn(part, text)

    def test_codes(self):
        codes, _ = codes_of_ranks(2, "doctor", CUDA_VISIBLE_DEVICES="")
        self.assertEqual(codes, [0, 0])
        self.assertEqual(tandem("doctor", "--wrong").code, 64)


class Gpu(unittest.TestCase):
    """On a machine with GPUs: two ranks, which share one where there is no second."""

    def test_json(self):
        result = tandem("doctor", "--json", ranks=2)
        self.assertEqual(result.code, 0, result.err)
        found = json.loads(result.out)
        if not all(rank["n_gpus"] for rank in found["ranks"]):
            raise unittest.SkipTest(found["ranks"][0]["why_no_gpu"])
        for rank in found["ranks"]:
            gpu = rank["gpu"]
            self.assertTrue(gpu["uuid"].startswith("GPU-"))
            self.assertEqual(gpu["shared"], rank["n_gpus"] < 2)
            self.assertGreater(gpu["read"][-1]["gbps"], 50)
            if gpu["peak_gbps"] > 0:
                self.assertLess(gpu["read"][-1]["gbps"], gpu["peak_gbps"])
            self.assertGreater(gpu["host_to_gpu_gbps"], 0.5)
            self.assertGreater(gpu["gpu_to_host_gbps"], 0.5)
            self.assertTrue(gpu["fp16_why"] if gpu["fp16_tflops"] is None else gpu["fp16_tflops"] > 1)
        exchange = found["gpu_exchange"]
        if exchange["peer"]["works"]:
            self.assertGreater(exchange["peer"]["gbps"][0][1], 0.5)
            self.assertEqual(exchange["peer"]["gbps"][1][1], 0)
        else:
            self.assertTrue(exchange["peer"]["why_not"])
        for row in exchange["all_reduce"]["sizes"]:
            self.assertGreater(row["mpi_us"], 0)
            # Ranks that share a GPU run in turns: no exchange of theirs says anything.
            measured = exchange["peer"]["works"] and not any(rank["gpu"]["shared"] for rank in found["ranks"])
            self.assertEqual(row["peer_fused_us"] is not None, measured)
            self.assertGreater(row["peer_fused_us"] or 1, 0.5)
            self.assertEqual(row["nccl_us"] is None, exchange["all_reduce"]["why_no_nccl"] is not None)


class Slurm(unittest.TestCase):
    """A job step of several tasks without a common MPI would be several jobs: refused, with the cure."""

    STEP = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}

    def test_tasks_that_came_up_alone(self):
        for more in ({}, {"PMIX_RANK": "0", "PMIX_NAMESPACE": "slurm.pmix.17.0"}):
            with self.subTest(more=more):
                result = tandem("doctor", **self.STEP, **more)
                self.assertEqual(result.code, 69, result.err)
                self.assertIn("2 tasks", result.err)
                self.assertIn("srun --mpi=pmix", result.err)
                self.assertNotIn("MPI_ABORT", result.err)

    def test_mpirun_inside_a_step(self):
        result = tandem("doctor", ranks=1, **self.STEP)
        self.assertEqual(result.code, 0, result.err)

    def test_commands_without_ranks(self):
        self.assertEqual(tandem("--version", **self.STEP).code, 0)


if __name__ == "__main__":
    harness.main()
