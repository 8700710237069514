// Rounding of keys and values to blocks of Q8_0 and Q4_0 for one instruction set: what RowKernels::to_q8_0
// and to_q4_0 do (row_kernels.h). The scale and the codes are those of the format's reference quantiser: the
// scale is rounded to half only after the codes were found with it. Included by row_impl.h alone.
#pragma once

#include "ops/core/half.h"
#include "ops/cpu/simd.h"

namespace tandem {

/// 32 values as two registers. Missing ones are zeros.
template <class Tag>
struct KvBlock {
  using F = F32x16<Tag>;
  F low, high;
  float amax;   ///< the largest magnitude
  bool finite;  ///< whether all values are

  [[gnu::always_inline]] KvBlock(const float* x, int n)
      : low(F::load_partial(x, n < 16 ? n : 16)),
        high(n > 16 ? F::load_partial(x + 16, n - 16) : F::zero()),
        amax(reduce_max(max(abs(low), abs(high)))),
        finite((mask_bits(less(abs(low), F::broadcast(__builtin_inff()))) &
                mask_bits(less(abs(high), F::broadcast(__builtin_inff())))) == 0xffffU) {}

  /// The first value of the largest magnitude, with its sign. The block must be finite.
  [[gnu::always_inline]] float extreme() const {
    const F top = F::broadcast(amax);
    const uint32_t below = mask_bits(less(abs(low), top)) | mask_bits(less(abs(high), top)) << 16;
    alignas(64) float values[32];
    low.store(values);
    high.store(values + 16);
    return values[__builtin_ctz(~below)];
  }
};

/// 1 / scale; 0, so that all codes are zeros', where that could overflow: the half is then 0 as well.
[[gnu::always_inline]] inline float inverse_of_scale(float scale) {
  return __builtin_fabsf(scale) < 1e-36F ? 0.0F : 1.0F / scale;
}

/// To the nearest integer, ties away from zero; |x| < 2^23.
template <class Tag>
[[gnu::always_inline]] inline I32x16<Tag> round_away(F32x16<Tag> x) {
  using F = F32x16<Tag>;
  const F magnitude = abs(x);
  const F even = to_float(round_to_int(magnitude));
  const F whole = select(less(magnitude - even, F::broadcast(0.5F)), even, even + F::broadcast(1.0F));
  const I32x16<Tag> sign = as_int(x) & I32x16<Tag>::broadcast(INT32_MIN);
  return round_to_int(as_float(as_int(whole) | sign));
}

/// The integer below; 0 <= x < 2^23.
template <class Tag>
[[gnu::always_inline]] inline I32x16<Tag> floor_to_int(F32x16<Tag> x) {
  using F = F32x16<Tag>;
  const F near = to_float(round_to_int(x));
  return round_to_int(select(less(x, near), near - F::broadcast(1.0F), near));
}

template <class Tag>
bool to_q8_0(const float* x, int n, uint16_t* scale, uint8_t* codes) {
  using F = F32x16<Tag>;
  const KvBlock<Tag> block(x, n);
  if (!block.finite) return false;
  const float d = block.amax / 127.0F;
  const F inverse = F::broadcast(inverse_of_scale(d));
  *scale = float_to_f16_bits(d);
  round_away<Tag>(block.low * inverse).store_i8(reinterpret_cast<int8_t*>(codes));
  round_away<Tag>(block.high * inverse).store_i8(reinterpret_cast<int8_t*>(codes) + 16);
  return *scale < 0x7c00U;
}

/// The value of largest magnitude becomes code 0, so that -8 is used as well.
template <class Tag>
bool to_q4_0(const float* x, int n, uint16_t* scale, uint8_t* codes) {
  using F = F32x16<Tag>;
  using I = I32x16<Tag>;
  const KvBlock<Tag> block(x, n);
  if (!block.finite) return false;
  const float d = block.extreme() / -8.0F;
  const F inverse = F::broadcast(inverse_of_scale(d));
  *scale = float_to_f16_bits(d);
  const auto codes_of = [&](F values) __attribute__((always_inline)) {
    return floor_to_int<Tag>(min(values * inverse + F::broadcast(8.5F), F::broadcast(15.0F)));
  };
  const I pairs = codes_of(block.low) | shift_left<4>(codes_of(block.high));
  pairs.store_i8(reinterpret_cast<int8_t*>(codes));
  return (*scale & 0x7fffU) < 0x7c00U;
}

}  // namespace tandem
