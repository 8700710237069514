// A packed group, taken apart into registers: eight vectors of codes (16 rows × 4 columns each) and the
// scales that go with them. The inverse of ops/cpu/packed_matrix.cpp, sixteen rows at a time.
#pragma once

#include "ops/cpu/kernels/matmul_dot.h"
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

/// A group where it lies. Codes are unpacked when they are asked for, a vector at a time.
template <class F, class Tag>
struct GroupWeights {
  using I = I32x16<Tag>;
  using Fl = F32x16<Tag>;
  using Layout = PackedLayout<F>;

  const std::byte* lines;
  const std::byte* scales;  ///< its own

  /// g: the group's index in the segment.
  [[gnu::always_inline]] GroupWeights(const std::byte* segment, int g)
      : lines(segment + Layout::lines_offset(g)), scales(segment + Layout::scales_offset(g)) {}

  /// The codes of the columns from 4 * kV on. See ops/cpu/packed_layout.h.
  template <int kV>
  [[gnu::always_inline]] I codes() const {
    if constexpr (F::kTable) return lookup(kIq4Codes.v, packed_codes<kV>());
    return packed_codes<kV>();
  }

  /// The sub-scales as integers.
  [[gnu::always_inline]] I scale(int half) const {
    if constexpr (Layout::kMinInScaleByte) return scale_bytes(half) & I::broadcast(15);
    return I::load_i8(reinterpret_cast<const int8_t*>(scales) + 16 * half);
  }
  /// The sub-minima, where there are any.
  [[gnu::always_inline]] Fl min(int half) const {
    if constexpr (Layout::kMinInScaleByte) return to_float(shift_right<4>(scale_bytes(half)));
    return to_float(scale_bytes(1));
  }

 private:
  [[gnu::always_inline]] I scale_bytes(int vector) const {
    return I::load_u8(reinterpret_cast<const uint8_t*>(scales) + 16 * vector);
  }
  [[gnu::always_inline]] I line(int i) const {
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

  template <int kV>
  [[gnu::always_inline]] I packed_codes() const {
    if constexpr (F::kBits == 8) {
      return line(kV);
    } else if constexpr (F::kBits == 2) {
      return bits<kV % 4 * 2, 3>(line(kV / 4));
    } else if constexpr (kV < F::kBits) {
      return bits<0, (1 << F::kBits) - 1>(line(kV));
    } else if constexpr (F::kBits == 4) {
      return bits<4, 15>(line(kV - 4));
    } else {
      return gathered_codes<kV>();
    }
  }
  /// Those whose bits lie above the others', in the formats of 3, 5 and 6 bits.
  template <int kV>
  [[gnu::always_inline]] I gathered_codes() const {
    if constexpr (F::kBits == 3 && kV < 6) {
      return bits<3, 7>(line(kV - 3));
    } else if constexpr (F::kBits == 3) {
      return more_bits<kV - 2, 4>(bits<6, 3>(line(kV - 6)), line(2));
    } else if constexpr (F::kBits == 6) {
      constexpr int kFirst = kV == 6 ? 0 : 3;
      return more_bits<2, 48>(more_bits<4, 12>(bits<6, 3>(line(kFirst)), line(kFirst + 1)), line(kFirst + 2));
    } else if constexpr (kV == 5) {
      return more_bits<2, 24>(bits<5, 7>(line(0)), line(1));
    } else if constexpr (kV == 6) {
      return more_bits<1, 16>(more_bits<4, 14>(bits<7, 1>(line(1)), line(2)), line(3));
    } else {
      return more_bits<3, 28>(bits<6, 3>(line(3)), line(4));
    }
  }
};

/// d, and dmin with its sign turned, of the group or segment that they belong to.
template <class F, class Tag>
struct BlockScales {
  using Fl = F32x16<Tag>;
  const uint16_t* halves;

  [[gnu::always_inline]] BlockScales(const std::byte* segment, int g)
      : halves(reinterpret_cast<const uint16_t*>(
            F::kSubScales ? segment : segment + PackedLayout<F>::scales_offset(g))) {}
  [[gnu::always_inline]] Fl d() const { return Fl::load_f16(halves); }
  [[gnu::always_inline]] Fl negative_dmin() const { return -Fl::load_f16(halves + 16); }
};

}  // namespace tandem
