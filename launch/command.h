// A subcommand of the program: what main.cpp's table needs of each launch/commands/*.cpp, and nothing else.
// To add one: write launch/commands/NAME.cpp with the function, declare it here, add its line to the table in
// main.cpp.
//
// A command takes three steps:
//   OptionParser parser("run", "Generate text"); …     which flags there are (option_parser.h, options.h)
//   if (!parser.parse(arguments)) return 0;            without MPI: --help and wrong flags cost nothing
//   Communicator& comm = job.start(parser.settings()); from here on there are ranks; left out to stay alone
// It returns the exit code, the same on every rank, and throws Error for what the user or the environment did
// wrong. It writes results to stdout on rank 0 only, and throws Error{io} where stdout fails (SIGPIPE is
// ignored).
#pragma once

#include <string>
#include <vector>

namespace tandem {

class Job;

using Arguments = std::vector<std::string>;

struct Command {
  const char* name;
  const char* summary;  ///< one line for `tandem --help`
  int (*run)(Job& job, const Arguments& arguments);
  bool starts = false;  ///< the job; false: every rank is alone
};

int run_command(Job& job, const Arguments& arguments);
int chat_command(Job& job, const Arguments& arguments);
int batch_command(Job& job, const Arguments& arguments);
int bench_command(Job& job, const Arguments& arguments);
int perplexity_command(Job& job, const Arguments& arguments);
int logits_command(Job& job, const Arguments& arguments);
int tokenize_command(Job& job, const Arguments& arguments);
int inspect_command(Job& job, const Arguments& arguments);
int plan_command(Job& job, const Arguments& arguments);
int doctor_command(Job& job, const Arguments& arguments);
int version_command(Job& job, const Arguments& arguments);

}  // namespace tandem
