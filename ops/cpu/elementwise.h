// Functions of single rows: gated activations, softmax of short vectors, the experts' router, and the small
// steps around embeddings and logits. Called by the model's forward, row by row or split by columns as it
// likes: where nothing is summed, an element depends on its own inputs only.
#pragma once

#include <cstdint>

#include "ops/cpu/isa.h"
#include "ops/variants.h"

namespace tandem {

/// out[i] = gate(g[i]) · u[i]; g, u, out: (n); out may be g or u.
void apply_gate(Gate gate, const float* g, const float* u, int64_t n, float* out, Isa isa = best_isa());

/// x[i] *= factor (Gemma's embeddings: sqrt(n_embd) rounded to float).
void scale_row(float* x, int64_t n, float factor, Isa isa = best_isa());

/// x[i] = cap · tanh(x[i] / cap).
void soft_cap_row(float* x, int64_t n, float cap, Isa isa = best_isa());

/// x[i] += bias[i].
void add_row(float* x, const float* bias, int64_t n, Isa isa = best_isa());

/// out[i] += factor · x[i]: an expert's share. One fused multiply-add an element.
void add_scaled_row(float* out, const float* x, int64_t n, float factor, Isa isa = best_isa());

/// Each `width` elements of x become their Walsh-Hadamard transform times `factor` (ops/core/head_mix.h).
/// width: a power of two up to 128 that divides n.
void mix_heads(float* x, int64_t n, int width, float factor, Isa isa = best_isa());

/// x becomes softmax(x), summed in index order (one scalar sum: for vectors of up to a few hundred).
void softmax_row(float* x, int64_t n, Isa isa = best_isa());

inline constexpr int kMaxExperts = 1024;

/// How a router turns its scores into weights.
struct RouterRule {
  int n_experts = 0;
  int n_used = 0;  ///< experts a token
  bool normalize =
      true;  ///< weights of the chosen sum to 1 (Mixtral); else they are those of the softmax over all
  float scale = 1.0F;  ///< multiplies every weight
};

/// Chooses the n_used highest logits, ties by lower index, in descending order.
/// logits: (n_experts); experts, weights: (n_used). False where a logit is not finite.
[[nodiscard]] bool route(const RouterRule& rule, const float* logits, int32_t* experts, float* weights,
                         Isa isa = best_isa());

}  // namespace tandem
