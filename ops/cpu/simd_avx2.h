// Sixteen lanes as two 256-bit registers. See ops/cpu/simd.h; included by it alone.
#pragma once

#include <immintrin.h>

#include "ops/cpu/simd_generic.h"

namespace tandem {

template <>
struct Mask16<Avx2> {
  __m256 lo, hi;  ///< a lane is all ones or all zeros
};

template <>
struct I32x16<Avx2> {
  __m256i lo, hi;

  using I = I32x16;
  [[gnu::always_inline]] static I broadcast(int32_t a) {
    return {_mm256_set1_epi32(a), _mm256_set1_epi32(a)};
  }
  [[gnu::always_inline]] static I zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  [[gnu::always_inline]] static I load(const int32_t* p) { return {load_half(p), load_half(p + 8)}; }
  [[gnu::always_inline]] static I load_i8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes))};
  }
  [[gnu::always_inline]] static I load_u8(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes))};
  }
  [[gnu::always_inline]] static I load_u16(const uint16_t* p) {
    return {_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  [[gnu::always_inline]] void store(int32_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), hi);
  }
  [[gnu::always_inline]] void store_i8(int8_t* p) const {
    // The low bytes of four lanes to the front of each 128-bit half, then the four pieces side by side.
    const __m256i pick = _mm256_set1_epi32(0x0c080400);
    const __m256i a = _mm256_shuffle_epi8(lo, pick);
    const __m256i b = _mm256_shuffle_epi8(hi, pick);
    const __m128i low = _mm_unpacklo_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i high = _mm_unpacklo_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi64(low, high));
  }
  [[gnu::always_inline]] friend I operator+(I a, I b) {
    return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
  }
  [[gnu::always_inline]] friend I operator-(I a, I b) {
    return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
  }
  [[gnu::always_inline]] friend I operator*(I a, I b) {
    return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
  }
  [[gnu::always_inline]] friend I operator&(I a, I b) {
    return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
  }
  [[gnu::always_inline]] friend I operator|(I a, I b) {
    return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
  }
  [[gnu::always_inline]] friend I operator^(I a, I b) {
    return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)};
  }

  [[gnu::always_inline]] static __m256i load_half(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
};

[[gnu::always_inline]] inline I32x16<Avx2> or_masked(I32x16<Avx2> a, I32x16<Avx2> b, I32x16<Avx2> mask) {
  return a | (b & mask);
}
template <int kBits>
[[gnu::always_inline]] inline I32x16<Avx2> shift_left(I32x16<Avx2> a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}
template <int kBits>
[[gnu::always_inline]] inline I32x16<Avx2> shift_right(I32x16<Avx2> a) {
  return {_mm256_srli_epi32(a.lo, kBits), _mm256_srli_epi32(a.hi, kBits)};
}
template <int kBits>
[[gnu::always_inline]] inline I32x16<Avx2> shift_right_arithmetic(I32x16<Avx2> a) {
  return {_mm256_srai_epi32(a.lo, kBits), _mm256_srai_epi32(a.hi, kBits)};
}
[[gnu::always_inline]] inline int32_t reduce_add(I32x16<Avx2> a) {
  const __m256i s8 = _mm256_add_epi32(a.lo, a.hi);
  const __m128i s4 = _mm_add_epi32(_mm256_castsi256_si128(s8), _mm256_extracti128_si256(s8, 1));
  const __m128i s2 = _mm_add_epi32(s4, _mm_unpackhi_epi64(s4, s4));
  return _mm_cvtsi128_si32(_mm_add_epi32(s2, _mm_shuffle_epi32(s2, 1)));
}

template <>
struct F32x16<Avx2> {
  __m256 lo, hi;

  using F = F32x16;
  [[gnu::always_inline]] static F broadcast(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
  [[gnu::always_inline]] static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  [[gnu::always_inline]] static F load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
  }
  [[gnu::always_inline]] static F load_partial(const float* p, int n) {
    return {_mm256_maskload_ps(p, first(n)),
            n > 8 ? _mm256_maskload_ps(p + 8, first(n - 8)) : _mm256_setzero_ps()};
  }
  [[gnu::always_inline]] static F load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  [[gnu::always_inline]] static F load_bf16(const uint16_t* p) {
    const I32x16<Avx2> bits = shift_left<16>(I32x16<Avx2>::load_u16(p));
    return {_mm256_castsi256_ps(bits.lo), _mm256_castsi256_ps(bits.hi)};
  }
  [[gnu::always_inline]] void store(float* p) const {
    _mm256_storeu_ps(p, lo);
    _mm256_storeu_ps(p + 8, hi);
  }
  [[gnu::always_inline]] void store_partial(float* p, int n) const {
    _mm256_maskstore_ps(p, first(n), lo);
    if (n > 8) _mm256_maskstore_ps(p + 8, first(n - 8), hi);
  }
  [[gnu::always_inline]] void store_f16(uint16_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(hi, _MM_FROUND_TO_NEAREST_INT));
  }
  [[gnu::always_inline]] friend F operator+(F a, F b) {
    return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
  }
  [[gnu::always_inline]] friend F operator-(F a, F b) {
    return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
  }
  [[gnu::always_inline]] friend F operator*(F a, F b) {
    return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
  }
  [[gnu::always_inline]] friend F operator/(F a, F b) {
    return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
  }

  /// The first n lanes of eight (n >= 8: all).
  [[gnu::always_inline]] static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

[[gnu::always_inline]] inline F32x16<Avx2> fma(F32x16<Avx2> a, F32x16<Avx2> b, F32x16<Avx2> c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
[[gnu::always_inline]] inline F32x16<Avx2> min(F32x16<Avx2> a, F32x16<Avx2> b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
[[gnu::always_inline]] inline F32x16<Avx2> max(F32x16<Avx2> a, F32x16<Avx2> b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
[[gnu::always_inline]] inline F32x16<Avx2> sqrt(F32x16<Avx2> a) {
  return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)};
}
[[gnu::always_inline]] inline Mask16<Avx2> less(F32x16<Avx2> a, F32x16<Avx2> b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
[[gnu::always_inline]] inline F32x16<Avx2> select(Mask16<Avx2> m, F32x16<Avx2> a, F32x16<Avx2> b) {
  return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}
[[gnu::always_inline]] inline uint32_t mask_bits(Mask16<Avx2> m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(m.lo)) | static_cast<uint32_t>(_mm256_movemask_ps(m.hi))
                                                               << 8;
}
[[gnu::always_inline]] inline I32x16<Avx2> round_to_int(F32x16<Avx2> a) {
  return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}
[[gnu::always_inline]] inline F32x16<Avx2> to_float(I32x16<Avx2> a) {
  return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}
[[gnu::always_inline]] inline F32x16<Avx2> as_float(I32x16<Avx2> a) {
  return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)};
}
[[gnu::always_inline]] inline I32x16<Avx2> as_int(F32x16<Avx2> a) {
  return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)};
}
[[gnu::always_inline]] inline float reduce_add(F32x16<Avx2> a) {
  const __m256 s8 = _mm256_add_ps(a.lo, a.hi);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
[[gnu::always_inline]] inline float reduce_max(F32x16<Avx2> a) {
  const __m256 s8 = _mm256_max_ps(a.lo, a.hi);
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

}  // namespace tandem
