// The step between two blocks of a layer on one device: partial rows summed in slot order, joined to the
// residual, normed, and written in the forms that the next block's matrices read. What a rank does behind an
// all-reduce (one slot: the sum), or alone over the slots of its peers once they are complete.
#pragma once

#include "ops/cuda/activations.h"

namespace tandem::cuda {

inline constexpr int kMaxNormSlots = 8;
inline constexpr int kMaxNormOutputs = 2;

struct AddNorm {
  int64_t n_cols = 0;
  const float* slots[kMaxNormSlots] = {};  ///< each (n_tokens, n_cols): partial sums, added in this order
  int32_t n_slots = 0;                     ///< 0: nothing is added (the first norm of a model)
  const float* post_weight =
      nullptr;                ///< (n_cols): the summed row is normed before it joins the residual; or null
  float* residual = nullptr;  ///< (n_tokens, n_cols), updated in place
  const float* weight = nullptr;  ///< (n_cols): of the next block's norm
  float eps = 0;
  CudaActivations* out[kMaxNormOutputs] = {};  ///< (n_tokens, n_cols) in their forms; null: none
  uint32_t* not_finite = nullptr;              ///< as CudaActivations::fill; or null
};

/// residual[t] += post_norm?(Σ slots[t]); each out[t] = rms_norm(residual[t]) · weight, for n_tokens rows, in
/// order with `stream`. n_cols: at most 32768, a multiple of 4. The outputs' columns begin at 0. `early`: see
/// gemv.h. Sums of squares are added in an order that depends on n_cols alone.
void add_norm(const AddNorm& what, int64_t n_tokens, bool early, cudaStream_t stream);

}  // namespace tandem::cuda
