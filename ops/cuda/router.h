// The experts' router on the device, and the gate of a feed-forward whose two matrices no single launch
// takes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/variants.h"

namespace tandem::cuda {

inline constexpr int kMaxRouterExperts = 256;

/// The n_used experts with the highest logits of each token, ties by lower index, and their softmax weights,
/// which sum to 1 (Mixtral's rule). logits: (n_tokens, n_experts); experts, weights: (n_tokens, n_used).
/// `not_finite` is set to 1 where a logit is not finite. In order with `stream`; `early`: see gemv.h.
void route(const float* logits, int32_t n_experts, int32_t n_used, int64_t n_tokens, int32_t* experts,
           float* weights, uint32_t* not_finite, bool early, cudaStream_t stream);

/// gate[i] = act(gate[i]) · up[i] for n elements.
void apply_gate(Gate kind, float* gate, const float* up, int64_t n, bool early, cudaStream_t stream);

}  // namespace tandem::cuda
