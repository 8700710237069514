// Partial sums of row-split products are added in 64-bit fixed point, because integer addition gives the same
// bits in whatever order and grouping the ranks' shares are added. Unit 2^-30: resolution 1e-9, values up
// to 8.5e9, room for a thousand addends of the largest size (8.3e6).
#pragma once

#include <cstdint>

namespace tandem {

inline constexpr int kFixedPointBits = 30;
/// Addends must be smaller: then a thousand of them cannot overflow.
inline constexpr float kFixedPointLimit = 8388608.0F;  // 2^23
inline constexpr float kFixedPointScale = static_cast<float>(int64_t{1} << kFixedPointBits);

/// The float nearest to a fixed-point sum. Through double: exact below 2^53, so the result depends on the sum
/// alone.
inline float from_fixed_point(int64_t sum) {
  return static_cast<float>(static_cast<double>(sum) *
                            (1.0 / static_cast<double>(int64_t{1} << kFixedPointBits)));
}

}  // namespace tandem
