// Many tokens of a mixture of experts: their entries (token, one of its experts) put in the order of experts,
// so that each expert multiplies rows that lie together. Called by the backend.
#pragma once

#include <vector>

#include "ops/cuda/activations.h"
#include "ops/cuda/router.h"

namespace tandem::cuda {

/// Entry number of a token's k-th expert: token · n_used + k. One a rank.
class ExpertOrder {
 public:
  ExpertOrder() = default;
  explicit ExpertOrder(int64_t max_entries);

  /// Sorts the n_entries by expert (those of one keep their order). chosen: on the device, (n_entries).
  /// Returns when the host knows how many each expert has.
  void sort(const int32_t* chosen, int64_t n_entries, int32_t n_experts, cudaStream_t stream);
  /// Sorted entries of expert e: [begin(e), begin(e + 1)).
  int64_t begin(int64_t expert) const { return begins_.data()[expert]; }

  /// to: row i gets the token of sorted entry i. Both of one form and shape.
  void gather(const CudaActivations& from, CudaActivations& to, int64_t n_used, cudaStream_t stream) const;
  /// out[t] = Σ_k weights[t · n_used + k] · rows[where entry (t, k) was sorted to], in the order of k.
  /// rows: (n_entries, n_cols); out: (n_tokens, n_cols).
  void combine(const float* rows, const float* weights, int64_t n_used, int64_t n_cols, float* out,
               cudaStream_t stream) const;

 private:
  int64_t n_entries_ = 0;
  DeviceBuffer<int32_t> order_;   // (n_entries): entry of each sorted place
  DeviceBuffer<int32_t> place_;   // (n_entries): the inverse
  PinnedBuffer<int32_t> begins_;  // (kMaxRouterExperts + 1)
};

}  // namespace tandem::cuda
