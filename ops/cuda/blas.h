// Plain matrix products by cuBLASLt, for prompts. Called by ops/cuda/products. In a build without cublasLt.h,
// and where the library isn't there, open() says so.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace tandem::cuda {

/// What is multiplied; sums are floats.
enum class BlasType : uint8_t { halves, floats };

/// out[n][m] = Σ_k w[m][k] · x[n][k]; all rows contiguous.
struct BlasProduct {
  BlasType type = BlasType::halves;
  const void* w = nullptr;  ///< (m, k)
  const void* x = nullptr;  ///< (n, x_stride)
  float* out = nullptr;     ///< (n, out_stride)
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  int64_t x_stride = 0;    ///< in elements
  int64_t out_stride = 0;  ///< in elements
};

class Blas {
 public:
  virtual ~Blas() = default;
  /// In order with `stream`; the same stream each time. Throws Error(unavailable) where the library refuses.
  virtual void multiply(const BlasProduct& product, cudaStream_t stream) = 0;
  virtual size_t workspace_bytes() const = 0;

  /// For the current device; null with the reason where it can't be had.
  static std::unique_ptr<Blas> open(std::string& why_not);
};

}  // namespace tandem::cuda
