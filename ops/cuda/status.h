// check(): the status of a CUDA call. A failure is the environment's (no memory, no device, a fault reported
// late), so it throws Error; our own mistakes go through require() (ops/core/check.h).
#pragma once

#include <cuda_runtime_api.h>

#include "ops/core/check.h"

namespace tandem::cuda {

/// Throws Error(unavailable) with CUDA's words and the place, unless `status` is success.
void check(cudaError_t status, SourceLocation where = SourceLocation(__builtin_FILE(), __builtin_LINE()));

}  // namespace tandem::cuda
