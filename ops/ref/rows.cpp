#include "ops/ref/rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

namespace tandem::ref {

std::vector<double> rms_norm(std::span<const double> x, std::span<const float> weight, double eps) {
  double squares = 0.0;
  for (const double a : x) squares += a * a;
  const double factor = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  std::vector<double> out;
  for (size_t i = 0; i < x.size(); ++i) {
    out.push_back(x[i] * factor * (weight.empty() ? 1.0 : static_cast<double>(weight[i])));
  }
  return out;
}

std::vector<double> rope(std::span<const double> head, int64_t position,
                         std::span<const double> inverse_frequency, double magnitude, bool halves) {
  std::vector<double> out(head.begin(), head.end());
  const size_t n = inverse_frequency.size();
  for (size_t i = 0; i < n; ++i) {
    const double angle = static_cast<double>(position) * inverse_frequency[i];
    const size_t first = halves ? i : 2 * i;
    const size_t second = halves ? i + n : 2 * i + 1;
    out[first] = magnitude * (head[first] * std::cos(angle) - head[second] * std::sin(angle));
    out[second] = magnitude * (head[first] * std::sin(angle) + head[second] * std::cos(angle));
  }
  return out;
}

std::vector<double> walsh_hadamard(std::span<const double> x, size_t width, double factor) {
  std::vector<double> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t run = i / width * width;
    for (size_t k = 0; k < width; ++k) {
      const bool minus = std::popcount((i - run) & k) % 2 != 0;
      out[i] += (minus ? -factor : factor) * x[run + k];
    }
  }
  return out;
}

double silu(double x) {
  return x / (1.0 + std::exp(-x));
}

double gelu_tanh(double x) {
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

std::vector<double> softmax(std::span<const double> x) {
  const double max = *std::max_element(x.begin(), x.end());
  std::vector<double> out;
  double sum = 0.0;
  for (const double a : x) sum += out.emplace_back(std::exp(a - max));
  for (double& a : out) a /= sum;
  return out;
}

Routed route(std::span<const float> logits, int n_used, bool normalize, double scale) {
  const std::vector<double> x(logits.begin(), logits.end());
  const std::vector<double> all = softmax(x);
  std::vector<bool> taken(x.size(), false);
  Routed routed;
  double sum = 0.0;
  for (int k = 0; k < n_used; ++k) {
    size_t best = x.size();
    for (size_t i = 0; i < x.size(); ++i) {
      if (!taken[i] && (best == x.size() || x[i] > x[best])) best = i;
    }
    taken[best] = true;
    routed.experts.push_back(static_cast<int32_t>(best));
    sum += routed.weights.emplace_back(all[best]);
  }
  for (double& w : routed.weights) w *= scale / (normalize ? sum : 1.0);
  return routed;
}

}  // namespace tandem::ref
