// Sixteen lanes on every instruction set: F32x16<Tag>, I32x16<Tag> and Mask16<Tag> are one 512-bit register,
// two 256-bit ones, or arrays, with the same operations and THE SAME BITS for finite and non-finite values
// alike (a NaN's payload excepted): fma is fused everywhere, min/max are (a < b ? a : b) and (a > b ? a : b),
// reductions add in one fixed tree, exp is our own polynomial. Included by kernel headers
// (ops/cpu/kernels/*_impl.h) only, in units that ops/kernels.cmake compiles for the tag; everything is always
// inlined, so that no symbol of this file exists.
//
// A set's types exist only in units compiled with its flags.
#pragma once

#include "ops/cpu/isa.h"
#include "ops/cpu/simd_generic.h"
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "ops/cpu/simd_avx2.h"
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "ops/cpu/simd_avx512.h"
#endif

namespace tandem {

inline constexpr int kLanes = 16;

template <class Tag>
[[gnu::always_inline]] inline F32x16<Tag> operator-(F32x16<Tag> a) {
  return F32x16<Tag>::broadcast(-0.0F) - a;
}

template <class Tag>
[[gnu::always_inline]] inline F32x16<Tag> abs(F32x16<Tag> a) {
  return as_float(as_int(a) & I32x16<Tag>::broadcast(0x7fffffff));
}

/// e^x to about 1 ulp: correct limits (0 below -104, infinity above 88.8), NaN stays NaN.
/// x = n·ln2 + r with |r| <= ln2/2; a polynomial of degree 6 for e^r; the power of two in two factors, so
/// that subnormal results come out rounded once.
template <class Tag>
[[gnu::always_inline]] inline F32x16<Tag> exp(F32x16<Tag> x) {
  using F = F32x16<Tag>;
  using I = I32x16<Tag>;
  const F clamped = min(F::broadcast(89.0F), max(F::broadcast(-104.0F), x));
  const F magic = F::broadcast(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer
  const F shifted = fma(clamped, F::broadcast(1.44269504F), magic);
  const F n = shifted - magic;
  F r = fma(n, F::broadcast(-0.693359375F), clamped);  // ln2 in two parts, the first exact in few bits
  r = fma(n, F::broadcast(2.12194440e-4F), r);
  F p = F::broadcast(1.38145417e-3F);
  p = fma(p, r, F::broadcast(8.36874545e-3F));
  p = fma(p, r, F::broadcast(4.1668389e-2F));
  p = fma(p, r, F::broadcast(1.66665211e-1F));
  p = fma(p, r, F::broadcast(4.9999994e-1F));
  p = fma(p, r, F::broadcast(1.0F));
  p = fma(p, r, F::broadcast(1.0F));
  const I exponent = as_int(shifted) - I::broadcast(0x4b400000);
  const I half = shift_right_arithmetic<1>(exponent);
  const I bias = I::broadcast(127);
  const F first = as_float(shift_left<23>(half + bias));
  const F second = as_float(shift_left<23>(exponent - half + bias));
  return p * first * second;
}

/// The sum of all lanes, always ((lane i + lane i+8) + (i+4)) + …: see each set's reduce_add.
template <class Tag>
[[gnu::always_inline]] inline float sum(F32x16<Tag> a) {
  return reduce_add(a);
}

}  // namespace tandem
