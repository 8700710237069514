// The step between two blocks of a layer on one device: partial rows summed in rank order, joined to the
// residual, normed, and written in the forms that the next block's matrices read. The partial rows are one
// slot of memory a rank (one in all behind an all-reduce), or packets in the peers' windows (peer_windows.h),
// which the kernel awaits: all-reduce, residual, norm and quantisation are then one kernel. Slots, too, may
// be awaited, where another rank copies its rows there (arrivals.h).
#pragma once

#include "ops/cuda/activations.h"
#include "ops/cuda/arrivals.h"
#include "ops/cuda/peer_windows.h"

namespace tandem::cuda {

inline constexpr int kMaxNormSlots = 8;
inline constexpr int kMaxNormOutputs = 2;

struct AddNorm {
  int64_t n_cols = 0;
  const float* slots[kMaxNormSlots] = {};  ///< each (n_tokens, n_cols): partial sums, added in this order
  int32_t n_slots = 0;                     ///< 0: nothing is added
  Arrivals arrivals;                       ///< of slots that another rank's copies fill meanwhile
  PeerWindows peers;  ///< where there are ranks: their packets are added instead of slots
  const float* partial =
      nullptr;  ///< with peers, (n_tokens, n_cols): sent to them first, unless the GEMV did
  const float* post_weight =
      nullptr;                ///< (n_cols): the summed row is normed before it joins the residual; or null
  float* residual = nullptr;  ///< (n_tokens, n_cols), updated in place
  const int32_t* rows = nullptr;  ///< on the device, (n_tokens): which rows of the residual; null: in order
  const float* weight = nullptr;  ///< (n_cols): of the next block's norm; null: no outputs
  float eps = 0;
  int64_t first_token = 0;                     ///< of slots, partial, residual (or rows) and outputs
  CudaActivations* out[kMaxNormOutputs] = {};  ///< (n_tokens, n_cols) in their forms; null: none
  uint32_t* not_finite = nullptr;              ///< as CudaActivations::fill; or null
};

/// residual[t] += post_norm?(Σ slots[t]); each out[t] = rms_norm(residual[t]) · weight, for n_tokens rows
/// (with peers at most kExchangeTokens), in order with `stream`. n_cols: at most 32768, a multiple of 4. The
/// outputs' columns begin at 0. Where slots are awaited all multiprocessors may be taken meanwhile: what
/// fills them must need none. `early`: see gemv.h. Sums of squares are added in an order that depends on
/// n_cols alone.
void add_norm(const AddNorm& what, int64_t n_tokens, bool early, cudaStream_t stream);

}  // namespace tandem::cuda
