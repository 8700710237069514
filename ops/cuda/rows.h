// What is done to the rows of a product by cuBLASLt, whose sums lack the tokens' scales: biases, gates; and
// how rows become the next product's halves. Called by ops/cuda/products.
#pragma once

#include "ops/cuda/activations.h"
#include "ops/cuda/gemv_args.h"

namespace tandem::cuda {

/// Rows of a product on the device, and what their sums have to be multiplied with: power · scales[token].
struct RawRows {
  float* data = nullptr;  ///< (n_tokens, stride)
  int64_t stride = 0;
  int64_t n_rows = 0;  ///< of the matrix: elements of a token
  int64_t n_tokens = 0;
  const float* scales = nullptr;  ///< on the device, scale_stride bytes apart; null: 1
  int64_t scale_stride = 0;
  float power = 1;
};

/// data = data · power · scales[token] + bias (n_rows, or null), in place.
void finish_rows(const RawRows& rows, const float* bias, cudaStream_t stream);

/// gate = act(gate · its scale) · (up · its scale), in place; both of one shape. `kind` is no Epilogue::none.
void gate_rows(Epilogue kind, const RawRows& gate, const RawRows& up, cudaStream_t stream);

/// Whether gate_halves() and halve_rows() can write n_rows elements a token to `out`, in its form and
/// columns.
bool writes_halves(int64_t n_rows, const CudaActivations& out);

/// The same as gate_rows() and CudaActivations::fill() behind it, to the same bits, but read once: writes
/// gate.n_tokens tokens of `out` from first_token on, and leaves gate as it is. `not_finite`: as fill() has
/// it.
void gate_halves(Epilogue kind, const RawRows& gate, const RawRows& up, const CudaActivations& out,
                 int64_t first_token, uint32_t* not_finite, cudaStream_t stream);

/// The same of rows that are gated already: as CudaActivations::fill(), to the same bits.
void halve_rows(const RawRows& rows, const CudaActivations& out, int64_t first_token, uint32_t* not_finite,
                cudaStream_t stream);

}  // namespace tandem::cuda
