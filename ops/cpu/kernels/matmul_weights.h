// A packed group in registers: eight vectors of codes (16 rows × 4 columns each) and the float scales that go
// with them. The inverse of ops/cpu/packed_matrix.cpp, sixteen rows at a time.
#pragma once

#include "ops/cpu/packed_layout.h"
#include "ops/cpu/simd.h"
#include "ops/quant/all.h"

namespace tandem {

/// IQ4's table plus 128, so that the codes are unsigned as everywhere.
struct Iq4Codes {
  uint8_t v[16];
};
inline constexpr Iq4Codes kIq4Codes = [] {
  Iq4Codes codes{};
  for (int i = 0; i < 16; ++i) codes.v[i] = static_cast<uint8_t>(kIq4Values[i] + 128);
  return codes;
}();

template <class F, class Tag>
struct GroupWeights {
  using I = I32x16<Tag>;
  using Fl = F32x16<Tag>;
  using Layout = PackedLayout<F>;
  static constexpr int kHalves = F::kHalves ? 2 : 1;

  I codes[8];
  Fl scale[kHalves];  ///< d * scale, exact
  Fl min[kHalves];    ///< -(dmin * min), exact; only with kHasMin

  [[gnu::always_inline]] static I line(const std::byte* lines, int i) {
    return I::load(reinterpret_cast<const int32_t*>(lines + i * kLineBytes));
  }

  [[gnu::always_inline]] void load_codes(const std::byte* lines) {
    const I low4 = I::broadcast(0x0f0f0f0f);
    const I low2 = I::broadcast(0x03030303);
    if constexpr (F::kBits == 8) {
      for (int v = 0; v < 8; ++v) codes[v] = line(lines, v);
    } else if constexpr (F::kBits >= 4) {
      for (int v = 0; v < 4; ++v) {
        const I both = line(lines, v);
        codes[v] = both & low4;
        codes[v + 4] = shift_right<4>(both) & low4;
      }
    } else {
      for (int k = 0; k < 2; ++k) {
        const I four = line(lines, k);
        codes[4 * k] = four & low2;
        codes[4 * k + 1] = shift_right<2>(four) & low2;
        codes[4 * k + 2] = shift_right<4>(four) & low2;
        codes[4 * k + 3] = shift_right<6>(four) & low2;
      }
    }
    if constexpr (F::kBits == 5 || F::kBits == 3) add_high_bit(line(lines, F::kBits - 1));
    if constexpr (F::kBits == 6) {
      add_high_pairs<0>(line(lines, 4));
      add_high_pairs<4>(line(lines, 5));
    }
    if constexpr (F::kTable) {
      for (int v = 0; v < 8; ++v) codes[v] = lookup(kIq4Codes.v, codes[v]);
    }
  }

  /// Bit v of each byte becomes the top bit of codes[v].
  [[gnu::always_inline]] void add_high_bit(I bits) {
    constexpr int kTo = F::kBits - 1;
    const I mask = I::broadcast(0x01010101 << kTo);
    codes[0] = codes[0] | (shift_left<kTo>(bits) & mask);
    codes[1] = codes[1] | (shift_left<kTo - 1>(bits) & mask);
    if constexpr (kTo == 4) {
      codes[2] = codes[2] | (shift_left<2>(bits) & mask);
      codes[3] = codes[3] | (shift_left<1>(bits) & mask);
      codes[4] = codes[4] | (bits & mask);
      codes[5] = codes[5] | (shift_right<1>(bits) & mask);
      codes[6] = codes[6] | (shift_right<2>(bits) & mask);
      codes[7] = codes[7] | (shift_right<3>(bits) & mask);
    } else {
      codes[2] = codes[2] | (bits & mask);
      codes[3] = codes[3] | (shift_right<1>(bits) & mask);
      codes[4] = codes[4] | (shift_right<2>(bits) & mask);
      codes[5] = codes[5] | (shift_right<3>(bits) & mask);
      codes[6] = codes[6] | (shift_right<4>(bits) & mask);
      codes[7] = codes[7] | (shift_right<5>(bits) & mask);
    }
  }

  /// Bits 2i, 2i + 1 of each byte become bits 4, 5 of codes[kFirst + i].
  template <int kFirst>
  [[gnu::always_inline]] void add_high_pairs(I pairs) {
    const I mask = I::broadcast(0x30303030);
    codes[kFirst] = codes[kFirst] | (shift_left<4>(pairs) & mask);
    codes[kFirst + 1] = codes[kFirst + 1] | (shift_left<2>(pairs) & mask);
    codes[kFirst + 2] = codes[kFirst + 2] | (pairs & mask);
    codes[kFirst + 3] = codes[kFirst + 3] | (shift_right<2>(pairs) & mask);
  }

  /// g: the group's index in the segment.
  [[gnu::always_inline]] void load_scales(const std::byte* segment, int g) {
    const std::byte* own = segment + Layout::scales_offset(g);
    const auto* halves = reinterpret_cast<const uint16_t*>(F::kSubScales ? segment : own);
    const Fl d = Fl::load_f16(halves);
    if constexpr (!F::kSubScales) {
      scale[0] = d;
      if constexpr (F::kHasMin) min[0] = -Fl::load_f16(halves + 16);
      return;
    }
    const auto* bytes = reinterpret_cast<const int8_t*>(own);
    if constexpr (Layout::kMinInScaleByte) {
      const Fl negative = -Fl::load_f16(halves + 16);
      for (int half = 0; half < kHalves; ++half) {
        const I packed = I::load_u8(reinterpret_cast<const uint8_t*>(bytes) + 16 * half);
        scale[half] = d * to_float(packed & I::broadcast(15));
        min[half] = negative * to_float(shift_right<4>(packed));
      }
    } else {
      for (int half = 0; half < kHalves; ++half) scale[half] = d * to_float(I::load_i8(bytes + 16 * half));
      if constexpr (F::kHasMin) min[0] = -Fl::load_f16(halves + 16) * to_float(I::load_i8(bytes + 16));
    }
  }
};

}  // namespace tandem
