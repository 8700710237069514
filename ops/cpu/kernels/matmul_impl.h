// The matrix-product kernels of one (format, instruction set). Called through matmul_kernels() by
// ops/cpu/matmul.cpp; never allocates, never looks at which set it is but for the tag.
//
// One float recipe a (row, token), whatever the tile, panel range, form or set. Neighbouring groups of 32
// columns that share their d (a super-block of 256, or a group alone in formats without sub-scales; a chunk's
// end cuts too) are a block. In column order, a block at a time:
//   mins  = Σ fma(sub-min, activation scale · sum of activations, mins)    [with minima; a half at a time]
//   sums  = Σ fma(float(integer), activation scale, sums)                  [a group at a time]
//   acc   = fma(d, sums, fma(-dmin, mins, acc))
// where integer is the group's exact one of matmul_sums.h. So a group costs one conversion and one fma.
// Float formats: acc = fma(weight, activation, acc) a column.
#pragma once

#include "ops/core/fixed_point.h"
#include "ops/cpu/kernels/matmul.h"
#include "ops/cpu/kernels/matmul_sums.h"

namespace tandem {

/// How far ahead of the stream lines are asked for, into the second cache: the first has room for few misses
/// at a time. Measured on Zen 4, one token and weights in memory: products with formats that take unpacking
/// reach 60 to 70 % of a plain read's speed without it or with 4 KB into the first cache, and 80 % with this.
/// One token's work on 8-bit weights is so short that the processor runs ahead by itself.
inline constexpr int64_t kPrefetchBytes = 24576;

/// The most tokens of a tile: for as many the kernels are unrolled. 0: a tile may have kMaxTileTokens, and
/// they aren't.
template <class Tag>
inline constexpr int kUnrolledTokens = 0;
template <>
inline constexpr int kUnrolledTokens<Avx512> = 16;
template <>
inline constexpr int kUnrolledTokens<Avx2> = 4;

/// The formats whose codes the kernels of AVX2 add up in pairs.
template <class F, class Tag>
inline constexpr bool kPairs = false;
template <QuantFormat F>
inline constexpr bool kPairs<F, Avx2> = F::kBits != 8 && !F::kTable;

/// Adds what one group gives to the sums of the tile's n tokens.
template <class F, class Tag, bool kWide, int kTokens>
[[gnu::always_inline]] inline void add_group(const GroupWeights<F, Tag>& weights, const ActTile& tile, int n,
                                             int64_t group, F32x16<Tag>* sums) {
  const auto add = [&](int t, I32x16<Tag> sum) __attribute__((always_inline)) {
    sums[t] = fma(to_float(sum), F32x16<Tag>::broadcast(tile.scale[group * n + t]), sums[t]);
  };
  if constexpr (kPairs<F, Tag>) {
    I32x16<Tag> integers[kTokens];
    group_sums<F, kWide, kTokens>(weights, tile, group * n, integers);
    for (int t = 0; t < kTokens; ++t) add(t, integers[t]);
  } else {
    const CodeVectors<F, Tag> codes(weights);
    for (int t = 0; t < n; ++t) add(t, group_sum<F, Tag, kWide>(weights, codes, tile, group * n + t));
  }
}

/// The same for its minima.
template <class F, class Tag>
[[gnu::always_inline]] inline void add_mins(const GroupWeights<F, Tag>& weights, const ActTile& tile, int n,
                                            int64_t group, F32x16<Tag>* mins) {
  using Fl = F32x16<Tag>;
  constexpr int kHalves = F::kHalves ? 2 : 1;
  for (int half = 0; half < kHalves; ++half) {
    const Fl min = F::kSubScales ? weights.min(half) : Fl::broadcast(1.0F);
    for (int t = 0; t < n; ++t) {
      mins[t] = fma(min, Fl::broadcast(tile.sum[(group * n + t) * kHalves + half]), mins[t]);
    }
  }
}

/// Asks for the lines kPrefetchBytes behind [p, p + n).
template <class F, int kTokens>
[[gnu::always_inline]] inline void prefetch(const std::byte* p, int64_t n) {
  if constexpr (F::kBits == 8 && kTokens == 1) return;
  for (int64_t i = 0; i < n; i += kLineBytes) __builtin_prefetch(p + kPrefetchBytes + i, 0, 2);
}

/// Adds a block, the groups [first, last) of a segment, to the accumulators of the tile's n tokens. `group`
/// is the first one's index in the panel.
template <class F, class Tag, bool kWide, int kTokens>
[[gnu::always_inline]] inline void add_block(const std::byte* segment, int first, int last,
                                             const ActTile& tile, int n, int64_t group, F32x16<Tag>* acc) {
  using Layout = PackedLayout<F>;
  using Weights = GroupWeights<F, Tag>;
  using Fl = F32x16<Tag>;
  const BlockScales<F, Tag> scales(segment, first);
  if constexpr (F::kHasMin) {
    Fl mins[kTokens > 0 ? kTokens : kMaxTileTokens];
    for (int t = 0; t < n; ++t) mins[t] = Fl::zero();
    for (int g = first; g < last; ++g) {
      add_mins<F, Tag>(Weights(segment, g), tile, n, group + (g - first), mins);
    }
    const Fl factor = scales.negative_dmin();
    for (int t = 0; t < n; ++t) acc[t] = fma(factor, mins[t], acc[t]);
  }
  Fl sums[kTokens > 0 ? kTokens : kMaxTileTokens];
  for (int t = 0; t < n; ++t) sums[t] = Fl::zero();
  for (int g = first; g < last; ++g) {
    if (g % Layout::kUnitGroups == 0) prefetch<F, kTokens>(segment + Layout::unit_offset(g), kLineBytes);
    prefetch<F, kTokens>(segment + Layout::lines_offset(g), Layout::kGroupLineBytes);
    add_group<F, Tag, kWide, kTokens>(Weights(segment, g), tile, n, group + (g - first), sums);
  }
  const Fl d = scales.d();
  for (int t = 0; t < n; ++t) acc[t] = fma(d, sums[t], acc[t]);
}

/// Rounds 16 floats to fixed point (nearest, ties to even) and adds the first n to out. False where one of
/// these is out of range or not a number; it is then left out.
template <class Tag>
[[gnu::always_inline]] inline bool add_fixed(Tag, const float* values, int n, int64_t* out) {
  bool in_range = true;
  for (int lane = 0; lane < n; ++lane) {
    const bool fits = __builtin_fabsf(values[lane]) < kFixedPointLimit;  // false for NaN
    in_range &= fits;
    out[lane] += fits ? static_cast<int64_t>(__builtin_llrintf(values[lane] * kFixedPointScale)) : 0;
  }
  return in_range;
}

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
/// Doubles between 2^52 and 2^53 are a constant plus an integer, which adding that constant rounds to: a
/// short way for sums below 2^20. Others, and a matrix's last rows, take the long one.
[[gnu::always_inline]] inline bool add_fixed(Avx2, const float* values, int n, int64_t* out) {
  const auto value = F32x16<Avx2>::load(values);
  const auto small = less(abs(value), F32x16<Avx2>::broadcast(0x1p20F));
  if (n != 16 || mask_bits(small) != 0xffffU) return add_fixed(Generic{}, values, n, out);
  const __m256d magic = _mm256_set1_pd(0x1.8p52);
  const __m256d scale = _mm256_set1_pd(kFixedPointScale);
  for (int lane = 0; lane < 16; lane += 4) {
    const __m256d sum = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(values + lane)), scale, magic);
    const __m256i fixed = _mm256_sub_epi64(_mm256_castpd_si256(sum), _mm256_castpd_si256(magic));
    auto* at = reinterpret_cast<__m256i*>(out + lane);
    _mm256_storeu_si256(at, _mm256_add_epi64(_mm256_loadu_si256(at), fixed));
  }
  return true;
}
#endif

#if defined(__AVX512DQ__)
[[gnu::always_inline]] inline bool add_fixed(Avx512, const float* values, int n, int64_t* out) {
  const auto value = F32x16<Avx512>::load(values);
  const __mmask16 wanted = F32x16<Avx512>::first(n);
  const __mmask16 fits = less(abs(value), F32x16<Avx512>::broadcast(kFixedPointLimit)).bits & wanted;
  const __m512 scaled = _mm512_mul_ps(value.v, _mm512_set1_ps(kFixedPointScale));
  const auto add_half = [&](__mmask8 mask, __m256 part, int64_t* at) {
    const __m512i old = _mm512_maskz_loadu_epi64(mask, at);
    _mm512_mask_storeu_epi64(at, mask, _mm512_add_epi64(old, _mm512_cvtps_epi64(part)));
  };
  add_half(static_cast<__mmask8>(fits), _mm512_castps512_ps256(scaled), out);
  add_half(static_cast<__mmask8>(fits >> 8), _mm512_extractf32x8_ps(scaled, 1), out + 8);
  return fits == wanted;
}
#endif

/// Writes or adds the sums of one panel and tile; sums: (n, 16).
template <class Tag>
[[gnu::always_inline]] inline bool put_sums(const MatmulArgs& args, const ActTile& tile, int64_t panel,
                                            const float* sums) {
  const int64_t rows_left = args.n_rows - panel * 16;
  const int n_rows = rows_left < 16 ? static_cast<int>(rows_left) : 16;
  bool in_range = true;
  for (int t = 0; t < tile.n; ++t) {
    const int64_t at = (tile.first_token + t) * args.out_stride + panel * 16;
    if (args.fixed != nullptr) {
      in_range &= add_fixed(Tag{}, sums + 16 * t, n_rows, args.fixed + at);
    } else {
      F32x16<Tag>::load(sums + 16 * t).store_partial(args.out + at, n_rows);
    }
  }
  return in_range;
}

/// Where the chunk that begins at unit `begin` ends: a panel is one, where sums aren't put in fixed point.
[[gnu::always_inline]] inline int64_t chunk_end(const MatmulArgs& args, int64_t begin) {
  const int64_t end = args.fixed != nullptr ? begin + args.chunk_units : args.n_units;
  return end < args.n_units ? end : args.n_units;
}

/// Groups [begin, end) of one panel for the tile's tokens: kTokens of them, or with 0 any number. sums: (n,
/// 16)
template <QuantFormat F, class Tag, bool kWide, int kTokens>
[[gnu::always_inline]] inline void accumulate(const MatmulArgs& args, const std::byte* panel, int64_t begin,
                                              int64_t end, const ActTile& tile, float* sums) {
  using Layout = PackedLayout<F>;
  const int n = kTokens > 0 ? kTokens : tile.n;
  F32x16<Tag> acc[kTokens > 0 ? kTokens : kMaxTileTokens];
  for (int t = 0; t < n; ++t) acc[t] = F32x16<Tag>::zero();
  for (int64_t group = begin; group < end;) {
    const auto place = Layout::segment_of(group, args.n_units, args.phase);
    const std::byte* segment = panel + place.offset;
    const int64_t left = end - group;
    const int last =
        place.n_groups - place.first < left ? place.n_groups : place.first + static_cast<int>(left);
    prefetch<F, kTokens>(segment, Layout::kFixedHeader);
    for (int g = place.first; g < last;) {
      const int block_end = F::kSubScales ? last : g + 1;
      add_block<F, Tag, kWide, kTokens>(segment, g, block_end, tile, n, group, acc);
      group += block_end - g;
      g = block_end;
    }
  }
  for (int t = 0; t < n; ++t) acc[t].store(sums + 16 * t);
}

/// One panel times the tile's tokens, of which there are kTokens, or with 0 any number. False where a
/// fixed-point sum is out of range.
template <QuantFormat F, class Tag, bool kWide, int kTokens>
bool multiply(const MatmulArgs& args, int64_t panel, const ActTile& tile) {
  alignas(64) float sums[16 * (kTokens > 0 ? kTokens : kMaxTileTokens)];
  bool in_range = true;
  for (int64_t begin = 0; begin < args.n_units;) {
    const int64_t end = chunk_end(args, begin);
    accumulate<F, Tag, kWide, kTokens>(args, args.panels + panel * args.panel_bytes, begin, end, tile, sums);
    in_range &= put_sums<Tag>(args, tile, panel, sums);
    begin = end;
  }
  return in_range;
}

template <class Tag>
[[gnu::always_inline]] inline F32x16<Tag> load_column(F32, const std::byte* p) {
  return F32x16<Tag>::load(reinterpret_cast<const float*>(p));
}
template <class Tag>
[[gnu::always_inline]] inline F32x16<Tag> load_column(F16, const std::byte* p) {
  return F32x16<Tag>::load_f16(reinterpret_cast<const uint16_t*>(p));
}
template <class Tag>
[[gnu::always_inline]] inline F32x16<Tag> load_column(Bf16, const std::byte* p) {
  return F32x16<Tag>::load_bf16(reinterpret_cast<const uint16_t*>(p));
}

/// The same for kPanels panels from `panel` on: one alone has one chain of dependent additions a token, too
/// few for a single token.
template <FloatFormat F, class Tag, bool kWide, int kTokens, int kPanels = 1>
bool multiply(const MatmulArgs& args, int64_t panel, const ActTile& tile) {
  using Fl = F32x16<Tag>;
  const int n = kTokens > 0 ? kTokens : tile.n;
  const std::byte* weights = args.panels + panel * args.panel_bytes;
  alignas(64) float sums[16 * (kTokens > 0 ? kTokens : kMaxTileTokens)];
  bool in_range = true;
  for (int64_t begin = 0; begin < args.n_units;) {
    const int64_t end = chunk_end(args, begin);
    Fl acc[kPanels][kTokens > 0 ? kTokens : kMaxTileTokens];
    for (auto& row : acc) {
      for (int t = 0; t < n; ++t) row[t] = Fl::zero();
    }
    for (int64_t col = begin; col < end; ++col) {
      for (int p = 0; p < kPanels; ++p) {
        const std::byte* column = weights + p * args.panel_bytes + col * PackedLayout<F>::kColumnBytes;
        const Fl weight = load_column<Tag>(F{}, column);
        for (int t = 0; t < n; ++t) acc[p][t] = fma(weight, Fl::broadcast(tile.x[col * n + t]), acc[p][t]);
      }
    }
    for (int p = 0; p < kPanels; ++p) {
      for (int t = 0; t < n; ++t) acc[p][t].store(sums + 16 * t);
      in_range &= put_sums<Tag>(args, tile, panel + p, sums);
    }
    begin = end;
  }
  return in_range;
}

template <class F, class Tag, bool kWide, int kTokens = 1>
[[gnu::always_inline]] inline bool multiply_tile(const MatmulArgs& args, int64_t panel, const ActTile& tile) {
  if (tile.n == kTokens) return multiply<F, Tag, kWide, kTokens>(args, panel, tile);
  constexpr int kMost = kUnrolledTokens<Tag>;
  if constexpr (kTokens < kMost) {
    return multiply_tile<F, Tag, kWide, 2 * kTokens>(args, panel, tile);
  } else {
    return multiply<F, Tag, kWide, kMost>(args, panel, tile);
  }
}

template <class F, class Tag, bool kWide>
bool run_matmul(const MatmulArgs& args) {
  constexpr int kTogether = 4;  // panels, for one token of a float format
  bool in_range = true;
  int64_t p = args.panel_begin;
  if constexpr (FloatFormat<F>) {
    if (args.n_tiles == 1 && args.tiles[0].n == 1) {
      for (; p + kTogether <= args.panel_end; p += kTogether) {
        in_range &= multiply<F, Tag, kWide, 1, kTogether>(args, p, args.tiles[0]);
      }
    }
  }
  for (; p < args.panel_end; ++p) {
    for (int i = 0; i < args.n_tiles; ++i) in_range &= multiply_tile<F, Tag, kWide>(args, p, args.tiles[i]);
  }
  return in_range;
}

template <class F, class Tag>
bool run_any(const MatmulArgs& args) {
  if constexpr (QuantFormat<F>) {
    if (args.wide) return run_matmul<F, Tag, true>(args);
  }
  return run_matmul<F, Tag, false>(args);
}

template <class F, class Tag>
MatmulKernels matmul_kernels() {
  return {.tile_tokens = kUnrolledTokens<Tag> == 0 ? kMaxTileTokens : kUnrolledTokens<Tag>,
          .zero_pairs = kPairs<F, Tag>,
          .run = &run_any<F, Tag>};
}

}  // namespace tandem
