// The CUDA backend: the verbs of ops/verbs.h as kernels on one GPU, a step of few tokens as one graph that is
// recorded once and replayed. Made by launch/session; used by runtime/model/forward. Partial sums reach the
// other ranks through the collective it is given; it knows neither MPI nor NCCL.
#pragma once

#include <memory>

#include "ops/cuda/bulk_windows.h"
#include "ops/cuda/collective.h"
#include "ops/verbs.h"

namespace tandem {

struct CudaBackendOptions {
  int device = 0;
  int rank = 0;
  bool graphs = true;          ///< record steps of few tokens
  bool deterministic = false;  ///< a sequence's bits don't depend on the step's other tokens; slower
  double mem_fraction = 0.95;  ///< of the device's memory that may be used
  bool early = true;           ///< programmatic dependent launch where the GPU has it
  cuda::BulkWindow bulk = {};  ///< where large sums lie in the collective's windows, if it has any
  bool shared = false;         ///< other ranks are on the same device
};

/// `collective` is null for a rank that is alone. Throws Error(unavailable) where the device can't be used.
std::unique_ptr<Backend> make_cuda_backend(const CudaBackendOptions& options,
                                           std::unique_ptr<cuda::DeviceCollective> collective);

}  // namespace tandem
