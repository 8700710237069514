#include "ops/cuda/status.h"

#include "ops/core/error.h"

namespace tandem::cuda {

void check(cudaError_t status, SourceLocation where) {
  if (status == cudaSuccess) [[likely]]
    return;
  throw Error(
      ExitCode::unavailable,
      std::string("CUDA: ") + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ", at " +
          where.file_name() + ":" + std::to_string(where.line()) + ")",
      status == cudaErrorMemoryAllocation ? "free device memory or use a smaller model or context" : "");
}

}  // namespace tandem::cuda
