// Sixteen lanes as one 512-bit register. See ops/cpu/simd.h; included by it alone.
#pragma once

#include <immintrin.h>

#include "ops/cpu/simd_generic.h"

namespace tandem {

template <>
struct Mask16<Avx512> {
  __mmask16 bits;
};

template <>
struct I32x16<Avx512> {
  __m512i v;

  using I = I32x16;
  [[gnu::always_inline]] static I broadcast(int32_t a) { return {_mm512_set1_epi32(a)}; }
  [[gnu::always_inline]] static I zero() { return {_mm512_setzero_si512()}; }
  [[gnu::always_inline]] static I load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
  [[gnu::always_inline]] static I load_i8(const int8_t* p) {
    return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  [[gnu::always_inline]] static I load_u8(const uint8_t* p) {
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  [[gnu::always_inline]] static I load_u16(const uint16_t* p) {
    return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  [[gnu::always_inline]] void store(int32_t* p) const { _mm512_storeu_si512(p, v); }
  [[gnu::always_inline]] void store_i8(int8_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
  }
  [[gnu::always_inline]] friend I operator+(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
  [[gnu::always_inline]] friend I operator-(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
  [[gnu::always_inline]] friend I operator*(I a, I b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
  [[gnu::always_inline]] friend I operator&(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
  [[gnu::always_inline]] friend I operator|(I a, I b) { return {_mm512_or_si512(a.v, b.v)}; }
  [[gnu::always_inline]] friend I operator^(I a, I b) { return {_mm512_xor_si512(a.v, b.v)}; }
};

[[gnu::always_inline]] inline I32x16<Avx512> or_masked(I32x16<Avx512> a, I32x16<Avx512> b,
                                                       I32x16<Avx512> mask) {
  return {_mm512_ternarylogic_epi32(a.v, b.v, mask.v, 0xf8)};
}
template <int kBits>
[[gnu::always_inline]] inline I32x16<Avx512> shift_left(I32x16<Avx512> a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
[[gnu::always_inline]] inline I32x16<Avx512> shift_right(I32x16<Avx512> a) {
  return {_mm512_srli_epi32(a.v, kBits)};
}
template <int kBits>
[[gnu::always_inline]] inline I32x16<Avx512> shift_right_arithmetic(I32x16<Avx512> a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
[[gnu::always_inline]] inline int32_t reduce_add(I32x16<Avx512> a) {
  // By hand: the compiler's own reduction adds signed scalars, whose overflow is undefined; this wraps.
  const __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(a.v), _mm512_extracti64x4_epi64(a.v, 1));
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

template <>
struct F32x16<Avx512> {
  __m512 v;

  using F = F32x16;
  [[gnu::always_inline]] static F broadcast(float a) { return {_mm512_set1_ps(a)}; }
  [[gnu::always_inline]] static F zero() { return {_mm512_setzero_ps()}; }
  [[gnu::always_inline]] static F load(const float* p) { return {_mm512_loadu_ps(p)}; }
  [[gnu::always_inline]] static F load_partial(const float* p, int n) {
    return {_mm512_maskz_loadu_ps(first(n), p)};
  }
  [[gnu::always_inline]] static F load_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  [[gnu::always_inline]] static F load_bf16(const uint16_t* p) {
    return {_mm512_castsi512_ps(shift_left<16>(I32x16<Avx512>::load_u16(p)).v)};
  }
  [[gnu::always_inline]] void store(float* p) const { _mm512_storeu_ps(p, v); }
  [[gnu::always_inline]] void store_partial(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n), v); }
  [[gnu::always_inline]] void store_f16(uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  [[gnu::always_inline]] friend F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
  [[gnu::always_inline]] friend F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
  [[gnu::always_inline]] friend F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
  [[gnu::always_inline]] friend F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }

  [[gnu::always_inline]] static __mmask16 first(int n) {
    return static_cast<__mmask16>((1U << static_cast<unsigned>(n)) - 1U);
  }
};

[[gnu::always_inline]] inline F32x16<Avx512> fma(F32x16<Avx512> a, F32x16<Avx512> b, F32x16<Avx512> c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
[[gnu::always_inline]] inline F32x16<Avx512> min(F32x16<Avx512> a, F32x16<Avx512> b) {
  return {_mm512_min_ps(a.v, b.v)};
}
[[gnu::always_inline]] inline F32x16<Avx512> max(F32x16<Avx512> a, F32x16<Avx512> b) {
  return {_mm512_max_ps(a.v, b.v)};
}
[[gnu::always_inline]] inline F32x16<Avx512> sqrt(F32x16<Avx512> a) {
  return {_mm512_sqrt_ps(a.v)};
}
[[gnu::always_inline]] inline Mask16<Avx512> less(F32x16<Avx512> a, F32x16<Avx512> b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
}
[[gnu::always_inline]] inline F32x16<Avx512> select(Mask16<Avx512> m, F32x16<Avx512> a, F32x16<Avx512> b) {
  return {_mm512_mask_blend_ps(m.bits, b.v, a.v)};
}
[[gnu::always_inline]] inline uint32_t mask_bits(Mask16<Avx512> m) {
  return m.bits;
}
[[gnu::always_inline]] inline I32x16<Avx512> round_to_int(F32x16<Avx512> a) {
  return {_mm512_cvtps_epi32(a.v)};
}
[[gnu::always_inline]] inline F32x16<Avx512> to_float(I32x16<Avx512> a) {
  return {_mm512_cvtepi32_ps(a.v)};
}
[[gnu::always_inline]] inline F32x16<Avx512> as_float(I32x16<Avx512> a) {
  return {_mm512_castsi512_ps(a.v)};
}
[[gnu::always_inline]] inline I32x16<Avx512> as_int(F32x16<Avx512> a) {
  return {_mm512_castps_si512(a.v)};
}
[[gnu::always_inline]] inline float reduce_add(F32x16<Avx512> a) {
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
[[gnu::always_inline]] inline float reduce_max(F32x16<Avx512> a) {
  const __m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

}  // namespace tandem
