// Rotary position embedding: the rotation tables of a step's tokens, and their application to query and key
// heads in place, after an optional RMS norm of each head (qk-norm). Which frequencies a model uses (linear,
// YaRN, llama3, rope_freqs) is the model's business: here they are an array. Sines and cosines are computed
// in double by our own polynomials (positions up to 2^31), so that a table has the same bits on every
// machine.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ops/cpu/isa.h"
#include "ops/variants.h"

namespace tandem {

/// cos and sin of position × frequency for a step's tokens. One object per distinct rope base of the model.
class RopeTable {
 public:
  /// inverse_frequency: (n_rot/2), radians a position. Both cos and sin are multiplied by `magnitude` (YaRN's
  /// mscale).
  void fill(std::span<const int32_t> positions, std::span<const double> inverse_frequency,
            double magnitude = 1.0);

  int64_t n_tokens() const { return n_tokens_; }
  int64_t n_pairs() const { return n_pairs_; }
  const float* cosines(int64_t token) const { return values_.data() + token * 2 * n_pairs_; }  // (n_pairs)
  const float* sines(int64_t token) const {
    return values_.data() + (token * 2 + 1) * n_pairs_;
  }  // (n_pairs)

 private:
  int64_t n_tokens_ = 0;
  int64_t n_pairs_ = 0;
  std::vector<float> values_;  // (n_tokens, 2, n_pairs)
};

/// The same rotations by position, each computed once and kept: for steps of many tokens, whose positions
/// come again and again. Grows with the positions asked for.
class RopeRows {
 public:
  explicit RopeRows(std::vector<double> inverse_frequency, double magnitude = 1.0)
      : inverse_frequency_(std::move(inverse_frequency)), magnitude_(magnitude) {}

  int64_t n_pairs() const { return static_cast<int64_t>(inverse_frequency_.size()); }
  /// (n_pairs, 2): cos and sin, as RopeTable has them. Where there are pairs.
  const float* row(int32_t position);

 private:
  std::vector<double> inverse_frequency_;
  double magnitude_;
  RopeTable table_;
  std::vector<std::vector<float>> runs_;  // (kRun, n_pairs, 2) each; empty until one of it is asked for
};

struct RopeHeads {
  float* x = nullptr;  // (n_heads, head_dim), changed in place
  int64_t n_heads = 0;
  int64_t head_dim = 0;
  const float* norm_weight = nullptr;  // (head_dim), or null: no norm before the rotation
  float norm_eps = 0.0F;
  RopeStyle style = RopeStyle::adjacent;
  const float* cosines = nullptr;  // (n_pairs); null: no rotation
  const float* sines = nullptr;    // (n_pairs)
  int64_t n_pairs = 0;             ///< n_rot/2; elements from 2·n_pairs on are not rotated
};

/// Norm (if any) and rotation of one token's heads: (a, b) becomes (a·cos − b·sin, a·sin + b·cos).
void rope(const RopeHeads& heads, Isa isa = best_isa());

}  // namespace tandem
