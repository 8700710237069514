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

  /// Every byte's bits of kMask, after moving all down by kShift.
  template <int kShift, int kMask>
  [[gnu::always_inline]] static I bits(I word) {
    if constexpr (kShift == 0) return word & I::broadcast(kMask * 0x01010101);
    return shift_right<kShift>(word) & I::broadcast(kMask * 0x01010101);
  }
  /// The same, or into.
  template <int kShift, int kMask>
  [[gnu::always_inline]] static I more_bits(I into, I word) {
    return or_masked(into, shift_right<kShift>(word), I::broadcast(kMask * 0x01010101));
  }

  /// See ops/cpu/packed_layout.h.
  [[gnu::always_inline]] void load_codes(const std::byte* lines) {
    I w[F::kBits];
    for (int v = 0; v < F::kBits; ++v) {
      w[v] = line(lines, v);
      codes[v] = F::kBits == 8 ? w[v] : bits<0, (1 << F::kBits % 8) - 1>(w[v]);
    }
    if constexpr (F::kBits == 2) {
      for (int k = 0; k < 2; ++k) {
        codes[4 * k + 3] = bits<6, 3>(w[k]);
        codes[4 * k + 2] = bits<4, 3>(w[k]);
        codes[4 * k + 1] = bits<2, 3>(w[k]);
        codes[4 * k] = bits<0, 3>(w[k]);
      }
    } else if constexpr (F::kBits == 3) {
      for (int v = 0; v < 3; ++v) codes[v + 3] = bits<3, 7>(w[v]);
      codes[6] = more_bits<4, 4>(bits<6, 3>(w[0]), w[2]);
      codes[7] = more_bits<5, 4>(bits<6, 3>(w[1]), w[2]);
    } else if constexpr (F::kBits == 4) {
      for (int v = 0; v < 4; ++v) codes[v + 4] = bits<4, 15>(w[v]);
    } else if constexpr (F::kBits == 5) {
      codes[5] = more_bits<2, 24>(bits<5, 7>(w[0]), w[1]);
      codes[6] = more_bits<1, 16>(more_bits<4, 14>(bits<7, 1>(w[1]), w[2]), w[3]);
      codes[7] = more_bits<3, 28>(bits<6, 3>(w[3]), w[4]);
    } else if constexpr (F::kBits == 6) {
      for (int k = 0; k < 2; ++k) {
        codes[6 + k] = more_bits<2, 48>(more_bits<4, 12>(bits<6, 3>(w[3 * k]), w[3 * k + 1]), w[3 * k + 2]);
      }
    }
    if constexpr (F::kTable) {
      for (int v = 0; v < 8; ++v) codes[v] = lookup(kIq4Codes.v, codes[v]);
    }
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
