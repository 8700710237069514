// Partial sums of row-split products are added in 64-bit fixed point, because integer addition gives the same bits in
// whatever order and grouping the ranks' shares are added. Unit 2^-30: values up to 4e9 (with headroom for
// eight thousand addends of 1e6), resolution 1e-9.
#pragma once

#include <cstdint>

namespace tandem {

inline constexpr int kFixedPointBits = 30;
inline constexpr float kFixedPointScale = static_cast<float>(int64_t{1} << kFixedPointBits);

/// The float nearest to a fixed-point sum. Through double: exact below 2^53, so the result depends on the sum alone.
inline float from_fixed_point(int64_t sum) {
  return static_cast<float>(static_cast<double>(sum) * (1.0 / static_cast<double>(int64_t{1} << kFixedPointBits)));
}

}  // namespace tandem
