// RMS norm, and the step between two blocks of a layer: sum the ranks' partial rows, add them to the
// residual, and norm the result for the next block. Rows are independent of each other, so the caller shares
// tokens out to threads as it likes. Sums of squares are formed in double in one fixed order, so a row has
// the same bits on every instruction set.
#pragma once

#include <cstdint>

#include "ops/core/range.h"
#include "ops/cpu/isa.h"

namespace tandem {

/// out[i] = x[i] / sqrt(mean(x²) + eps) · weight[i]. x, weight, out: (n); out may be x. Null weight: ones.
/// False where an element of x is not finite or beyond 1e18 (out is then useless).
[[nodiscard]] bool rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out,
                            Isa isa = best_isa());

/// What reduce_add_norm reads and writes; every row is n_cols long and starts stride elements after the one
/// before.
struct ReduceAddNorm {
  int64_t n_cols = 0;
  const int64_t* const* slots =
      nullptr;      // (n_ranks) of (n_tokens, slot_stride): fixed point, ops/core/fixed_point.h
  int n_ranks = 0;  ///< 0: nothing is added (the first norm of a model)
  int64_t slot_stride = 0;
  const float* bias = nullptr;  // (n_cols), added to the summed row; null: none
  const float* post_norm_weight =
      nullptr;                // (n_cols): the summed row is RMS-normed before it joins the residual
  float* residual = nullptr;  // (n_tokens, residual_stride), updated in place
  int64_t residual_stride = 0;
  const float* norm_weight = nullptr;  // (n_cols): weight of the next block's norm; null: no output row
  float* out = nullptr;                // (n_tokens, out_stride): the normed row
  int64_t out_stride = 0;
  int64_t out_padded_cols = 0;  ///< columns n_cols … out_padded_cols of `out` become zeros
  float eps = 0.0F;
};

/// residual[t] += post_norm?(Σ_ranks slots[rank][t] + bias);  out[t] = rms_norm(residual[t]) · norm_weight,
/// for t in `tokens`. False where a row is not finite.
[[nodiscard]] bool reduce_add_norm(const ReduceAddNorm& args, Range tokens, Isa isa = best_isa());

/// out[i] = scale · Σ_ranks slots[rank][i]: embeddings, of which only the rank that owns the token's row
/// sends one that is not zero. slots: (n_ranks) of (n). Added in rank order.
void reduce_floats(const float* const* slots, int n_ranks, int64_t n, float scale, float* out,
                   Isa isa = best_isa());

}  // namespace tandem
