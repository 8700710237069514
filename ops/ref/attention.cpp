#include "ops/ref/attention.h"

#include <algorithm>
#include <cmath>

#include "ops/ref/rows.h"

namespace tandem::ref {

std::vector<double> attend(const AttentionRows& rows, int64_t position, int64_t window, double scale,
                           double soft_cap) {
  const int64_t begin = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
  const auto k_dim = static_cast<size_t>(rows.k_dim);
  const auto v_dim = static_cast<size_t>(rows.v_dim);
  std::vector<double> scores;
  for (int64_t i = begin; i <= position; ++i) {
    const std::span<const double> key = rows.keys.subspan(static_cast<size_t>(i) * k_dim, k_dim);
    double dot = 0.0;
    for (size_t d = 0; d < k_dim; ++d) dot += rows.q[d] * key[d];
    dot *= scale;
    scores.push_back(soft_cap > 0.0 ? soft_cap * std::tanh(dot / soft_cap) : dot);
  }
  const std::vector<double> weights = softmax(scores);
  std::vector<double> out(v_dim, 0.0);
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::span<const double> value =
        rows.values.subspan((static_cast<size_t>(begin) + i) * v_dim, v_dim);
    for (size_t d = 0; d < v_dim; ++d) out[d] += weights[i] * value[d];
  }
  return out;
}

}  // namespace tandem::ref
