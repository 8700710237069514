// The integers of a packed group: for each of a few tokens, Σ over the group's halves of
//   sub-scale · Σ (code - zero point) · activation        [q15: 128 · high plane + low plane]
// a lane a row. They are exact in 32 bits for every format (Q6_K comes nearest to the limit, with 2.14e9 for
// q15), so each instruction set may add up in whatever order suits it. Included by matmul_impl.h alone.
#pragma once

#include <utility>

#include "ops/cpu/kernels/matmul.h"
#include "ops/cpu/kernels/matmul_dot.h"
#include "ops/cpu/kernels/matmul_weights.h"

namespace tandem {

template <class F, class Tag>
struct CodeVectors {
  I32x16<Tag> v[8];

  [[gnu::always_inline]] explicit CodeVectors(const GroupWeights<F, Tag>& weights) {
    [&]<int... kV>(std::integer_sequence<int, kV...>) __attribute__((always_inline)) {
      ((v[kV] = weights.template codes<kV>()), ...);
    }
    (std::make_integer_sequence<int, 8>{});
  }
};

/// The sum of codes [4 * kFrom, 4 * kTo) and one token, without the sub-scale.
template <class Tag, int kBits, bool kWide, int kFrom, int kTo>
[[gnu::always_inline]] inline I32x16<Tag> group_dot(const I32x16<Tag>* codes, const ActTile& tile, int64_t at,
                                                    I32x16<Tag> zero) {
  using I = I32x16<Tag>;
  if constexpr (kWide) {
    // Signed 8-bit products ignore the start, so the planes are joined behind them.
    const I high = dot<kBits, kFrom, kTo>(codes, tile.high + at * 32, I::zero());
    if constexpr (kBits == 8) {
      return shift_left<7>(high) + dot<kBits, kFrom, kTo>(codes, tile.low + at * 32, zero);
    }
    return dot<kBits, kFrom, kTo>(codes, tile.low + at * 32, shift_left<7>(high) + zero);
  } else {
    return dot<kBits, kFrom, kTo>(codes, tile.high + at * 32, zero);
  }
}

/// One token, of codes that are unpacked already.
template <class F, class Tag, bool kWide>
[[gnu::always_inline]] inline I32x16<Tag> group_sum(const GroupWeights<F, Tag>& weights,
                                                    const CodeVectors<F, Tag>& codes, const ActTile& tile,
                                                    int64_t at) {
  using I = I32x16<Tag>;
  constexpr int kBits = F::kTable ? 8 : F::kBits;
  constexpr bool kZero = F::kTable || F::kZero != 0;
  const auto zero = [&](int64_t i) { return kZero ? I::broadcast(tile.zero[i]) : I::zero(); };
  if constexpr (F::kHalves) {
    const I first = group_dot<Tag, kBits, kWide, 0, 4>(codes.v, tile, at, zero(2 * at));
    const I second = group_dot<Tag, kBits, kWide, 4, 8>(codes.v, tile, at, zero(2 * at + 1));
    return weights.scale(0) * first + weights.scale(1) * second;
  } else if constexpr (F::kSubScales) {
    return weights.scale(0) * group_dot<Tag, kBits, kWide, 0, 8>(codes.v, tile, at, zero(at));
  } else {
    return group_dot<Tag, kBits, kWide, 0, 8>(codes.v, tile, at, zero(at));
  }
}

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

/// vpmaddubsw adds pairs of products in 16 bits, and as many of them can be added there as can't overflow:
/// the codes of a whole group or of a half, where a zero point has been taken off (the start of the sum does
/// that, and 16 bits may wrap around in between). So a sub-scale is multiplied once a part, by vpmaddwd,
/// which joins the pairs at no further cost.
template <class F>
struct Avx2Parts {
  static constexpr int kMostCode = F::kZero != 0 ? F::kZero : (1 << F::kBits) - 1;
  static constexpr int kMostVectors = 32767 / (2 * 127 * kMostCode);
  static constexpr int kParts = F::kHalves || kMostVectors < 8 ? 2 : 1;
  static_assert(F::kBits == 8 || F::kTable || 8 / kParts <= kMostVectors);

  /// The vectors in an order in which those that share lines are neighbours.
  static constexpr int vector(int i) {
    constexpr int kOrder[5][8] = {{0, 1, 2, 3, 4, 5, 6, 7},   // 2 bits
                                  {0, 3, 1, 4, 2, 5, 6, 7},   // 3
                                  {0, 4, 1, 5, 2, 6, 3, 7},   // 4
                                  {0, 1, 5, 2, 3, 6, 4, 7},   // 5
                                  {0, 1, 2, 6, 3, 4, 5, 7}};  // 6
    return kOrder[F::kBits - 2][i];
  }
};

/// 16 rows' 16-bit pair sums.
struct PairSums {
  __m256i lo, hi;

  [[gnu::always_inline]] void add(I32x16<Avx2> codes, __m256i acts) {
    lo = _mm256_add_epi16(lo, _mm256_maddubs_epi16(codes.lo, acts));
    hi = _mm256_add_epi16(hi, _mm256_maddubs_epi16(codes.hi, acts));
  }
  [[gnu::always_inline]] I32x16<Avx2> scaled(PairSums scales) const {
    return {_mm256_madd_epi16(lo, scales.lo), _mm256_madd_epi16(hi, scales.hi)};
  }
};

/// A row's sub-scale in both 16-bit halves of its lane.
template <class F>
[[gnu::always_inline]] inline PairSums pair_scales(const GroupWeights<F, Avx2>& weights, int part) {
  if constexpr (!F::kSubScales) return {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
  const auto* bytes = reinterpret_cast<const __m128i*>(weights.scales) + (F::kHalves ? part : 0);
  const __m256i rows = _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes));
  constexpr bool kSigned = !F::kHasMin;
  // A row's byte to its lane's bytes 0 and 2; signed ones to 1 and 3, from where a shift extends the sign.
  constexpr int64_t kFirst = kSigned ? 0x0180'0180'0080'0080 : int64_t(0x8001'8001'8000'8000);
  constexpr int64_t kNext = 0x0002'0002'0002'0002 << (kSigned ? 8 : 0);
  const __m256i pick_lo = _mm256_setr_epi64x(kFirst, kFirst + kNext, kFirst + 2 * kNext, kFirst + 3 * kNext);
  const __m256i pick_hi = _mm256_add_epi8(pick_lo, _mm256_set1_epi64x(4 * kNext));
  PairSums scales{_mm256_shuffle_epi8(rows, pick_lo), _mm256_shuffle_epi8(rows, pick_hi)};
  if constexpr (kSigned) {
    scales = {_mm256_srai_epi16(scales.lo, 8), _mm256_srai_epi16(scales.hi, 8)};
  } else if constexpr (PackedLayout<F>::kMinInScaleByte) {
    const __m256i low = _mm256_set1_epi16(15);
    scales = {_mm256_and_si256(scales.lo, low), _mm256_and_si256(scales.hi, low)};
  }
  return scales;
}

/// Tokens [at, at + kTokens) of the group. A vector of codes is used for all of them as soon as it is
/// unpacked: 16 registers hold no more.
template <class F, bool kWide, int kTokens>
[[gnu::always_inline]] inline void group_sums(const GroupWeights<F, Avx2>& weights, const ActTile& tile,
                                              int64_t at, I32x16<Avx2>* sums) {
  using Parts = Avx2Parts<F>;
  constexpr int kParts = Parts::kParts;
  constexpr int kPlanes = kWide ? 2 : 1;
  PairSums pairs[kTokens][kPlanes][kParts];
  for (int t = 0; t < kTokens; ++t) {
    for (int plane = 0; plane < kPlanes; ++plane) {
      for (int part = 0; part < kParts; ++part) {
        const int64_t start = ((at + t) * kPlanes + plane) * kParts + part;
        const __m256i value =
            F::kZero != 0 ? _mm256_set1_epi32(tile.zero_pairs[start]) : _mm256_setzero_si256();
        pairs[t][plane][part] = {value, value};
      }
    }
  }
  const auto add = [&]<int kV>(std::integral_constant<int, kV>) __attribute__((always_inline)) {
    const I32x16<Avx2> codes = weights.template codes<kV>();
    constexpr int kPart = kV / (8 / kParts);
    for (int t = 0; t < kTokens; ++t) {
      const int64_t acts = (at + t) * 32 + 4 * kV;
      pairs[t][0][kPart].add(codes, broadcast_word(tile.high + acts));
      if constexpr (kWide) pairs[t][1][kPart].add(codes, broadcast_word(tile.low + acts));
    }
  };
  [&]<int... kI>(std::integer_sequence<int, kI...>) __attribute__((always_inline)) {
    (add(std::integral_constant<int, Parts::vector(kI)>{}), ...);
  }
  (std::make_integer_sequence<int, 8>{});
  PairSums scales[kParts];
  for (int part = 0; part < kParts; ++part) scales[part] = pair_scales(weights, part);
  for (int t = 0; t < kTokens; ++t) {
    const auto plane_sum = [&](int plane) __attribute__((always_inline)) {
      I32x16<Avx2> sum = pairs[t][plane][0].scaled(scales[0]);
      if constexpr (kParts == 2) sum = sum + pairs[t][plane][1].scaled(scales[1]);
      return sum;
    };
    sums[t] = plane_sum(0);
    if constexpr (kWide) sums[t] = shift_left<7>(sums[t]) + plane_sum(1);
  }
}

#endif

}  // namespace tandem
