// The matrix-product kernels of one (format, instruction set). Called through matmul_kernels() by
// ops/cpu/matmul.cpp; never allocates, never looks at which set it is but for the tag.
//
// One float recipe a (row, token), whatever the tile, panel range, form or set: in column order, a group of
// 32 at a time,
//   value = float(dot) * scale                       [two halves: fma(float(dot1), scale1, float(dot0) *
//   scale0)] value = fma(min, float(sum of activations), value)     [with minima; a half at a time] acc   =
//   fma(value, activation scale, acc)
// where dot is the exact integer Σ (code - zero) · activation (q15: 128 · high plane + low plane), scale = d
// * sub-scale and min = -(dmin * sub-min) are exact. Float formats: acc = fma(weight, activation, acc) a
// column.
#pragma once

#include "ops/core/fixed_point.h"
#include "ops/cpu/kernels/matmul.h"
#include "ops/cpu/kernels/matmul_dot.h"
#include "ops/cpu/kernels/matmul_weights.h"

namespace tandem {

/// How far ahead of the stream lines are asked for. Measured on Zen 4, one token and weights in memory:
/// without it products with formats that take unpacking reach 70 to 80 % of a plain read's speed, with it 80
/// to 95 %. One token's work on 8-bit weights is so short that the processor runs ahead by itself, and loses
/// by it.
inline constexpr int64_t kPrefetchBytes = 4096;

/// Whether a tile's accumulators and a group's weights fit in registers together.
template <class Tag>
inline constexpr bool kManyRegisters = false;
template <>
inline constexpr bool kManyRegisters<Avx512> = true;

/// The exact integer of one (half) group and token.
template <class Tag, int kBits, bool kWide, int kFrom, int kTo>
[[gnu::always_inline]] inline I32x16<Tag> group_dot(const I32x16<Tag>* codes, const ActTile& tile, int64_t at,
                                                    I32x16<Tag> zero) {
  using I = I32x16<Tag>;
  if constexpr (kWide) {
    // Signed 8-bit products ignore the start, so the planes are joined behind them.
    if constexpr (kBits == 8) {
      const I high = dot<kBits, kFrom, kTo>(codes, tile.high + at * 32, I::zero());
      const I low = dot<kBits, kFrom, kTo>(codes, tile.low + at * 32, zero);
      return shift_left<7>(high) + low;
    }
    const I high = dot<kBits, kFrom, kTo>(codes, tile.high + at * 32, I::zero());
    return dot<kBits, kFrom, kTo>(codes, tile.low + at * 32, shift_left<7>(high) + zero);
  } else {
    return dot<kBits, kFrom, kTo>(codes, tile.high + at * 32, zero);
  }
}

/// What one group adds to one token's accumulator.
template <class F, class Tag, bool kWide>
[[gnu::always_inline]] inline F32x16<Tag> add_group(const GroupWeights<F, Tag>& weights, const ActTile& tile,
                                                    int64_t at, F32x16<Tag> acc) {
  using Fl = F32x16<Tag>;
  using I = I32x16<Tag>;
  constexpr int kBits = F::kTable ? 8 : F::kBits;
  constexpr bool kZero = F::kTable || F::kZero != 0;
  const auto zero = [&](int64_t i) { return kZero ? I::broadcast(tile.zero[i]) : I::zero(); };
  Fl value;
  if constexpr (F::kHalves) {
    const I first = group_dot<Tag, kBits, kWide, 0, 4>(weights.codes, tile, at, zero(2 * at));
    const I second = group_dot<Tag, kBits, kWide, 4, 8>(weights.codes, tile, at, zero(2 * at + 1));
    value = fma(to_float(second), weights.scale[1], to_float(first) * weights.scale[0]);
    if constexpr (F::kHasMin) {
      value = fma(weights.min[0], Fl::broadcast(tile.sum[2 * at]), value);
      value = fma(weights.min[1], Fl::broadcast(tile.sum[2 * at + 1]), value);
    }
  } else {
    const I whole = group_dot<Tag, kBits, kWide, 0, 8>(weights.codes, tile, at, zero(at));
    value = to_float(whole) * weights.scale[0];
    if constexpr (F::kHasMin) value = fma(weights.min[0], Fl::broadcast(tile.sum[at]), value);
  }
  return fma(value, Fl::broadcast(tile.scale[at]), acc);
}

/// Asks for the lines kPrefetchBytes behind [p, p + n).
template <class F, int kTokens>
[[gnu::always_inline]] inline void prefetch(const std::byte* p, int64_t n) {
  if constexpr (F::kBits == 8 && kTokens == 1) return;
  for (int64_t i = 0; i < n; i += kLineBytes) __builtin_prefetch(p + kPrefetchBytes + i);
}

/// Groups [begin, end) of one panel for the tile's tokens: kTokens of them, accumulators in registers, or
/// with 0 any number. out: (n, 16)
template <QuantFormat F, class Tag, bool kWide, int kTokens>
void accumulate(const MatmulArgs& args, const std::byte* panel, int64_t begin, int64_t end,
                const ActTile& tile, float* out) {
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
    for (int g = place.first; g < last; ++g, ++group) {
      if (g % Layout::kUnitGroups == 0) prefetch<F, kTokens>(segment + Layout::unit_offset(g), kLineBytes);
      const std::byte* lines = segment + Layout::lines_offset(g);
      prefetch<F, kTokens>(lines, Layout::kGroupLineBytes);
      GroupWeights<F, Tag> weights;
      weights.load_codes(lines);
      weights.load_scales(segment, g);
      for (int t = 0; t < n; ++t) acc[t] = add_group<F, Tag, kWide>(weights, tile, group * n + t, acc[t]);
    }
  }
  for (int t = 0; t < n; ++t) acc[t].store(out + 16 * t);
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

/// The same for columns [begin, end) of kPanels panels, which lie panel_bytes apart: one panel alone has one
/// chain of dependent additions a token, too few for a single token. out: (kPanels, n, 16)
template <FloatFormat F, class Tag, bool kWide, int kTokens, int kPanels = 1>
void accumulate(const MatmulArgs& args, const std::byte* panel, int64_t begin, int64_t end,
                const ActTile& tile, float* out) {
  using Fl = F32x16<Tag>;
  const int n = kTokens > 0 ? kTokens : tile.n;
  Fl acc[kPanels][kTokens > 0 ? kTokens : kMaxTileTokens];
  for (auto& row : acc) {
    for (int t = 0; t < n; ++t) row[t] = Fl::zero();
  }
  for (int64_t col = begin; col < end; ++col) {
    for (int p = 0; p < kPanels; ++p) {
      const std::byte* column = panel + p * args.panel_bytes + col * PackedLayout<F>::kColumnBytes;
      const Fl weight = load_column<Tag>(F{}, column);
      for (int t = 0; t < n; ++t) acc[p][t] = fma(weight, Fl::broadcast(tile.x[col * n + t]), acc[p][t]);
    }
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int t = 0; t < n; ++t) acc[p][t].store(out + 16 * (p * n + t));
  }
}

template <class F, class Tag, bool kWide>
[[gnu::always_inline]] inline void accumulate_tile(const MatmulArgs& args, const std::byte* panel,
                                                   int64_t begin, int64_t end, const ActTile& tile,
                                                   float* out) {
  if (tile.n == 1) return accumulate<F, Tag, kWide, 1>(args, panel, begin, end, tile, out);
  if constexpr (kManyRegisters<Tag>) {
    switch (tile.n) {
      case 2:
        return accumulate<F, Tag, kWide, 2>(args, panel, begin, end, tile, out);
      case 4:
        return accumulate<F, Tag, kWide, 4>(args, panel, begin, end, tile, out);
      case 8:
        return accumulate<F, Tag, kWide, 8>(args, panel, begin, end, tile, out);
      default:
        return accumulate<F, Tag, kWide, 16>(args, panel, begin, end, tile, out);
    }
  } else {
    return accumulate<F, Tag, kWide, 0>(args, panel, begin, end, tile, out);
  }
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

template <class F, class Tag, bool kWide>
bool run_matmul(const MatmulArgs& args) {
  constexpr int kTogether = 4;  // panels, for one token of a float format
  alignas(64) float sums[16 * kMaxTileTokens];
  bool in_range = true;
  const int64_t chunk = args.fixed != nullptr ? args.chunk_units : args.n_units;
  const bool together = FloatFormat<F> && args.n_tiles == 1 && args.tiles[0].n == 1;
  for (int64_t p = args.panel_begin; p < args.panel_end;) {
    const std::byte* panel = args.panels + p * args.panel_bytes;
    const int n_panels = together && p + kTogether <= args.panel_end ? kTogether : 1;
    for (int i = 0; i < args.n_tiles; ++i) {
      const ActTile& tile = args.tiles[i];
      for (int64_t begin = 0; begin < args.n_units; begin += chunk) {
        const int64_t end = begin + chunk < args.n_units ? begin + chunk : args.n_units;
        if constexpr (FloatFormat<F>) {
          if (n_panels == kTogether) {
            accumulate<F, Tag, kWide, 1, kTogether>(args, panel, begin, end, tile, sums);
            for (int k = 0; k < kTogether; ++k) in_range &= put_sums<Tag>(args, tile, p + k, sums + 16 * k);
            continue;
          }
        }
        accumulate_tile<F, Tag, kWide>(args, panel, begin, end, tile, sums);
        in_range &= put_sums<Tag>(args, tile, p, sums);
      }
    }
    p += n_panels;
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
  return {&run_any<F, Tag>};
}

}  // namespace tandem
