// What decoding is measured against: the bytes that a step must read, and how fast the ranks read memory.
// Used by launch/commands/bench.cpp.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "comm/communicator.h"
#include "launch/session.h"

namespace tandem {

struct Roofline {
  double read_gbps = 0.0;  ///< of all ranks together, measured while all read
  /// Bytes of weights that all ranks together read for a step of so many tokens (Model::bytes_read).
  std::map<int, double> weight_bytes;
};

/// Collective; the same on every rank. `n_tokens`: the steps that are of interest. The sweep reads the
/// device's memory (GPUs: a kernel over up to 1 GiB) or the host's with the ranks' threads (up to 256 MiB a
/// rank), while the model is loaded and nothing else runs.
Roofline measure_roofline(Session& session, Communicator& comm, const std::vector<int>& n_tokens);

}  // namespace tandem
