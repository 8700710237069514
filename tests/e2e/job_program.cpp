// A stand-in for a running job: ranks that exchange, broadcast and wait as the engine does, until they are
// killed, stopped, made to throw or asked to end by tests/e2e/test_endings.py. Its main is main.cpp's.
//   job_program PHASE WHAT [RANK]   PHASE: load, prompt, decode or idle; writes its pid to $PID_DIR/RANK once
//   it runs WHAT: loop, stuck (deaf to signals), throw, throw_other, require (on RANK, or on all where RANK
//   is missing),
//         return (all ranks return 75)
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>

#include "comm/process.h"
#include "launch/command.h"
#include "launch/job.h"
#include "launch/log.h"
#include "ops/core/check.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

constexpr int kStepsBeforeFault = 50;

/// One step's collectives in the manner of a phase.
void step(Communicator& comm, const std::string& phase, int number) {
  if (phase == "load") {
    const auto buffer = comm.node_buffer(100'000);
    buffer->bytes()[static_cast<size_t>(comm.node_rank())] = std::byte{1};
    usleep(2000);
    comm.all_agree(true);
  } else if (phase == "idle") {
    if (comm.rank() == 0) usleep(50'000);  // the others wait in the broadcast that follows
  } else {
    const size_t n = phase == "prompt" ? 50'000 : 500;
    for (int layer = 0; layer < 10; ++layer) {
      std::byte* const mine = comm.contribution(n);
      std::fill(mine, mine + n, static_cast<std::byte>(number));
      for (const std::byte* theirs : comm.publish()) {
        require(theirs[n - 1] == static_cast<std::byte>(number), "a contribution is wrong", number);
      }
    }
    usleep(phase == "prompt" ? 1000 : 100);
  }
}

void fault(const std::string& what) {
  if (what == "throw") throw Error(ExitCode::bad_data, "model.gguf: block 7 is broken", "fetch it again");
  if (what == "throw_other") throw std::runtime_error("something else");
  if (what == "require") require(false, "a rule is broken", 7);
}

int run(Job& job, const Arguments& arguments) {
  const std::string& phase = arguments.at(0);
  const std::string& what = arguments.at(1);
  Communicator& comm = job.start({});
  const bool faulty = arguments.size() < 3 || std::stoi(arguments[2]) == comm.rank();
  comm.barrier();
  note_phase(phase);
  if (const char* folder = std::getenv("PID_DIR")) {
    std::ofstream(std::string(folder) + "/" + std::to_string(comm.rank())) << getpid() << "\n";
  }
  for (int number = 0;; ++number) {
    int signal = comm.rank() == 0 && what != "stuck" ? pending_signal() : 0;
    comm.broadcast(std::as_writable_bytes(std::span(&signal, 1)), 0);
    if (signal != 0) return 128 + signal;
    if (number == kStepsBeforeFault && what == "return") return 75;
    if (number == kStepsBeforeFault && faulty) fault(what);
    step(comm, phase, number);
  }
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  tandem::Job job;
  try {
    tandem::set_up_log(0);
    const int exit_code = tandem::run(job, tandem::Arguments(argv + 1, argv + argc));
    job.end(exit_code);
    return exit_code;
  } catch (const std::exception& error) {
    job.fail(error);
  }
}
