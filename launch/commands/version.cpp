// `tandem version` and `tandem --version`: what this program was built from and with, and what it found.
// Starts no MPI.
#include <fmt/format.h>
#include <launch/build_info.h>

#include <string>

#include "comm/mpi.h"
#include "launch/command.h"
#include "launch/gpu_placement.h"
#include "launch/option_parser.h"
#include "launch/output.h"

namespace tandem {
namespace {

std::string cpu_features() {
  std::string text;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const auto say = [&text](bool present, const char* name) {
    text += present ? std::string(" ") + name : "";
  };
  say(__builtin_cpu_supports("avx2"), "avx2");
  say(__builtin_cpu_supports("fma"), "fma");
  say(__builtin_cpu_supports("avx512f"), "avx512f");
  say(__builtin_cpu_supports("avx512bw"), "avx512bw");
  say(__builtin_cpu_supports("avx512vl"), "avx512vl");
  say(__builtin_cpu_supports("avx512vnni"), "avx512vnni");
#endif
  return text.empty() ? "baseline" : text.substr(1);
}

}  // namespace

int version_command(Job&, const Arguments& arguments) {
  OptionParser parser("version", "Print versions and what is built in");
  if (!parser.parse(arguments)) return 0;
  if (launcher_info().rank > 0) return 0;
  std::string text = fmt::format("tandem {} (commit {})\n", kVersion, kCommit);
  text += fmt::format("compiler  {}, {}\n", kCompiler, kBuildType);
  text += fmt::format("mpi       {}\n", mpi_library_version());
  text += fmt::format("cpu       {}\n", cpu_features());
  text += fmt::format("cuda      {}\n", cuda_text());
  text += fmt::format("nccl      {}\n", nccl_text());
  print_result(text);
  return 0;
}

}  // namespace tandem
