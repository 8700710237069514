// Integer dot products of unpacked weights with activations: the one place of the matrix products that
// differs between instruction sets. A weight vector holds 16 rows × 4 consecutive columns of unsigned codes;
// the activations' 4 bytes are the same for all rows. Results are exact integers, hence the same bits
// everywhere.
#pragma once

#include "ops/cpu/simd.h"

namespace tandem {

/// Σ over columns [4 * kFrom, 4 * kTo) of (code - zero point) · activation, a lane a row. codes: the group's
/// 8 vectors; acts: its 32 bytes; start: -zero point * sum of these activations (not read where codes are the
/// weight plus 128 and the set multiplies signed bytes). Codes are below 2^kBits, activations in [-127, 127].
/// Not inlined for plain C++: its unrolled lanes in every kernel would only cost compile time.
template <int kBits, int kFrom, int kTo>
[[gnu::noinline]] I32x16<Generic> dot(const I32x16<Generic>* codes, const int8_t* acts,
                                      I32x16<Generic> start) {
  for (int v = kFrom; v < kTo; ++v) {
    for (int b = 0; b < 4; ++b) {
      const int32_t act = acts[4 * v + b];
      for (int lane = 0; lane < 16; ++lane) start.v[lane] += (codes[v].v[lane] >> 8 * b & 0xff) * act;
    }
  }
  return start;
}

/// table[index] a byte; indices below 16.
[[gnu::always_inline]] inline I32x16<Generic> lookup(const uint8_t* table, I32x16<Generic> index) {
  return I32x16<Generic>::make([&](int i) {
    uint32_t bytes = 0;
    for (int b = 0; b < 32; b += 8) bytes |= static_cast<uint32_t>(table[index.v[i] >> b & 15]) << b;
    return static_cast<int32_t>(bytes);
  });
}

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

[[gnu::always_inline]] inline __m256i broadcast_word(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm256_set1_epi32(word);
}

/// Codes of 8 bits only (matmul_sums.h has narrower ones): |w| · (±a), whose pairs stay below 2 · 128 · 127
/// < 2^15.
template <int kBits, int kFrom, int kTo>
[[gnu::always_inline]] inline I32x16<Avx2> dot(const I32x16<Avx2>* codes, const int8_t* acts,
                                               I32x16<Avx2> /*start*/) {
  static_assert(kBits == 8);
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i sign = _mm256_set1_epi8(-128);
  I32x16<Avx2> sum = I32x16<Avx2>::zero();
  for (int v = kFrom; v < kTo; ++v) {
    const __m256i act = broadcast_word(acts + 4 * v);
    const auto products = [&](__m256i code) __attribute__((always_inline)) {
      const __m256i weight = _mm256_xor_si256(code, sign);
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(act, weight));
      return _mm256_madd_epi16(pairs, ones);
    };
    sum = sum + I32x16<Avx2>{products(codes[v].lo), products(codes[v].hi)};
  }
  return sum;
}

[[gnu::always_inline]] inline I32x16<Avx2> lookup(const uint8_t* table, I32x16<Avx2> index) {
  const __m256i entries =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm256_shuffle_epi8(entries, index.lo), _mm256_shuffle_epi8(entries, index.hi)};
}

#endif
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

template <int kBits, int kFrom, int kTo>
[[gnu::always_inline]] inline I32x16<Avx512> dot(const I32x16<Avx512>* codes, const int8_t* acts,
                                                 I32x16<Avx512> start) {
  for (int v = kFrom; v < kTo; ++v) {
    int32_t word;
    __builtin_memcpy(&word, acts + 4 * v, sizeof(word));
    start.v = _mm512_dpbusd_epi32(start.v, codes[v].v, _mm512_set1_epi32(word));
  }
  return start;
}

[[gnu::always_inline]] inline I32x16<Avx512> lookup(const uint8_t* table, I32x16<Avx512> index) {
  const __m512i entries = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm512_shuffle_epi8(entries, index.v)};
}

#endif

}  // namespace tandem
