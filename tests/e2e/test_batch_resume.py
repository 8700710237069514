"""Nothing that `tandem batch` has done is lost or done twice, however it ends: its journal, its output, its
answers to signals."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

import batch_kills
import harness
from batch_support import Case, long_lines, mixed_lines, n_records, request
from harness import golden_model, wait_for


class Journals(Case):
    def setUp(self):
        self.lines = mixed_lines(12, seed=3)

    def begun(self, *arguments, n=5):
        """A batch that was stopped after some lines."""
        batch = self.batch(self.lines)
        with batch.job("-np", 1, "--sync-records", 1, *arguments) as job:
            job.wait_for(lambda: n_records(batch.journal) >= n, "some records")
            job.process.kill()
            job.process.wait()
        self.assertEqual(batch.files(), ["out.jsonl.journal"])
        return batch

    def test_goes_on_and_is_then_complete(self):
        batch = self.begun()
        result = batch.run()
        self.assertEqual(result.code, 65, result.err)
        self.assertRegex(result.err, r"[1-9]\d* of 12 lines are done already")
        reference = self.batch(self.lines)
        self.done(reference, code=65)
        self.assertEqual(batch.bytes(), reference.bytes())
        self.assertEqual(batch.files(), ["out.jsonl"])
        before = os.stat(batch.output)
        again = batch.run(ranks=2)
        self.assertEqual(again.code, 65)
        self.assertIn("complete already", again.err)
        self.assertNotIn("loaded in", again.err)
        self.assertEqual(os.stat(batch.output), before)

    def test_complete_without_failures_is_0(self):
        batch = self.batch([request("a", prompt="abc", max_tokens=2)])
        self.done(batch)
        self.assertEqual(batch.run().code, 0)

    def test_a_kept_journal_gives_the_output_again_without_the_model(self):
        batch = self.batch(self.lines)
        self.done(batch, "--keep-journal", code=65)
        reference = batch.bytes()
        os.remove(batch.output)
        result = batch.run()
        self.assertEqual(result.code, 65)
        self.assertNotIn("loaded in", result.err)
        self.assertEqual(batch.bytes(), reference)
        self.assertEqual(batch.files(), ["out.jsonl"])

    def test_is_bound_to_model_options_and_input(self):
        batch = self.begun()
        journal = pathlib.Path(batch.journal).read_bytes()
        for arguments, text in (
            (("--temp", 0.5), r"another --temp \(0 then, 0.5 now\)"),
            (
                ("--top-k", 3, "--seed", 9),
                r"another --seed \(0 then, 9 now\), another --top-k \(40 then, 3 now\)",
            ),
            (("-m", golden_model("qwen2")), r"another model \([0-9a-f]{32} of \d+ bytes then"),
            (("-c", 100), r"another --ctx-size \(512 then, 100 now\)"),
            (("--system-prompt", "x"), r"another --system-prompt"),
        ):
            for ranks in (0, 2):
                result = batch.run(*arguments, ranks=ranks)
                self.assertEqual(result.code, 65, result.err)
                self.assertRegex(result.err, text)
                self.assertEqual(len(result.lines()), 1, result.err)
        with open(batch.input, "a") as file:
            file.write(request("one more", prompt="x") + "\n")
        result = batch.run()
        self.assertEqual(result.code, 65)
        self.assertRegex(result.err, r"another input \([0-9a-f]{32} of \d+ bytes then")
        self.assertEqual(pathlib.Path(batch.journal).read_bytes(), journal)
        self.assertEqual(self.done(batch, "--overwrite", code=65)[-1]["custom_id"], "one more")

    def test_is_bound_to_the_models_weights(self):
        batch = self.begun()
        changed = bytearray(pathlib.Path(batch.model).read_bytes())
        for i in range(len(changed) // 2, len(changed)):
            changed[i] ^= 1
        model = pathlib.Path(batch.path("elsewhere")) / pathlib.Path(batch.model).name
        model.parent.mkdir()
        model.write_bytes(changed)
        result = batch.run("-m", model)
        self.assertEqual(result.code, 65, result.err)
        self.assertIn("another model", result.err)

    def test_another_runs_output_is_not_replaced_unasked(self):
        batch = self.batch([request("a", prompt="abc", max_tokens=2)])
        pathlib.Path(batch.output).write_text("precious\n")
        result = batch.run()
        self.assertEqual(result.code, 65)
        self.assertIn("--overwrite", result.err)
        self.assertEqual((batch.bytes(), batch.files()), (b"precious\n", ["out.jsonl"]))
        self.done(batch, "--overwrite")

    def test_what_is_no_journal_is_left_alone(self):
        batch = self.batch([request("a", prompt="abc", max_tokens=2)])
        pathlib.Path(batch.journal).write_text("somebody's notes")
        self.assertEqual(batch.run().code, 65)
        self.assertEqual(pathlib.Path(batch.journal).read_text(), "somebody's notes")

    def test_has_one_writer(self):
        batch = self.batch(long_lines())
        with batch.job("-np", 1) as job:
            job.wait_for(lambda: batch_kills.size_of(batch.journal) > 0, "a journal")
            os.kill(job.process.pid, signal.SIGSTOP)  # so that it is there as long as it takes
            link = batch.path("link")
            os.symlink(batch.folder, link)
            for output in (batch.output, os.path.join(link, "out.jsonl")):
                for ranks in (0, 2):
                    result = batch.run(output=output, ranks=ranks)
                    self.assertEqual(result.code, 75, result.err)
                    self.assertIn("another process is working on this output", result.err)
            self.assertIsNone(job.process.poll())
            os.kill(job.process.pid, signal.SIGCONT)

    def test_a_full_disk_loses_nothing(self):
        reference = self.batch(self.lines)
        self.done(reference, "--keep-journal", code=65)
        size = os.path.getsize(reference.journal)
        batch = self.batch(self.lines)
        n_done = []
        for blocks in sorted({1, size // 3 // 512, size // 2 // 512, size // 512}):
            result = batch.run(
                "-np", 2, "--sync-records", 1, wrapper=("sh", "-c", f'ulimit -f {blocks}; "$@"', "sh")
            )
            self.assertEqual(result.code, 74, result.err)
            self.assertEqual(
                len([line for line in result.lines() if "File too large" in line]), 1, result.err
            )
            self.assertEqual(batch.files(), ["out.jsonl.journal"])
            n_done += [int(n) for n in re.findall(r"(\d+) of 12 lines are done already", result.err)]
        self.assertTrue(n_done and n_done == sorted(n_done) and n_done[-1] >= 3, n_done)
        self.done(batch, code=65)
        self.assertEqual(batch.bytes(), reference.bytes())

    def test_a_disk_that_is_really_full(self):
        if os.geteuid() != 0:
            self.skipTest("only root can mount a small disk")
        batch = self.batch(self.lines)
        disk = batch.path("disk")
        os.mkdir(disk)
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk], capture_output=True
        ).returncode:
            self.skipTest("mount is not allowed here")
        self.addCleanup(subprocess.run, ["umount", disk], check=True)
        output = os.path.join(disk, "out.jsonl")
        result = batch.run(output=output)
        self.assertEqual(result.code, 74, result.err)
        self.assertIn("No space left on device", result.err)
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        result = batch.run(output=output)
        self.assertRegex(result.err, r"[1-9]\d* of 12 lines are done already")
        self.done(batch, code=65)
        self.assertEqual(batch.bytes(output), batch.bytes())


class Signals(Case):
    """A job that would take long is asked to end at some point of its work, and goes on later."""

    def check(self, ranks, number, code, limit_s, launcher=False):
        with self.subTest(ranks=ranks, number=number, launcher=launcher):
            batch = self.batch([request("first", prompt="x", max_tokens=1), *long_lines()])
            with batch.job("-np", 1, ranks=ranks) as job:
                job.wait_for_ranks(max(1, ranks))
                job.wait_for(lambda: n_records(batch.journal) >= 1, "a record")
                start = time.monotonic()
                os.kill(job.process.pid if launcher or not ranks else job.pids[-1], number)
                wait_for(lambda: not any(map(harness.is_alive, job.pids)), limit_s + 3, "ranks are left")
                seconds = time.monotonic() - start
                status = job.wait_for_end(10)
                if code is not None:
                    self.assertEqual(status, code, job.stderr())
                    self.assertIn("the same command goes on from there", job.stderr())
                self.assertLess(seconds, limit_s + 2, job.stderr())
            self.assertEqual(batch.files(), ["out.jsonl.journal"])
            result = batch.run(ranks=ranks)
            self.assertEqual(result.code, 0, result.err)
            self.assertRegex(result.err, r"\b[1-9]\d* of 21 lines are done already")
            self.assertEqual(len(batch.results()), 21)

    def test_checkpoint(self):
        for ranks in (0, 2):
            self.check(ranks, signal.SIGUSR1, 75, 2.0)
            self.check(ranks, signal.SIGTERM, 75, 1.0)
        self.check(0, signal.SIGINT, 130, 2.0)

    def test_through_the_launcher(self):
        # Open MPI passes SIGUSR1 on, and on a SIGTERM kills the ranks soon after they got it.
        self.check(2, signal.SIGUSR1, 75, 2.0, launcher=True)
        self.check(2, signal.SIGTERM, None, 4.0, launcher=True)

    def test_every_rank_ends_with_the_same_code(self):
        batch = self.batch(long_lines())
        with tempfile.TemporaryDirectory() as folder:
            wrapper = ("sh", "-c", 'trap : TERM USR1; "$@"; echo $? > "$CODES_DIR/$$"', "sh")
            command = harness.launch(2, *wrapper, harness.program(), *batch.arguments("-np", 1))
            with harness.Job(command, CODES_DIR=folder) as job:
                job.wait_for_ranks(2)
                job.wait_for_text(b", loaded in ", "stderr")
                os.kill(job.pids[1], signal.SIGTERM)
                wait_for(lambda: len(os.listdir(folder)) == 2, 5, "ranks are left")
                job.wait_for_end(10)
            codes = [int((pathlib.Path(folder) / name).read_text()) for name in os.listdir(folder)]
            self.assertEqual(codes, [75, 75])

    def test_a_second_sigterm_ends_at_once(self):
        batch = self.batch(long_lines())
        codes = set()
        for i in range(60):  # the second one has to come before the first one's end, but not together with it
            with batch.job("-np", 1) as job:
                job.wait_for_text(b", loaded in ", "stderr")
                os.kill(job.process.pid, signal.SIGTERM)
                time.sleep(i % 12 * 0.0001)
                os.kill(job.process.pid, signal.SIGTERM)
                codes.add(job.wait_for_end(5))
            if 143 in codes:
                break
        self.assertIn(143, codes)
        self.assertLessEqual(codes, {143, 75})

    def test_while_loading(self):
        # Whatever the moment: no record is lost, and the code asks for a new start.
        for delay_s in (0, 0.003, 0.01, 0.03):
            batch = self.batch(mixed_lines(6))
            with batch.job() as job:
                job.wait_for(lambda: os.path.exists(batch.journal), "a journal")
                time.sleep(delay_s)
                os.kill(job.process.pid, signal.SIGUSR1)
                self.assertIn(job.wait_for_end(11), (75, 65))
            self.assertEqual(batch.run().code, 65)


class LongSteps(Case):
    """A step that takes longer than a signal leaves time for is cut short, with the code that asks for more."""

    def test_sigterm_within_a_prompt(self):
        model = harness.real_model()
        long_prompt = request("long", prompt=[1000 + i for i in range(4000)], max_tokens=1)
        for ranks in (0, 2):
            batch = self.batch([request("short", prompt="a", max_tokens=1), long_prompt], model=model)
            arguments = ("-np", 1, "-b", 4096, "-c", 4096, "--sync-records", 1)
            with batch.job(*arguments, ranks=ranks) as job:
                job.wait_for_ranks(max(1, ranks))
                job.wait_for(lambda: n_records(batch.journal) >= 1, "a record")
                time.sleep(0.2)
                start = time.monotonic()
                os.kill(job.pids[-1], signal.SIGTERM)
                status = job.wait_for_end(5)
                self.assertEqual(status, 75, job.stderr())
                self.assertLess(time.monotonic() - start, 3.0)
                self.assertIn("SIGTERM, and not ended after 0.8 s (in prompt)", job.stderr())
            result = batch.run(*arguments, ranks=ranks)
            self.assertEqual(result.code, 0, result.err)
            self.assertIn("1 of 2 lines are done already", result.err)
            self.assertEqual([line["custom_id"] for line in batch.results()], ["short", "long"])


class Killed(Case):
    def test_a_hundred_kills(self):
        kills = batch_kills.Kills(seed=int(os.environ.get("TANDEM_KILL_SEED", "2026")))
        kills.run(100)
        self.assertEqual({kind for kind, _ in kills.counts}, set(batch_kills.KINDS))
        self.assertEqual({ranks for _, ranks in kills.counts}, {1, 2})

    def test_the_check_rejects_a_wrong_output(self):
        kills = batch_kills.Kills(seed=7)
        batch = self.batch(kills.lines)
        self.done(batch, code=65)
        kills.check(batch)
        good = batch.bytes()
        lines = good.splitlines(keepends=True)
        for wrong in (
            good[:-1],
            good + lines[-1],
            b"".join(lines[1:]),
            lines[1] + lines[0] + b"".join(lines[2:]),
        ):
            pathlib.Path(batch.output).write_bytes(wrong)
            with self.assertRaises(batch_kills.Failure):
                kills.check(batch)
        pathlib.Path(batch.output).write_bytes(good)
        pathlib.Path(batch.journal).write_bytes(b"")
        with self.assertRaises(batch_kills.Failure):
            kills.check(batch)


if __name__ == "__main__":
    harness.main()
