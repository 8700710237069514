// What a cache of some type makes of a row, in plain scalar code: the truth of the tests of
// ops/cpu/attention. Held itself against the `gguf` package by test_kv_cache.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/core/half.h"
#include "ops/cpu/kv_cache.h"

namespace tandem::test {

/// The values that a block of at most 32 stands for after rounding.
inline void append_stored_block(std::span<const float> block, KvType type, std::vector<double>& out) {
  const float* top = std::max_element(block.data(), block.data() + block.size(),
                                      [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  const float d = type == KvType::q8_0 ? std::fabs(*top) / 127.0F : *top / -8.0F;
  const float inverse = d == 0.0F ? 0.0F : 1.0F / d;
  const double scale = f16_bits_to_float(float_to_f16_bits(d));
  for (const float x : block) {
    const float steps = x * inverse;
    const float code =
        type == KvType::q8_0 ? std::round(steps) : std::min(15.0F, std::floor(steps + 8.5F)) - 8.0F;
    out.push_back(scale * static_cast<double>(code));
  }
}

/// A head's row as a cache keeps it.
inline std::vector<double> stored_row(std::span<const float> row, KvType type) {
  std::vector<double> out;
  for (size_t i = 0; is_quantised(type) && i < row.size(); i += 32)
    append_stored_block(row.subspan(i, std::min<size_t>(32, row.size() - i)), type, out);
  if (type == KvType::f32) out.assign(row.begin(), row.end());
  if (type == KvType::f16) {
    for (const float x : row) out.push_back(static_cast<double>(f16_bits_to_float(float_to_f16_bits(x))));
  }
  return out;
}

}  // namespace tandem::test
