// Products of halves by our own kernel (gemm.cu), on Hopper: prompts' tokens with weights that were unpacked.
// What is to be done with the sums (scales, biases, gates) is done before they are written, and a token's
// sums are added column by column in one order, whatever the number of tokens. Called by ops/cuda/products.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <span>

#include "ops/cuda/gemv_args.h"

namespace tandem::cuda {

/// A matrix that x is multiplied with.
struct GemmPart {
  const void* w = nullptr;  ///< (m, k) halves, from a multiple of 16 bytes on
  int64_t m = 0;
  float* out = nullptr;         ///< (n, out_stride)
  int64_t out_stride = 0;       ///< in elements
  float power = 1;              ///< sums are multiplied with it,
  const float* bias = nullptr;  ///< (m), and this is added; or null
};

/// out[n][m] = power · scales[n] · Σ_k w[m][k] · x[n][k] + bias[m], for each part.
struct GemmProduct {
  std::span<const GemmPart> parts;  ///< at most kMaxGemmParts
  const void* x = nullptr;          ///< (n, x_stride) halves, from a multiple of 16 bytes on
  int64_t n = 0;
  int64_t k = 0;                  ///< a multiple of 64
  int64_t x_stride = 0;           ///< in elements, a multiple of 8
  const float* scales = nullptr;  ///< on the device, scale_stride bytes apart; null: 1
  int64_t scale_stride = 0;
  /// With a gate there are two parts, gate and up, of one m and power: act(gate's) · up's goes to gate's
  /// output.
  Epilogue gate = Epilogue::none;
};
inline constexpr int kMaxGemmParts = 3;

class Gemm {
 public:
  virtual ~Gemm() = default;
  /// In order with `stream`. An output's bits depend on its row, its token and k alone.
  virtual void multiply(const GemmProduct& product, cudaStream_t stream) = 0;
  /// Whether its largest tiles of that many tokens keep all multiprocessors busy: then, without a gate, it is
  /// faster than cuBLASLt and what has to be done to that one's sums.
  virtual bool fills(int64_t n_rows, int64_t n_tokens) const = 0;

  /// For the current device; null where it isn't Hopper, or where this build has no code for it.
  static std::unique_ptr<Gemm> open();
};

}  // namespace tandem::cuda
