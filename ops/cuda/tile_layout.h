// How a weight matrix lies in device memory, and how a lane takes its share of it apart. Shared by packing
// (pack.cuh), the GEMV kernels (gemv_impl.cuh) and tests that need no GPU: plain constexpr code. The truth
// stays ops/quant's group(); what is here only moves its bits.
//
// A tile is 8 rows; a unit is a tile's 256 columns [256 s, 256 s + 256) of the stored matrix, 8 × the file's
// bytes of a row's super-block, no more. Tiles lie one after another, a tile's units too: a tile is one
// sequential stream that a warp reads in lines of 512, 256, 128 … contiguous bytes. Lane l of a warp owns row
// l / 4 and the columns 64 (l % 4) … + 63, two groups of 32 (a and b). A unit is
//   lines of 16 bytes a lane   code words 0..3, 4..7, …
//   one line of 8 bytes a lane the last two code words, where kBits is odd
//   lane scales                kLaneScaleBytes a lane
//   row scales                 kRowScaleBytes a row, read by the four lanes of the row (a quad)
// Columns that the shard doesn't own and rows beyond the last are zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

#include "ops/core/half.h"
#include "ops/core/range.h"
#include "ops/quant/format.h"
#include "ops/quant/iq4_nl.h"

namespace tandem::cuda {

inline constexpr int kTileRows = 8;
inline constexpr int kSegmentCols = 256;
inline constexpr int kQuad = 4;       ///< lanes a row
inline constexpr int kLaneCols = 64;  ///< columns a lane

/// Segments of 256 stored columns that a shard touches.
constexpr Range segments_of(Range cols) {
  if (cols.empty()) return {0, 0};
  return {cols.begin / kSegmentCols, ceil_div(cols.end, kSegmentCols)};
}

template <class F>
struct TileLayout;

template <QuantFormat F>
struct TileLayout<F> {
  static constexpr int kCodeWords = 2 * F::kBits;  ///< a lane
  static constexpr int kLines = F::kBits / 2;      ///< of 16 bytes a lane
  static constexpr bool kHasHalfLine = F::kBits % 2 != 0;
  /// Bits of a lane's scale word that hold a quarter of d (and dmin), which belong to the whole row.
  static constexpr int kQuadBits = !F::kSubScales || F::kBits == 2 || F::kBits == 6 ? 0 : F::kHasMin ? 8 : 4;
  static constexpr int kLaneScaleBytes = !F::kSubScales ? (F::kHasMin ? 8 : 4) : F::kTable ? 2 : 4;
  static constexpr int kRowScaleBytes = !F::kSubScales || kQuadBits != 0 ? 0 : F::kHasMin ? 4 : 2;

  static constexpr int kHalfLineOffset = 512 * kLines;
  static constexpr int kLaneScaleOffset = kHalfLineOffset + (kHasHalfLine ? 256 : 0);
  static constexpr int kRowScaleOffset = kLaneScaleOffset + 32 * kLaneScaleBytes;
  static constexpr int kUnitBytes = kRowScaleOffset + kTileRows * kRowScaleBytes;
  static_assert(kUnitBytes ==
                    kTileRows * static_cast<int>(sizeof(typename F::Block)) * kSegmentCols / F::kElements ||
                F::kBits == 3);  // Q3_K: 112 bytes for the file's 110
  static_assert(kUnitBytes % 16 == 0);
};

/// What a lane reads of a unit.
template <class F>
struct Lane;

template <QuantFormat F>
struct Lane<F> {
  using Layout = TileLayout<F>;
  uint32_t codes[Layout::kCodeWords];
  uint32_t scale[Layout::kLaneScaleBytes == 8 ? 2 : 1];
  uint32_t row;  ///< row scales
};

/// Float formats: lane l owns row l / 4; line i of 16 bytes a lane holds that row's elements from
/// (4 i + l % 4) · 16 / sizeof(Element) on.
template <FloatFormat F>
struct TileLayout<F> {
  static constexpr int kElementBytes = sizeof(typename F::Element);
  static constexpr int kLineElements = 16 / kElementBytes;  ///< a lane
  static constexpr int kLines = kLaneCols / kLineElements;
  static constexpr int kUnitBytes = 512 * kLines;
};

template <FloatFormat F>
struct Lane<F> {
  uint32_t codes[4 * TileLayout<F>::kLines];
};

namespace detail {
inline constexpr uint32_t kLow1 = 0x01010101U;
inline constexpr uint32_t kLow2 = 0x03030303U;
inline constexpr uint32_t kLow4 = 0x0f0f0f0fU;

/// Formats whose words are given to the dot product as signed bytes with the zero point already taken off.
template <QuantFormat F>
inline constexpr bool kSigned = !F::kHasMin;

/// Flips a code's top bit: an unsigned code around 2^(bits-1) becomes two's complement.
template <QuantFormat F>
constexpr uint32_t to_stored(uint32_t codes) {
  if constexpr (kSigned<F> && !F::kTable) return codes ^ (kLow1 << (F::kBits - 1));
  return codes;
}

/// The low nibbles of eight consecutive bytes, in order.
constexpr uint32_t gather_nibbles(uint32_t low, uint32_t high) {
  uint32_t out = 0;
  for (int b = 0; b < 4; ++b) {
    out |= (low >> 8 * b & 0xfU) << 4 * b;
    out |= (high >> 8 * b & 0xfU) << (4 * b + 16);
  }
  return out;
}
}  // namespace detail

/// Lays out a lane's codes: groups a and b, taken apart by F::group().
template <QuantFormat F>
constexpr void pack_codes(const QuantGroup& group_a, const QuantGroup& group_b, uint32_t* out) {
  using namespace detail;
  uint32_t a[8]{};
  uint32_t b[8]{};
  for (int v = 0; v < 8; ++v) {
    a[v] = to_stored<F>(group_a.codes[v]);
    b[v] = to_stored<F>(group_b.codes[v]);
  }
  if constexpr (F::kTable) {
    for (int v = 0; v < 4; ++v) {
      out[v] = gather_nibbles(a[2 * v], a[2 * v + 1]);
      out[v + 4] = gather_nibbles(b[2 * v], b[2 * v + 1]);
    }
    return;
  } else if constexpr (F::kBits == 8) {
    for (int v = 0; v < 8; ++v) {
      out[v] = a[v];
      out[v + 8] = b[v];
    }
    return;
  }
  constexpr int kPairs = F::kBits >= 4 ? 8 : 0;  // words of two nibbles a byte
  for (int v = 0; v < kPairs; ++v) out[v] = (a[v] & kLow4) | (b[v] & kLow4) << 4;
  if constexpr (F::kBits == 2 || F::kBits == 3 || F::kBits == 6) {
    constexpr int kShift = F::kBits == 6 ? 4 : 0;
    for (int k = 0; k < 4; ++k) {
      out[kPairs + k] = (a[k] >> kShift & kLow2) | (a[k + 4] >> kShift & kLow2) << 2 |
                        (b[k] >> kShift & kLow2) << 4 | (b[k + 4] >> kShift & kLow2) << 6;
    }
  }
  if constexpr (F::kBits == 3 || F::kBits == 5) {
    uint32_t* bits = out + 2 * F::kBits - 2;
    bits[0] = bits[1] = 0;
    for (int v = 0; v < 8; ++v) {
      bits[0] |= (a[v] >> (F::kBits - 1) & kLow1) << v;
      bits[1] |= (b[v] >> (F::kBits - 1) & kLow1) << v;
    }
  }
}

/// A lane's scale words and its row's. `quarter`: l % 4. The groups' d and dmin are the row's super-block's
/// where the format has sub-scales; `d` and `dmin` are given apart, since a group that is not owned has none.
template <QuantFormat F>
constexpr void pack_scales(const QuantGroup& a, const QuantGroup& b, uint32_t d, uint32_t dmin, int quarter,
                           uint32_t* scale, uint32_t& row) {
  using Layout = TileLayout<F>;
  row = d | dmin << 16;
  if constexpr (!F::kSubScales) {
    if constexpr (F::kHasMin) {
      scale[0] = a.d | static_cast<uint32_t>(a.dmin) << 16;
      scale[1] = b.d | static_cast<uint32_t>(b.dmin) << 16;
    } else {
      scale[0] = a.d | static_cast<uint32_t>(b.d) << 16;
    }
  } else if constexpr (F::kBits == 2) {
    scale[0] = 0;
    for (int half = 0; half < 2; ++half) {
      scale[0] |= static_cast<uint32_t>(a.scale[half] | a.min[half] << 4) << 8 * half;
      scale[0] |= static_cast<uint32_t>(b.scale[half] | b.min[half] << 4) << (8 * half + 16);
    }
  } else if constexpr (F::kBits == 6) {
    scale[0] = 0;
    for (int half = 0; half < 2; ++half) {
      scale[0] |= (static_cast<uint32_t>(a.scale[half]) & 0xffU) << 8 * half;
      scale[0] |= (static_cast<uint32_t>(b.scale[half]) & 0xffU) << (8 * half + 16);
    }
  } else {
    // fields of 6 bits from below, a quarter of the row's scales on top
    const int16_t second[2] = {F::kHasMin ? a.min[0] : a.scale[1], F::kHasMin ? b.min[0] : b.scale[1]};
    constexpr uint32_t kField = 63;
    if constexpr (F::kTable) {
      scale[0] = (static_cast<uint32_t>(a.scale[0]) & kField) |
                 (static_cast<uint32_t>(b.scale[0]) & kField) << 6 | (row >> 4 * quarter & 0xfU) << 12;
    } else {
      scale[0] = (static_cast<uint32_t>(a.scale[0]) & kField) |
                 (static_cast<uint32_t>(second[0]) & kField) << 6 |
                 (static_cast<uint32_t>(b.scale[0]) & kField) << 12 |
                 (static_cast<uint32_t>(second[1]) & kField) << 18 |
                 (row >> Layout::kQuadBits * quarter & ((1U << Layout::kQuadBits) - 1)) << 24;
    }
  }
}

/// A lane's share of the row's scales, at its place; the four lanes' shares together (or) are `row`.
template <QuantFormat F>
constexpr uint32_t quad_share(const uint32_t* scale, int quarter) {
  constexpr int kBits = TileLayout<F>::kQuadBits;
  return (scale[0] >> (F::kTable ? 12 : 24) & ((1U << kBits) - 1)) << kBits * quarter;
}

/// A half's bits as a float; one instruction on a GPU.
constexpr float half_value(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
#else
  return f16_bits_to_float(static_cast<uint16_t>(bits));
#endif
}

/// What the weight words of group g (0: a, 1: b), half h are multiplied with, as a power of two: the words
/// hold weight << shift, because masking without shifting saves an instruction a word.
template <QuantFormat F>
constexpr int word_shift(int g, int h) {
  if constexpr (F::kTable || F::kBits == 8) return 0;
  if constexpr (F::kBits == 2) return 4 * g + 2 * h;
  if constexpr (F::kBits == 4) return detail::kSigned<F> || g == 1 ? 4 : 0;
  if constexpr (F::kBits == 5) return detail::kSigned<F> ? 3 : 0;
  return 8 - F::kBits;
}

/// Shift left by n, or right where n is negative.
constexpr uint32_t shift_by(uint32_t x, int n) {
  return n >= 0 ? x << n : x >> -n;
}

/// Table lookup of four nibbles of `x`, the first at bit 0, as IQ4's signed bytes.
constexpr uint32_t look_up(uint32_t x) {
  constexpr auto kWord = [](int i) {
    uint32_t word = 0;
    for (int b = 0; b < 4; ++b)
      word |= static_cast<uint32_t>(static_cast<uint8_t>(kIq4Values[4 * i + b])) << 8 * b;
    return word;
  };
  constexpr uint32_t kTable[4] = {kWord(0), kWord(1), kWord(2), kWord(3)};
#ifdef __CUDA_ARCH__
  const uint32_t low = __byte_perm(kTable[0], kTable[1], x & 0x7777U);
  const uint32_t high = __byte_perm(kTable[2], kTable[3], x & 0x7777U);
  return __byte_perm(low, high, 0x3210U | (x & 0x8888U) >> 1);
#else
  uint32_t out = 0;
  for (int b = 0; b < 4; ++b) {
    const uint32_t code = x >> 4 * b & 0xfU;
    out |= (kTable[code / 4] >> 8 * (code % 4) & 0xffU) << 8 * b;
  }
  return out;
#endif
}

/// Weight word v (columns 4v .. 4v + 3) of group g, shifted by word_shift(). Signed bytes where
/// detail::kSigned, else unsigned ones.
template <QuantFormat F>
constexpr uint32_t weight_word(const uint32_t* codes, int g, int v) {
  using namespace detail;
  if constexpr (F::kTable) {
    return look_up(codes[4 * g + v / 2] >> 16 * (v % 2));
  } else if constexpr (F::kBits == 8) {
    return codes[8 * g + v];
  } else if constexpr (F::kBits == 2) {
    return codes[v % 4] & kLow2 << (4 * g + 2 * (v / 4));
  } else if constexpr (F::kBits == 3) {
    const int field = 4 * g + 2 * (v / 4);
    return (shift_by(codes[v % 4], 5 - field) & kLow2 << 5) | (codes[4 + g] << (7 - v) & kLow1 << 7);
  } else if constexpr (F::kBits == 4) {
    if (g == 1) return codes[v] & kLow4 << 4;
    return kSigned<F> ? codes[v] << 4 & kLow4 << 4 : codes[v] & kLow4;
  } else if constexpr (F::kBits == 5) {
    constexpr int kShift = kSigned<F> ? 3 : 0;
    return (shift_by(codes[v], kShift - 4 * g) & kLow4 << kShift) |
           (shift_by(codes[8 + g], kShift + 4 - v) & kLow1 << (kShift + 4));
  } else {
    const int field = 4 * g + 2 * (v / 4);
    return (shift_by(codes[v], 2 - 4 * g) & kLow4 << 2) |
           (shift_by(codes[8 + v % 4], 6 - field) & kLow2 << 6);
  }
}

/// The largest word_shift of a format: what all of a lane's sums are brought to, through their scales.
template <QuantFormat F>
constexpr int common_shift() {
  int shift = 0;
  for (int i = 0; i < 4; ++i) {
    if (word_shift<F>(i / 2, i % 2) > shift) shift = word_shift<F>(i / 2, i % 2);
  }
  return shift;
}

/// A lane's scales. With sub-scales: value = d * (scale[g][h] * word) - dmin * min[g][h], else
/// value = group_d[g] * word - group_min[g], where word is weight_word()'s byte.
struct LaneScales {
  int scale[2][2];
  int min[2][2];
  float d;
  float dmin;
  float group_d[2];
  float group_min[2];
};

/// `row`: the row's scales (d, dmin), put together from the quad where they are shared out.
template <QuantFormat F>
constexpr LaneScales lane_scales(const uint32_t* scale, uint32_t row) {
  constexpr float kPower = 1.0F / static_cast<float>(1 << common_shift<F>());
  LaneScales out{};
  if constexpr (!F::kSubScales) {
    for (int g = 0; g < 2; ++g) {
      const float power = 1.0F / static_cast<float>(1 << word_shift<F>(g, 0));
      out.group_d[g] = half_value(F::kHasMin ? scale[g] & 0xffffU : scale[0] >> 16 * g & 0xffffU) * power;
      if constexpr (F::kHasMin) out.group_min[g] = half_value(scale[g] >> 16);
    }
    return out;
  }
  // a field's bits, signed where the format's scales are, moved up by what its words' shift falls short
  const auto field = [&](int begin, int bits, bool is_signed, int up) {
    if (is_signed) return static_cast<int>(scale[0] << (32 - begin - bits)) >> (32 - bits) << up;
    return static_cast<int>(shift_by(scale[0], up - begin) & ((1U << bits) - 1) << up);
  };
  out.d = half_value(row & 0xffffU) * kPower;
  if constexpr (F::kHasMin) out.dmin = half_value(row >> 16);
  for (int g = 0; g < 2; ++g) {
    for (int h = 0; h < 2; ++h) {
      const int up = common_shift<F>() - word_shift<F>(g, h);
      if constexpr (F::kBits == 2) {
        out.scale[g][h] = field(16 * g + 8 * h, 4, false, up);
        out.min[g][h] = field(16 * g + 8 * h + 4, 4, false, 0);
      } else if constexpr (F::kBits == 6) {
        out.scale[g][h] = field(16 * g + 8 * h, 8, true, up);
      } else if constexpr (F::kBits == 3) {
        out.scale[g][h] = field(12 * g + 6 * h, 6, true, up);
      } else if constexpr (F::kTable) {
        out.scale[g][h] = field(6 * g, 6, true, up);
      } else {
        out.scale[g][h] = field(12 * g, 6, false, up);
        out.min[g][h] = field(12 * g + 6, 6, false, 0);
      }
    }
  }
  return out;
}

}  // namespace tandem::cuda
