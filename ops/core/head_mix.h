// A KV cache of codes keeps heads mixed: each run of mix_width() elements of a key or value goes through a
// Walsh-Hadamard transform, so that a few large elements no longer set the scale of all their neighbours.
// Queries go through the same, so scores stay what they are; outputs go through it once more, which undoes
// the values'. Factors are powers of two, exact: cached · read · width = 1, and no key or value grows by more
// than 8, so that what a scale can hold (65504 · 127) stays beyond 1e6.
#pragma once

#include <bit>
#include <cstdint>

namespace tandem {

inline constexpr int kMixMost = 128;

/// Elements that are mixed with each other: the largest power of two, up to kMixMost, that divides a head.
constexpr int mix_width(int64_t head_dim) {
  int width = 1;
  while (width < kMixMost && head_dim % (2 * width) == 0) width *= 2;
  return width;
}

/// What keys and values are multiplied by after the transform.
constexpr float cached_mix(int width) {
  const int log2 = std::countr_zero(static_cast<unsigned>(width));
  return 1.0F / static_cast<float>(1 << (log2 + 1) / 2);
}
/// And queries and outputs.
constexpr float read_mix(int width) {
  const int log2 = std::countr_zero(static_cast<unsigned>(width));
  return 1.0F / static_cast<float>(1 << log2 / 2);
}

}  // namespace tandem
