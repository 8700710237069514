"""What tandem says where its ranks were told different things, or have other files by one name."""

import pathlib

import harness
from harness import golden_model, tandem
from test_bad_input import BAD_DATA, COMMANDS, MODEL, USAGE, Case


class Ranks(Case):
    """As happens where a launcher hands no variables on."""

    def check_second(self, command, code, *words, setup, **env):
        """Rank 1 is started behind `setup`, a line of shell."""
        script = f'if [ "{harness.SHELL_RANK}" = 1 ]; then {setup}; fi; exec "$@"'
        self.check(command, code, *words, ranks=(2, 3), wrapper=("sh", "-c", script, "sh"), **env)

    def test_what_one_rank_cannot_even_begin_with(self):
        run = ("run", *COMMANDS["run"])
        self.check_second(run, USAGE, "rank 1: TANDEM_CTX_SIZE=abc", setup="export TANDEM_CTX_SIZE=abc")
        self.check_second(run[:1] + run[3:], USAGE, "rank 1: no model", setup="unset TANDEM_MODEL", TANDEM_MODEL=MODEL)
        self.check_second(run[:3], USAGE, "rank 1: give either -p", setup="unset TANDEM_PROMPT", TANDEM_PROMPT="hi")

    def test_commands(self):
        other = f'set -- "{harness.program()}" perplexity -m "{MODEL}" -p hi'
        self.check_second(("run", *COMMANDS["run"][:4]), USAGE, "rank 0 `tandem run`", "rank 1 `tandem perplexity`", setup=other)

    def test_options(self):
        run = ("run", *COMMANDS["run"])
        told = "the ranks were not told the same: rank 0"
        for setup, words in (
            ("export TANDEM_CACHE_TYPE_K=q8_0 TANDEM_CACHE_TYPE_V=q8_0", ("rank 1 --cache-type-k=q8_0",)),
            ("export TANDEM_VERIFY_RANKS=1", ("rank 0 nothing, rank 1 --verify-ranks=1", "mpirun -x")),
            ("export TANDEM_CTX_SIZE=8", ("--ctx-size=8",)),
            ("export TANDEM_BATCH_SIZE=1", ("--batch-size=1",)),
            ('set -- "$@" --temp 0.5', ("rank 0 nothing, rank 1 --temp=0.5",)),
        ):
            self.check_second(run, USAGE, told, *words, setup=setup)
        for name in COMMANDS.keys() - {"run", "inspect", "tokenize"}:
            self.check_second((name, *COMMANDS[name]), USAGE, told, setup="export TANDEM_COMM=mpi")
        batch = ("batch", "-m", MODEL, "--prompts", self.path("in", b"a\n"), "-o", "out")
        self.check_second(batch, USAGE, told, "--parallel=1", setup="export TANDEM_PARALLEL=1")

    def test_what_each_rank_may_have_of_its_own(self):
        script = f'export TANDEM_THREADS=$(({harness.SHELL_RANK} + 1)) TANDEM_PROGRESS=off; exec "$@"'
        result = tandem("run", *COMMANDS["run"], ranks=2, wrapper=("sh", "-c", script, "sh"))
        self.assertEqual(result.code, 0, result.err)

    def test_files(self):
        model, other = (self.path(name, b"") for name in ("model", "other"))
        pathlib.Path(model).write_bytes(pathlib.Path(MODEL).read_bytes())
        pathlib.Path(other).write_bytes(pathlib.Path(golden_model("qwen2")).read_bytes())
        run = ("run", "-m", model, "-p", "hi", "-n", 1)
        self.check_second(run, BAD_DATA, "rank 1 has another file", setup=f'shift 4; set -- "{harness.program()}" run -m "{other}" "$@"')

    def test_a_prompt_file_is_rank_0s(self):
        self.path("text", b"some text " * 9)
        elsewhere = ("sh", "-c", f'[ "{harness.SHELL_RANK}" = 0 ] || cd /; exec "$@"', "sh")
        for command in (("run", "-n", 1), ("logits", "-o", "out.npy"), ("perplexity", "-c", 8)):
            result = tandem(*command, "-m", MODEL, "-f", "text", ranks=2, cwd=self.folder, wrapper=elsewhere)
            self.assertEqual(result.code, 0, result.err)


if __name__ == "__main__":
    harness.main()
