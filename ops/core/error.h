// The one exception of tandem: a fault of the user's or of the environment's, told in one line.
// Thrown anywhere, caught in launch/main.cpp only. Our own bugs go through require() (check.h) instead.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace tandem {

/// Exit codes, the same on every rank (the numbers are BSD's sysexits).
enum class ExitCode : int {
  ok = 0,
  usage = 64,        ///< wrong flags or arguments
  bad_data = 65,     ///< a file's content is wrong
  unavailable = 69,  ///< a peer or a device is gone or was never there
  internal = 70,     ///< our own bug
  io = 74,           ///< the operating system refused a read or a write
  try_again = 75,    ///< stopped on request before the end: requeue
};

class Error : public std::runtime_error {
 public:
  /// `what`: one line, names the file, key or flag. `hint`: the cure, or empty.
  Error(ExitCode code, const std::string& what, std::string hint = {})
      : std::runtime_error(what), code_(code), hint_(std::move(hint)) {}

  ExitCode code() const { return code_; }
  const std::string& hint() const { return hint_; }

 private:
  ExitCode code_;
  std::string hint_;
};

}  // namespace tandem
