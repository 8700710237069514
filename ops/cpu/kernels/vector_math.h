// Functions of sixteen lanes beyond simd.h's exp, for the kernels of attention, rows and sampling. Like
// everything there: the same bits on every set, since each is one fixed sequence of fma, mul, add and integer
// operations. Included by kernel implementations only. The polynomials are our own weighted least-squares
// fits; the errors given are relative and of the polynomial alone.
#pragma once

#include "ops/cpu/simd.h"

namespace tandem {

/// 2^x for x <= 0: about 2 ulp (fit 1e-7); 0 below -126.5 and at -infinity; NaN gives NaN or rubbish.
template <class Tag>
[[gnu::always_inline]] inline F32x16<Tag> exp2_negative(F32x16<Tag> x) {
  using F = F32x16<Tag>;
  using I = I32x16<Tag>;
  const F clamped = max(F::broadcast(-127.0F), x);
  const F magic = F::broadcast(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer
  const F shifted = clamped + magic;
  const F f = clamped - (shifted - magic);  // exact, in [-1/2, 1/2]
  F p = F::broadcast(1.32647239e-3F);
  p = fma(p, f, F::broadcast(9.67151287e-3F));
  p = fma(p, f, F::broadcast(5.55073375e-2F));
  p = fma(p, f, F::broadcast(2.40222421e-1F));
  p = fma(p, f, F::broadcast(6.93146978e-1F));
  p = fma(p, f, F::broadcast(1.0F));
  // n + 127 into the exponent field: n = -127 makes a factor of zero.
  const I power = shift_left<23>(as_int(shifted) - I::broadcast(0x4b400000 - 127));
  return p * as_float(power);
}

/// ln(x) for positive normal x: about 1 ulp (fit 6e-9).
template <class Tag>
[[gnu::always_inline]] inline F32x16<Tag> log_normal(F32x16<Tag> x) {
  using F = F32x16<Tag>;
  using I = I32x16<Tag>;
  // x = 2^n · m with m in [sqrt(1/2), sqrt(2)): subtracting sqrt(1/2)'s bits leaves n in the exponent field.
  const I above = as_int(x) - I::broadcast(0x3f3504f3);
  const F n = to_float(shift_right_arithmetic<23>(above));
  const F m = as_float((above & I::broadcast(0x007fffff)) + I::broadcast(0x3f3504f3));
  const F f = m - F::broadcast(1.0F);
  F p = F::broadcast(-7.63442986e-2F);
  p = fma(p, f, F::broadcast(1.27615503e-1F));
  p = fma(p, f, F::broadcast(-1.31601951e-1F));
  p = fma(p, f, F::broadcast(1.42017625e-1F));
  p = fma(p, f, F::broadcast(-1.66233565e-1F));
  p = fma(p, f, F::broadcast(2.00012267e-1F));
  p = fma(p, f, F::broadcast(-2.50008211e-1F));
  p = fma(p, f, F::broadcast(3.33333317e-1F));
  const F square = f * f;
  F tail = fma(p * f, square, F::broadcast(-0.5F) * square);
  tail = fma(n, F::broadcast(-2.12194440e-4F), tail);  // ln2 in two parts, the first exact in few bits
  return fma(n, F::broadcast(0.693359375F), f + tail);
}

/// tanh(x), relative error about 3 ulp also near zero.
template <class Tag>
[[gnu::always_inline]] inline F32x16<Tag> tanh(F32x16<Tag> x) {
  using F = F32x16<Tag>;
  const F magnitude = abs(x);
  const F z = x * x;
  F p = F::broadcast(-5.70497837e-3F);
  p = fma(p, z, F::broadcast(2.06390787e-2F));
  p = fma(p, z, F::broadcast(-5.37397122e-2F));
  p = fma(p, z, F::broadcast(1.33314422e-1F));
  p = fma(p, z, F::broadcast(-3.33332819e-1F));
  const F small = fma(p * z, x, x);
  const F one = F::broadcast(1.0F);
  const F large = one - F::broadcast(2.0F) / (exp(magnitude + magnitude) + one);
  const F signed_large = as_float(as_int(large) | (as_int(x) & I32x16<Tag>::broadcast(INT32_MIN)));
  return select(less(magnitude, F::broadcast(0.625F)), small, signed_large);
}

/// 1 / (1 + e^-x).
template <class Tag>
[[gnu::always_inline]] inline F32x16<Tag> sigmoid(F32x16<Tag> x) {
  using F = F32x16<Tag>;
  const F one = F::broadcast(1.0F);
  return one / (one + exp(-x));
}

/// Lanes 0 … 15.
template <class Tag>
[[gnu::always_inline]] inline I32x16<Tag> lane_numbers() {
  alignas(64) static constexpr int32_t kNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return I32x16<Tag>::load(kNumbers);
}

}  // namespace tandem
