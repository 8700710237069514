// What a lane holds of a tile of 16 positions of a q8_0 or q4_0 cache, in the order of attention_mma.cuh:
// codes, which become halves when they are used, and the scales of the positions' groups of 32. A lane's
// eight neighbours are two words of q8_0, or one of q4_0 as it is loaded: its nibbles are parted when they
// are used.
#pragma once

#include "ops/cuda/attention_mma.cuh"

namespace tandem::cuda::device {

/// The scales of a position's groups: halves, two a word where their number is even.
template <int kDim>
struct GroupScales {
  static constexpr int kGroups = (kDim + kKvGroup - 1) / kKvGroup;
  static constexpr bool kPairs = kGroups % 2 == 0;
  static constexpr int kWords = kPairs ? kGroups / 2 : kGroups;
  uint32_t words[kWords];

  template <class Load>
  __device__ void fill(const std::byte* scales, const Load& load) {
    if constexpr (kPairs) {
      load(words, scales);
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) load.half(words[i], scales + 2 * i);
    }
  }
  /// The half's bits of group `first` or, where `second`, of the next one.
  __device__ uint32_t bits(int first, bool second) const {
    if constexpr (kPairs)
      return first % 2 == 0 ? words[first / 2] >> (second ? 16 : 0) & 0xffffU : words[first / 2] >> 16;
    return second ? words[first + 1] : words[first];
  }
  __device__ float scale(int group) const {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(bits(group, false))));
  }
  __device__ bool is_large() const {
    bool large = false;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) large |= is_large_scale(bits(i, false));
    return large;
  }
};

/// Eight neighbours of a row, as they were loaded.
template <CudaKvType kType>
struct alignas(kType == CudaKvType::q4_0 ? 4 : 8) EightCodes {
  static constexpr bool kNibbles = kType == CudaKvType::q4_0;
  static constexpr int kBytes = kNibbles ? 4 : 8;
  uint32_t words[kBytes / 4];

  /// The first or the last four, as int8.
  template <int kHalf>
  __device__ uint32_t four() const {
    if constexpr (kNibbles) {
      return codes_of_nibbles(words[0], kHalf == 1);
    } else {
      return words[kHalf];
    }
  }
};

/// Four neighbours, or two: the first, second … of a row's end. q4_0: as they lie among their eight.
template <CudaKvType kType>
struct FourCodes {
  static constexpr bool kNibbles = kType == CudaKvType::q4_0;
  uint32_t words[1];

  /// Of fours.
  __device__ static int offset(int number) { return kNibbles ? number / 2 * 4 : number * 4; }
  template <class Load>
  __device__ void load_four(const std::byte* end, int number, const Load& load) {
    load(words, end + offset(number));
  }
  /// number: of twos
  template <class Load>
  __device__ void load_two(const std::byte* end, int number, const Load& load) {
    load.half(words[0], end + offset(number / 2) + number % 2 * 2);
  }
  /// As int8. four: the number of the four
  __device__ uint32_t codes(int four) const {
    return kNibbles ? codes_of_nibbles(words[0], four % 2 == 1) : words[0];
  }
};

template <int kDim, CudaKvType kType>
struct CodedKeyTile {
  static constexpr int kFull = kDim / 32;
  static constexpr bool kHalf = kDim % 32 != 0;
  static constexpr int kRestAt = kv_row_bytes(kType, 32 * kFull);
  EightCodes<kType> codes[2][kFull];
  FourCodes<kType> rest[2];
  GroupScales<kDim> scales[2];

  template <int kRow, class Load>
  __device__ void fill(const std::byte* row, const std::byte* scale_row, int c, const Load& load) {
#pragma unroll
    for (int j = 0; j < kFull; ++j) load(codes[kRow][j].words, row + EightCodes<kType>::kBytes * (4 * j + c));
    if constexpr (kHalf) rest[kRow].load_four(row + kRestAt, c, load);
    scales[kRow].fill(scale_row, load);
  }

  /// out += scales · dots, those of 32 elements or of the last 16.
  __device__ void add_group(float (&out)[4], int group, const float (&dots)[4]) const {
    const float of[2] = {scales[0].scale(group), scales[1].scale(group)};
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = __fmaf_rn(dots[i], of[i / 2], out[i]);
  }
  /// The dots of four elements of a lane's codes with two words of the query.
  static __device__ void dot(float (&out)[4], uint32_t a, uint32_t b, uint32_t q0, uint32_t q1) {
    mma(out, bits_of(halves_of<0>(a)), bits_of(halves_of<0>(b)), bits_of(halves_of<1>(a)),
        bits_of(halves_of<1>(b)), q0, q1);
  }
  /// Scores of a tile, before the queries' exponents. high, low: of the lane's query, as MmaCore has them
  __device__ void score(float (&out)[4], const std::byte* high, const std::byte* low, int c) const {
#pragma unroll
    for (float& x : out) x = 0;
#pragma unroll
    for (int j = 0; j < kFull; ++j) {
      const uint4 h = *reinterpret_cast<const uint4*>(high + 64 * j + 16 * c);
      const uint4 l = *reinterpret_cast<const uint4*>(low + 64 * j + 16 * c);
      float dots[4] = {};
      const uint32_t a[2] = {codes[0][j].template four<0>(), codes[0][j].template four<1>()};
      const uint32_t b[2] = {codes[1][j].template four<0>(), codes[1][j].template four<1>()};
      dot(dots, a[0], b[0], l.x, l.y);
      dot(dots, a[1], b[1], l.z, l.w);
      dot(dots, a[0], b[0], h.x, h.y);
      dot(dots, a[1], b[1], h.z, h.w);
      add_group(out, j, dots);
    }
    if constexpr (kHalf) {
      const uint2 h = *reinterpret_cast<const uint2*>(high + 64 * kFull + 8 * c);
      const uint2 l = *reinterpret_cast<const uint2*>(low + 64 * kFull + 8 * c);
      float dots[4] = {};
      dot(dots, rest[0].codes(c), rest[1].codes(c), l.x, l.y);
      dot(dots, rest[0].codes(c), rest[1].codes(c), h.x, h.y);
      add_group(out, kFull, dots);
    }
  }
};

template <int kDim, CudaKvType kType>
struct CodedValueTile {
  using Plain = ValueTile<kDim>;
  EightCodes<kType> codes[4][Plain::kFull > 0 ? Plain::kFull : 1];
  FourCodes<kType> of32[4];
  FourCodes<kType> of16[4];  ///< two codes
  GroupScales<kDim> scales[4];

  template <int kRow, class Load>
  __device__ void fill(const std::byte* row, const std::byte* scale_row, int g, const Load& load) {
#pragma unroll
    for (int u = 0; u < Plain::kFull; ++u)
      load(codes[kRow][u].words, row + EightCodes<kType>::kBytes * (8 * u + g));
    if constexpr (Plain::kHas32) of32[kRow].load_four(row + kv_row_bytes(kType, Plain::kAt32), g, load);
    if constexpr (Plain::kHas16) of16[kRow].load_two(row + kv_row_bytes(kType, Plain::kAt16), g, load);
    scales[kRow].fill(scale_row, load);
  }

  __device__ bool has_large() const {
    bool large = false;
#pragma unroll
    for (const auto& scale : scales) large |= scale.is_large();
    return large;
  }
  /// As the halves that a ValueTile holds, columns 64 u and on, of one position.
  __device__ void decode(uint32_t (&out)[4], int position, int u, int g, bool shrunk) const {
    const uint32_t scale = scales[position].bits(2 * u, g >= 4);
    uint32_t half[2];
    scaled_halves(half, codes[position][u].template four<0>(), scale, shrunk);
    out[0] = half[0];
    out[1] = half[1];
    scaled_halves(half, codes[position][u].template four<1>(), scale, shrunk);
    out[2] = half[0];
    out[3] = half[1];
  }
  /// All positions, as a ValueTile.
  __device__ void decode_rest(Plain& out, int g, bool shrunk) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (Plain::kHas32)
        scaled_halves(out.of32[i], of32[i].codes(g), scales[i].bits(Plain::kAt32 / kKvGroup, false), shrunk);
      if constexpr (Plain::kHas16) {
        uint32_t half[2];
        scaled_halves(half, of16[i].codes(g / 2), scales[i].bits(Plain::kAt16 / kKvGroup, false), shrunk);
        out.of16[i][0] = half[0];
      }
    }
  }
};

}  // namespace tandem::cuda::device
