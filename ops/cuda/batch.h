// Matrix products for 5 to 64 tokens by tensor cores (batch_kernel.cuh, on Hopper warpgroup_kernel.cuh), on
// Ampere and later. Called by
// ops/cuda/products.
#pragma once

#include <span>

#include "ops/cuda/gemv.h"

namespace tandem::cuda {

inline constexpr int64_t kMaxBatchTokens = 64;

/// By what this device's code multiplies so many tokens of `type`: quantised formats, on Ampere and later; by
/// warpgroups (warpgroup_kernel.cuh) on Hopper.
BatchCode batch_code(TensorType type);
inline bool has_batch_kernel(TensorType type) {
  return batch_code(type) != BatchCode::none;
}

/// Sums of blocks that share a product's columns, and who of them comes last. One a rank; launches that use
/// it must be in one stream.
class BatchScratch {
 public:
  /// For the current device.
  BatchScratch();
  size_t bytes() const { return partials_.bytes() + tickets_.bytes(); }
  static size_t bytes_on(int n_multiprocessors);

  float* partials() const { return partials_.data(); }
  uint32_t* tickets() const { return tickets_.data(); }
  int n_multiprocessors() const { return n_multiprocessors_; }

 private:
  int n_multiprocessors_ = 0;
  DeviceBuffer<float> partials_;
  DeviceBuffer<uint32_t> tickets_;
};

/// As gemv(), for the n_tokens (at most kMaxBatchTokens) from options.first_token on; x is in form f16 and
/// the parts have batch kernels. Of the options the experts, factor, accumulation and peers are not for it.
void batch_product(std::span<const GemvOperand> parts, const CudaActivations& x, int64_t n_tokens,
                   const GemvOptions& options, const BatchScratch& scratch, cudaStream_t stream);

}  // namespace tandem::cuda
