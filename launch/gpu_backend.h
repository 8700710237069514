// The door to the CUDA backend. In a build without CUDA gpu_backend_none.cpp stands in. Called by
// launch/session.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "ops/verbs.h"

namespace tandem {

struct GpuRequest {
  std::string comm = "auto";   ///< --comm
  bool allow_share = false;    ///< --allow-share: ranks may share a GPU
  bool graphs = true;          ///< --graphs
  double mem_fraction = 0.95;  ///< --mem-fraction
  int64_t n_embd = 0;          ///< width of what ranks exchange
  int64_t n_vocab = 0;
};
struct GpuBackend {
  std::unique_ptr<Backend> backend;
  std::vector<std::string> lines;  ///< for -v, the same on every rank: who is where, how sums travel
  std::string binding;             ///< where this rank's threads run, in words
};

/// Chooses each rank's device and how partial sums travel. Collective. Throws Error, the same on every rank.
GpuBackend make_gpu_backend(const GpuRequest& request, Communicator& communicator);

}  // namespace tandem
