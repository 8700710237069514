#include "ops/ref/sampling.h"

#include <algorithm>
#include <cmath>

namespace tandem::ref {

std::vector<int32_t> top_k(std::span<const float> logits, int k) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isinf(logits[i]) || logits[i] > 0.0F) ids.push_back(static_cast<int32_t>(i));
  }
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  if (ids.size() > static_cast<size_t>(k)) ids.resize(static_cast<size_t>(k));
  return ids;
}

double sum_exp(std::span<const float> logits, double max, double inverse_temperature) {
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp((static_cast<double>(logit) - max) * inverse_temperature);
  return sum;
}

double gumbel(uint32_t word) {
  return -std::log(-std::log1p(-(static_cast<double>(word) + 0.5) * 0x1p-32));
}

}  // namespace tandem::ref
