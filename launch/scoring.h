// Perplexity of a text, computed as llama-perplexity does: chunks of the context's length, the second half of
// each scored.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/engine/engine.h"

namespace tandem {

/// −log p(token) under softmax(logits), in double.
double negative_log_likelihood(std::span<const float> logits, int32_t token);

/// A running mean of negative log-likelihoods and its standard error.
class PerplexityEstimate {
 public:
  void add(double nll);
  int64_t count() const { return count_; }
  double perplexity() const;
  double error() const;  ///< one standard error of the perplexity; 0 with fewer than two scores

 private:
  int64_t count_ = 0;
  double sum_ = 0.0;
  double sum_of_squares_ = 0.0;
};

/// Scores `tokens` in chunks of `chunk_tokens`. `bos` (or −1) replaces each chunk's first token while it is
/// computed. `on_chunk` gets the estimate so far. `keep_going` false ends early. Rank 0 only; the engine must
/// be otherwise idle.
PerplexityEstimate score_text(Engine& engine, std::span<const int32_t> tokens, int64_t chunk_tokens,
                              int32_t bos,
                              const std::function<void(int64_t chunk, const PerplexityEstimate&)>& on_chunk,
                              const std::function<bool()>& keep_going);

}  // namespace tandem
