// The slow truth of the row functions (ops/cpu/{norm,rope,elementwise}.h) in double precision, written as the
// formulas read. Called by tests only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::ref {

/// x / sqrt(mean(x²) + eps) · weight; an empty weight means ones.
std::vector<double> rms_norm(std::span<const double> x, std::span<const float> weight, double eps);

/// Rotates pairs of the first 2·inverse_frequency.size() elements of a head by position · frequency.
/// `halves`: pairs (i, i + n_rot/2), else (2i, 2i+1).
std::vector<double> rope(std::span<const double> head, int64_t position,
                         std::span<const double> inverse_frequency, double magnitude, bool halves);

/// The Walsh-Hadamard transform of each `width` elements, times `factor`: element i is Σ_k ± x[k], minus
/// where i and k have an odd number of bits in common. width: a power of two that divides x.
std::vector<double> walsh_hadamard(std::span<const double> x, size_t width, double factor);

double silu(double x);
double gelu_tanh(double x);

std::vector<double> softmax(std::span<const double> x);

struct Routed {
  std::vector<int32_t> experts;
  std::vector<double> weights;
};
/// Mixtral's rule: softmax over all, the highest n_used by (value, lower index); rescaled to sum 1 where
/// `normalize`.
Routed route(std::span<const float> logits, int n_used, bool normalize, double scale);

}  // namespace tandem::ref
