// The door to the CUDA backend. In a build without CUDA gpu_backend_none.cpp stands in. Called by
// launch/session.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "launch/gpu_plan.h"
#include "ops/verbs.h"

namespace tandem {

struct GpuRequest {
  std::vector<std::string> comms = {"auto"};  ///< --comm: the first is in use until another is selected
  bool can_be_silent = false;                 ///< exchanges can be left out, for measurements
  bool allow_share = false;                   ///< --allow-share: ranks may share a GPU
  bool graphs = true;                         ///< --graphs
  bool deterministic = false;                 ///< --deterministic
  double mem_fraction = 0.95;                 ///< --mem-fraction
  int64_t n_embd = 0;                         ///< width of what ranks exchange
  int64_t n_vocab = 0;
  int64_t max_tokens = 0;  ///< of a step
};
struct GpuBackend {
  std::unique_ptr<Backend> backend;
  std::vector<std::string> lines;  ///< for -v, the same on every rank: who is where, how sums travel
  std::string binding;             ///< where this rank's threads run, in words
  GpuInfo gpu;
  /// From the next step on: the way of that number; `silent` (with can_be_silent): without the exchange of
  /// partial sums. On every rank, between the same steps, while the backend lives. Empty where there is
  /// nothing to choose.
  std::function<void(size_t way, bool silent)> select_comm;
  std::vector<std::string> way_names;  ///< what each is: "peer", "nccl", "mpi"; "single" for one rank
};

/// Chooses each rank's device and how partial sums travel. Collective. Throws Error, the same on every rank.
GpuBackend make_gpu_backend(const GpuRequest& request, Communicator& communicator);

}  // namespace tandem
