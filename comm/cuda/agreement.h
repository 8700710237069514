// How ranks find out together that a step failed on one of them, so that all take the same road: nothing here
// throws, because in `auto` the next kind is tried. Used by comm/cuda only.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "comm/communicator.h"

namespace tandem::cuda {

/// Empty for success; else "CALL: CUDA's words". Forgets the error, unless it is one that stays.
std::string fault_of(cudaError_t status, const char* call);

/// Collective. Empty where every rank's `mine` is; else the first rank's that is not, with the rank, the same
/// text on every rank.
std::string first_fault(Communicator& comm, const std::string& mine);

}  // namespace tandem::cuda
