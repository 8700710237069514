#include "runtime/model/key_balance.h"

#include <array>
#include <cmath>

#include "ops/core/check.h"

namespace tandem {
namespace {

/// Of elements that must have one factor.
float size_of(std::span<const float> norm, std::span<const size_t> elements) {
  float size = 0;
  for (const size_t i : elements) size = std::hypot(size, norm[i]);
  return size;
}

void balance(std::span<float> q_norm, std::span<float> k_norm, std::span<const size_t> elements) {
  const float ratio = size_of(k_norm, elements) / size_of(q_norm, elements);
  if (!std::isnormal(ratio)) return;
  const int power = static_cast<int>(std::lround(std::log2(ratio) / 2));
  for (const size_t i : elements) {
    q_norm[i] = std::ldexp(q_norm[i], power);
    k_norm[i] = std::ldexp(k_norm[i], -power);
  }
}

}  // namespace

void balance_keys(std::span<float> q_norm, std::span<float> k_norm, RopeStyle style, int64_t n_rot) {
  const size_t n = q_norm.size();
  const auto n_turned = static_cast<size_t>(n_rot);
  require(k_norm.size() == n && n_turned <= n && n_turned % 2 == 0, "balance_keys", n, k_norm.size(), n_rot);
  for (size_t pair = 0; pair < n_turned / 2; ++pair) {
    const bool adjacent = style == RopeStyle::adjacent;
    const size_t first = adjacent ? 2 * pair : pair;
    balance(q_norm, k_norm, std::array{first, first + (adjacent ? 1 : n_turned / 2)});
  }
  for (size_t i = n_turned; i < n; ++i) balance(q_norm, k_norm, std::array{i});
}

}  // namespace tandem
