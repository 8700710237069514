#include "launch/scoring.h"

#include <algorithm>
#include <cmath>

namespace tandem {

double negative_log_likelihood(std::span<const float> logits, int32_t token) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  return max + std::log(sum) - static_cast<double>(logits[static_cast<size_t>(token)]);
}

void PerplexityEstimate::add(double nll) {
  ++count_;
  sum_ += nll;
  sum_of_squares_ += nll * nll;
}

double PerplexityEstimate::perplexity() const {
  return std::exp(sum_ / static_cast<double>(count_));
}

double PerplexityEstimate::error() const {
  if (count_ < 2) return 0.0;
  const auto n = static_cast<double>(count_);
  const double mean = sum_ / n;
  const double variance = std::max(0.0, sum_of_squares_ / n - mean * mean);
  return perplexity() * std::sqrt(variance / (n - 1.0));
}

PerplexityEstimate score_text(Engine& engine, std::span<const int32_t> tokens, int64_t chunk_tokens,
                              int32_t bos,
                              const std::function<void(int64_t chunk, const PerplexityEstimate&)>& on_chunk,
                              const std::function<bool()>& keep_going) {
  PerplexityEstimate estimate;
  const int64_t n_chunks = static_cast<int64_t>(tokens.size()) / chunk_tokens;
  for (int64_t chunk = 0; chunk < n_chunks; ++chunk) {
    const auto first = tokens.begin() + chunk * chunk_tokens;
    std::vector<int32_t> part(first, first + chunk_tokens);
    if (bos >= 0) part[0] = bos;
    EvaluationRequest request;
    request.tokens = part;
    request.first_position = chunk_tokens / 2;
    request.on_logits = [&](int64_t position, std::span<const float> logits) {
      if (position + 1 >= chunk_tokens) return;  // the last token has no successor in the chunk
      estimate.add(negative_log_likelihood(logits, part[static_cast<size_t>(position + 1)]));
    };
    engine.submit(std::move(request));
    while (engine.busy()) {
      if (!keep_going()) return estimate;
      engine.step();
    }
    on_chunk(chunk, estimate);
  }
  return estimate;
}

}  // namespace tandem
