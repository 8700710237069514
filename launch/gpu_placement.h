// GPUs as the program meets them: which there are, which one this rank takes, and with what versions. In
// every build: gpu_placement_none.cpp stands in where CUDA isn't built in. Called by launch/session and
// launch/commands (doctor, version).
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "launch/gpu_plan.h"

namespace tandem {

/// The GPUs that this process may use (CUDA_VISIBLE_DEVICES is heeded by CUDA itself). Empty where there are
/// none, with the reason in `why_none`.
std::vector<GpuInfo> visible_gpus(std::string& why_none);

struct GpuPlacement {
  GpuInfo gpu;
  bool shared = false;             ///< another rank has it too
  std::vector<std::string> lines;  ///< for -v, a line a rank, the same on every rank
  std::string binding;             ///< where this rank's threads run, in words
};

/// Collective. Chooses this rank's GPU (launch/gpu_plan.h), makes it the thread's current device, and binds
/// the process to the CPUs beside it unless the launcher has bound it. Before any other use of CUDA and
/// before threads are made. Throws Error{usage, unavailable}, the same on every rank.
GpuPlacement place_on_gpu(Communicator& communicator, bool allow_share);

/// Whether this build has the CUDA backend.
bool cuda_built();
/// What was built in and what is here: the compiler, the architectures, the driver's version.
std::string cuda_text();
/// NCCL's version as its library says it, or why it can't be used.
std::string nccl_text();

}  // namespace tandem
