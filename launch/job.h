// The job that this process is part of: one process, or the ranks that a launcher started. Owns MPI, the
// communicator and the watchdog in the order in which they have to die. Made by main.cpp, used by
// launch/commands.
#pragma once

#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/mpi.h"
#include "comm/watchdog.h"

namespace tandem {

class Job {
 public:
  /// Takes the signals in hand. Starts nothing yet.
  Job();
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  /// All ranks, started (collective). Without a launcher that is this process alone, and MPI is never
  /// started. `settings`: this rank's, a text each. Throws Error{unavailable}, and Error{usage} where another
  /// rank has others: launchers don't hand a shell's variables to every node, and ranks that do different
  /// things would wait for each other, or compute nonsense.
  Communicator& start(const std::vector<std::string>& settings);

  /// Whether the command that is about to run would start the job: its ranks then fail together, also before.
  void expect_start(bool would_start) { would_start_ = would_start; }

  /// This process's rank, known before start() as far as the launcher tells.
  int rank() const;

  /// The orderly end, collective where the job was started: stops the watchdog, frees the node's memory,
  /// finalizes MPI. Everything made from the communicator must be gone. `exit_code`: the same on every rank.
  void end(int exit_code);

  /// The end after an exception: one line, the same exit code on every rank. Reads the exception in flight.
  [[noreturn]] void fail(const std::exception& error);

 private:
  struct Told;
  void bring_up();
  void agree(const Told& mine);
  void tell_others(int& code, std::string& line);

  LauncherInfo launcher_;
  bool would_start_ = false;
  std::unique_ptr<MpiEnvironment> mpi_;
  std::unique_ptr<Communicator> comm_;
  std::unique_ptr<Watchdog> watchdog_;
};

}  // namespace tandem
