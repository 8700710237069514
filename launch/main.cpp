// The program: finds the subcommand, runs it, and turns every way to fail into one line and one exit code on
// all ranks. Errors of all commands are caught here.
#include <fmt/format.h>

#include <array>
#include <string>
#include <string_view>

#include "launch/command.h"
#include "launch/job.h"
#include "launch/log.h"
#include "launch/output.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

constexpr std::array kCommands = {
    Command{"run", "continue a prompt, or answer it", run_command, true},
    Command{"chat", "converse at the terminal", chat_command, true},
    Command{"batch", "answer a file of requests, exactly once", batch_command, true},
    Command{"bench", "measure prompt and generation speed", bench_command, true},
    Command{"perplexity", "measure how well a model predicts a text", perplexity_command, true},
    Command{"logits", "write the logits of every token of a text", logits_command, true},
    Command{"inspect", "show a file's metadata, tensors and shards", inspect_command},
    Command{"plan", "say what each rank's memory will hold, and whether it fits", plan_command},
    Command{"tokenize", "print a text's token ids", tokenize_command},
    Command{"doctor", "examine what a job runs on, and say what is wrong", doctor_command, true},
    Command{"version", "print versions and what is built in", version_command},
};

void print_help() {
  std::string text =
      "tandem: tensor-parallel inference of GGUF models over MPI\n\n"
      "usage: tandem COMMAND [options]              one rank\n"
      "       mpirun -np N tandem COMMAND [options]  N ranks that share the model\n\ncommands:\n";
  for (const Command& command : kCommands) {
    text += fmt::format("  {:<12} {}\n", command.name, command.summary);
  }
  print_result(text + "\n`tandem COMMAND --help` lists a command's options.\n");
}

int dispatch(Job& job, const Arguments& arguments) {
  const std::string_view name = arguments.empty() ? "" : std::string_view(arguments[0]);
  if (name == "--version") return version_command(job, {});
  if (name == "--help" || name == "-h" || name == "help") {
    if (job.rank() == 0) print_help();
    return 0;
  }
  for (const Command& command : kCommands) {
    if (name != command.name) continue;
    job.expect_start(command.starts);
    return command.run(job, Arguments(arguments.begin() + 1, arguments.end()));
  }
  throw Error(ExitCode::usage, name.empty() ? "no command" : fmt::format("unknown command '{}'", name),
              "see `tandem --help`");
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  tandem::Job job;
  try {
    tandem::set_up_log(0);
    const int exit_code = tandem::dispatch(job, tandem::Arguments(argv + 1, argv + argc));
    job.end(exit_code);
    return exit_code;
  } catch (const std::exception& error) {
    job.fail(error);
  }
}
