// Matrix products of the CUDA backend for few tokens: tiled weights × activations, at the speed of the
// memory. One launch for up to four tokens and all parts, where they are of one format or of two that
// gemv_mixed.h pairs; else one a format.
#pragma once

#include <span>

#include "ops/cuda/activations.h"
#include "ops/cuda/gemv_args.h"
#include "ops/cuda/matrix.h"

namespace tandem::cuda {

/// One matrix of a product. Parts of a product share their input.
struct GemvOperand {
  const CudaMatrix* weight = nullptr;
  const float* bias = nullptr;  ///< (n_rows) on the device, or null
  float* out = nullptr;         ///< (n_tokens, out_stride) on the device
  int64_t out_stride = 0;
  const std::byte* const* experts =
      nullptr;  ///< (n_experts) on the device: each one's tiles, all like `weight`
};

/// What is done beside the product.
struct GemvOptions {
  Epilogue epilogue = Epilogue::none;
  bool early = false;                  ///< see gemv()
  bool fixed = false;                  ///< one order of sums, whatever the number of tokens
  bool by_warps = false;               ///< batch_product() as before Hopper, also where warpgroups are faster
  bool by_blas = false;                ///< unpacked weights by cuBLASLt, also where our own kernel is faster
  int64_t first_token = 0;             ///< of x and of the outputs
  const int32_t* expert = nullptr;     ///< on the device: which expert, where the parts have some
  const float* factor = nullptr;       ///< on the device: multiplies every output; or null
  bool accumulate = false;             ///< adds to the outputs instead of overwriting them
  CudaActivations* records = nullptr;  ///< with an epilogue: the outputs go there, quantised, instead of to
                                       ///< `out`; where writes_records() says so
  uint32_t* not_finite = nullptr;      ///< with records: as CudaActivations::fill; or null
  PeerWindows peers{};  ///< where there are ranks: rows go to their windows (rows 0 … n_tokens - 1 of
                        ///< this rank's slot, of out_stride columns), not to `out`
};

/// What form of activations a product with this format reads. `wide`: the more precise one where there is a
/// choice.
ActForm activation_form(TensorType type, bool wide);

/// Whether gate and up of this type and so many rows can write `out`'s form themselves.
bool writes_records(TensorType type, int64_t n_rows, const CudaActivations& out);

/// For the n_tokens from options.first_token on: out[token][row] = Σ_col weight[row][col] · x[token][col] +
/// bias[row], for each part; q·k·v are three parts. With an epilogue, two parts of one format and shape, gate
/// and up: out of the first part = act(gate) · up; biases are not allowed. All matrices have x's columns; x
/// has the form that activation_form() says. `early`: on Hopper, the launch may begin before the kernel
/// before it in the stream has ended, and waits for it where that matters (programmatic dependent launch). A
/// row's sums are added in an order that depends on the number of its columns, on the form of x, on whether
/// 1, 2 or more tokens are computed at once (no more than 2 where the device lacks the shared memory for 4),
/// and on whether its format shares the launch with another: not on how many rows there are, the grid or
/// timing.
void gemv(std::span<const GemvOperand> parts, const CudaActivations& x, int64_t n_tokens,
          const GemvOptions& options, cudaStream_t stream);

}  // namespace tandem::cuda
