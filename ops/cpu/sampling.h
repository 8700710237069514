// What sampling needs from one rank's shard of the vocabulary, so that every rank can pick the same token
// from the same few numbers: maxima, candidates, an exact normaliser, and noise that any rank can compute for
// any token. `first_id` is the token id of logits[0]. Logits must not be NaN (the forward pass reports
// those); -infinity marks a token that may not be chosen.
#pragma once

#include <cstdint>
#include <span>

#include "ops/cpu/isa.h"

namespace tandem {

/// A token and its score. Ordered: the higher score first, among equals the lower id.
struct Candidate {
  float score = 0.0F;
  int32_t id = -1;
  friend bool operator==(const Candidate&, const Candidate&) = default;
};

/// The order in which candidates are taken.
constexpr bool before(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

/// The highest logit, the lowest id among equals. n = 0 or all -infinity: {-infinity, -1}.
Candidate find_best(const float* logits, int64_t n, int32_t first_id, Isa isa = best_isa());

inline constexpr int kExpSumBits = 40;

/// Σ exp((logits[i] − max) · inverse_temperature) in units of 2^-40, each addend rounded to an integer:
/// shards' sums add up to the same number however the vocabulary is cut. max: of all shards. At most 2^22
/// tokens.
int64_t sum_exp_fixed(const float* logits, int64_t n, float max, float inverse_temperature,
                      Isa isa = best_isa());

/// One token's addend of the sum above.
int64_t exp_fixed(float logit, float max, float inverse_temperature, Isa isa = best_isa());

inline constexpr int kMaxTopK = 1024;

/// The best min(k, tokens above -infinity) in order, to out: (k). k <= kMaxTopK. Returns how many.
int find_top_k(const float* logits, int64_t n, int32_t first_id, int k, Candidate* out, Isa isa = best_isa());

/// Standard Gumbel noise, a function of these three numbers only: Philox4x32-10 with the seed as key and the
/// counter (id / 4, position low, position high, 0); word id % 4 gives v = (word + 1/2) / 2^32, and the noise
/// is -log(-log(1 - v)). Finite for every input.
float gumbel_noise(uint64_t seed, uint64_t position, int32_t id, Isa isa = best_isa());

struct GumbelArgs {
  float inverse_temperature = 1.0F;
  float min_logit = 0.0F;  ///< tokens with a lower logit are not considered; -infinity: all are
  uint64_t seed = 0;
  uint64_t position = 0;  ///< of the token that is drawn
};

/// The best by logit · inverse_temperature + gumbel_noise(seed, position, id): an exact draw from the
/// softmax, and the best of the shards' bests is the draw from the whole. The candidate's score is that sum.
/// None: {-infinity, -1}.
Candidate draw(const float* logits, int64_t n, int32_t first_id, const GumbelArgs& args,
               Isa isa = best_isa());

/// The same over a list of candidates (score = logit, any order).
Candidate draw(std::span<const Candidate> candidates, const GumbelArgs& args, Isa isa = best_isa());

/// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011).
struct PhiloxWords {
  uint32_t w[4];
};
PhiloxWords philox4x32(PhiloxWords counter, uint32_t key_low, uint32_t key_high);

}  // namespace tandem
