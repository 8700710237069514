// How a packed matrix lies in memory (ops/cpu/matmul.h): shared by packing (packed_matrix.cpp) and the
// kernels.
//
// A panel is 16 rows; lane = row. Panels lie one after another, and a panel is one sequential stream.
// Float formats: for each column, 16 elements.
// Quantised formats: the groups of 32 columns in order, everything in the order in which it is read.
//   unit     64 bytes of scales for as many groups as they suffice for (1, 2 or 4), then those groups' lines.
//            A group's scales: without sub-scales 16 halves d [, 16 halves dmin]; else 16 bytes for each
//            sub-scale [and sub-min]; Q2_K packs scale | min << 4 in a byte as the file does.
//   segment  with sub-scales: 64 bytes, 16 halves d [, 16 halves dmin], then the units of up to 8 groups;
//   segments are cut where
//            the stored matrix has its multiples of 256 columns (a shard's first and last may be shorter).
//            Without: a unit. A segment's last unit may lack groups.
//   lines    kBits lines of 64 bytes a group; a line holds a 32-bit word a row. Byte b of word v holds the
//   code of column 4v + b,
//            c(v) for short, in its low bits, as far as the words go; the other codes fill the bits above:
//            8 bits: c(v)     4: c(v) | c(v + 4) << 4     2: c(4v) | c(4v + 1) << 2 | c(4v + 2) << 4 | c(4v +
//            3) << 6 6: c(6) in the top bits of words 0..2, c(7) in those of words 3..5, two bits each,
//            lowest first 5: c(5) in words 0 (three bits) and 1 (two); c(6) in 1 (one), 2 (three) and 3
//            (one); c(7) in 3 (two) and 4 (three) 3: c(3..5) in bits 3..5 of words 0..2; c(6) in words 0 (two
//            bits) and 2 (one), c(7) in words 1 (two) and 2 (one) so that most vectors take one `and`.
// Bytes against the file's, a whole super-block: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, Q2_K
// +0 %, Q6_K +1.0, Q4_K +2.8, Q5_K +2.3, IQ4_XS +2.9, Q3_K +5.5 (alignment of its header).
#pragma once

#include <cstdint>

#include "ops/quant/format.h"

namespace tandem {

inline constexpr int kLineBytes = 64;
template <class F>
struct PackedLayout;

template <FloatFormat F>
struct PackedLayout<F> {
  static constexpr int64_t kColumnBytes = 16 * sizeof(typename F::Element);

  /// A panel's bytes, of columns [begin, begin + n_cols).
  [[gnu::always_inline]] static constexpr int64_t panel_bytes(int64_t n_cols, int64_t /*begin*/) {
    return (n_cols * kColumnBytes + kLineBytes - 1) / kLineBytes * kLineBytes;
  }
};

template <QuantFormat F>
struct PackedLayout<F> {
  static constexpr int kLines = F::kBits;  ///< a group
  static constexpr bool kMinInScaleByte = F::kHalves && F::kHasMin;
  static constexpr int kScaleVectors =
      !F::kSubScales ? 0 : (F::kHalves ? 2 : 1) + (F::kHasMin && !kMinInScaleByte ? 1 : 0);
  static constexpr int kHalfVectors = F::kHasMin ? 2 : 1;
  static constexpr int kGroupHeader = F::kSubScales ? 16 * kScaleVectors : 32 * kHalfVectors;
  static constexpr int kUnitGroups = kLineBytes / kGroupHeader;
  static constexpr int kSegmentGroups = F::kSubScales ? 8 : kUnitGroups;
  static constexpr int kFixedHeader = F::kSubScales ? kLineBytes : 0;
  static constexpr int kGroupLineBytes = kLines * kLineBytes;
  static constexpr int kUnitBytes = kLineBytes + kUnitGroups * kGroupLineBytes;

  /// How many of the first segment's groups lie before column `begin`, the shard's first.
  [[gnu::always_inline]] static constexpr int phase(int64_t begin) {
    return F::kSubScales ? static_cast<int>(begin / kGroup % kSegmentGroups) : 0;
  }
  [[gnu::always_inline]] static constexpr int64_t segment_bytes(int64_t n_groups) {
    if (n_groups == 0) return 0;
    return kFixedHeader + (n_groups + kUnitGroups - 1) / kUnitGroups * kLineBytes +
           n_groups * kGroupLineBytes;
  }
  [[gnu::always_inline]] static constexpr int64_t panel_bytes(int64_t n_cols, int64_t begin) {
    const int64_t n_groups = n_cols / kGroup;
    if (n_groups == 0) return 0;
    const Segment last = segment_of(n_groups - 1, n_groups, phase(begin));
    return last.offset + segment_bytes(last.n_groups);
  }

  struct Segment {
    int64_t offset = 0;  ///< from the panel's begin
    int n_groups = 0;    ///< that it holds
    int first = 0;       ///< the first of them that is asked for
  };
  /// The segment that holds local group g of a panel with n_groups groups.
  [[gnu::always_inline]] static constexpr Segment segment_of(int64_t g, int64_t n_groups, int phase) {
    const int64_t index = (phase + g) / kSegmentGroups;
    const int64_t begin = index == 0 ? 0 : index * kSegmentGroups - phase;
    const int64_t limit = (index + 1) * kSegmentGroups - phase;
    const int64_t end = limit < n_groups ? limit : n_groups;
    const int64_t before =
        index == 0 ? 0 : segment_bytes(kSegmentGroups - phase) + (index - 1) * segment_bytes(kSegmentGroups);
    return {before, static_cast<int>(end - begin), static_cast<int>(g - begin)};
  }

  /// Offsets in a segment of its group g: of the unit that it belongs to, of its scales, of its lines.
  [[gnu::always_inline]] static constexpr int64_t unit_offset(int g) {
    return kFixedHeader + g / kUnitGroups * int64_t{kUnitBytes};
  }
  [[gnu::always_inline]] static constexpr int64_t scales_offset(int g) {
    return unit_offset(g) + g % kUnitGroups * kGroupHeader;
  }
  [[gnu::always_inline]] static constexpr int64_t lines_offset(int g) {
    return unit_offset(g) + kLineBytes + g % kUnitGroups * int64_t{kGroupLineBytes};
  }
};

}  // namespace tandem
