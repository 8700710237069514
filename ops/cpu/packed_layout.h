// How a packed matrix lies in memory (ops/cpu/matmul.h). Shared by packing and the kernels.
//
// A panel is 16 rows; lane = row. Panels lie one after another, and a panel is one sequential stream.
// Float formats: for each column, 16 elements.
// Quantised formats: the groups of 32 columns in order, everything in the order in which it is read:
// - A unit is 64 bytes of scales, for as many groups as they suffice for (1, 2 or 4), and then the lines
//   of those groups. A group's scales without sub-scales: 16 halves d [, 16 halves dmin]. With: 16 bytes
//   for each sub-scale [and sub-min]; Q2_K packs scale | min << 4 in a byte as the file does.
// - A segment of formats with sub-scales is 64 bytes, 16 halves d [, 16 halves dmin], and the units of up
//   to 8 groups. Segments are cut where the stored matrix has its multiples of 256 columns; a shard's first
//   and last may be shorter, and a last unit may lack groups. Without sub-scales a segment is a unit.
// - A group has kBits lines of 64 bytes; a line holds a 32-bit word w(i) a row. With c(v) the codes of the
//   columns from 4v to 4v + 3, one a byte, and x[a..b] bits of each byte (parts listed from the lowest
//   bits up), most vectors take one `and` to unpack:
//     8 bits  w(v) = c(v)
//     6 bits  w(v)[0..5] = c(v); c(6) = w(0)[6..7], w(1)[6..7], w(2)[6..7]; c(7) likewise of w(3), w(4), w(5)
//     5 bits  w(v)[0..4] = c(v); c(5) = w(0)[5..7], w(1)[5..6]; c(6) = w(1)[7], w(2)[5..7], w(3)[5];
//             c(7) = w(3)[6..7], w(4)[5..7]
//     4 bits  w(v)[0..3] = c(v); w(v)[4..7] = c(v + 4)
//     3 bits  w(v)[0..2] = c(v); w(v)[3..5] = c(v + 3);
//             c(6) = w(0)[6..7], w(2)[6]; c(7) = w(1)[6..7], w(2)[7]
//     2 bits  w(v) = c(4v), c(4v + 1), c(4v + 2), c(4v + 3)
//
// Bytes beside the file's, a whole super-block: +0 % for the formats without sub-scales and Q2_K, Q6_K +1.0,
// Q5_K +2.3, Q4_K +2.8, IQ4_XS +2.9, Q3_K +5.5 (its scales are unpacked to bytes).
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
  [[gnu::always_inline]] static constexpr int64_t unit_offset(uint32_t g) {
    return kFixedHeader + int64_t{g / kUnitGroups} * kUnitBytes;
  }
  [[gnu::always_inline]] static constexpr int64_t scales_offset(uint32_t g) {
    return unit_offset(g) + int64_t{g % kUnitGroups} * kGroupHeader;
  }
  [[gnu::always_inline]] static constexpr int64_t lines_offset(uint32_t g) {
    return unit_offset(g) + kLineBytes + int64_t{g % kUnitGroups} * kGroupLineBytes;
  }
};

}  // namespace tandem
