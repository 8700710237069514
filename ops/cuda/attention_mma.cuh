// How attention by tensor cores (attention_mma_core.cuh) is cut, and what a lane holds of a tile of 16
// positions.
#pragma once

#include "ops/cuda/attention_device.cuh"
#include "ops/cuda/mma.cuh"

namespace tandem::cuda {
namespace device {

constexpr int kTile = 16;  ///< positions

__device__ inline void load_words(uint32_t (&out)[4], const std::byte* p) {
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "l"(p));
}
__device__ inline void load_words(uint32_t (&out)[2], const std::byte* p) {
  asm volatile("ld.global.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(out[0]), "=r"(out[1]) : "l"(p));
}
__device__ inline void load_words(uint32_t (&out)[1], const std::byte* p) {
  asm volatile("ld.global.L1::no_allocate.u32 %0, [%1];" : "=r"(out[0]) : "l"(p));
}

/// An 8 × 8 matrix of halves, a lane two neighbours of a row: its transpose.
__device__ inline uint32_t transposed(uint32_t x) {
#if __CUDA_ARCH__ >= 750
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(x));
#endif
  return x;
}

__device__ inline void load_half(uint32_t& out, const std::byte* p) {
  uint16_t half;
  asm volatile("ld.global.L1::no_allocate.u16 %0, [%1];" : "=h"(half) : "l"(p));
  out = half;
}

/// The first or last two of four int8 codes as halves, exactly.
template <int kPair>
__device__ inline __half2 halves_of(uint32_t codes) {
  constexpr uint32_t kSelect = kPair == 0 ? 0x4140 : 0x4342;
  const uint32_t bits = __byte_perm(codes ^ 0x80808080U, 0x64646464U, kSelect);  // 1024 + 128 + code
  return __hsub2(*reinterpret_cast<const __half2*>(&bits), __float2half2_rn(1152.0F));
}

/// Codes of q8_0 whose scale is larger don't fit halves when multiplied; this many times smaller all do.
/// (Those of q4_0, whose scales may be negative, would fit up to 8188: one rule for both.)
inline constexpr float kLargestScale = 500.0F;
inline constexpr float kShrink = 256.0F;

__device__ inline bool is_large_scale(uint32_t half_bits) {
  constexpr uint32_t kMost = 0x5fd0;  // kLargestScale as a half
  static_assert(kLargestScale == 500.0F);
  return (half_bits & 0x7fffU) > kMost;
}

/// Four codes times their scale, 1 / kShrink of it where `shrunk`. scale: a half
__device__ inline void scaled_halves(uint32_t (&out)[2], uint32_t codes, uint32_t scale, bool shrunk) {
  const __half2 small = __float2half2_rn(shrunk ? 0.0625F : 1.0F);
  const __half2 d = __hmul2(__half2half2(__ushort_as_half(static_cast<uint16_t>(scale))), small);
  out[0] = bits_of(__hmul2(__hmul2(halves_of<0>(codes), small), d));
  out[1] = bits_of(__hmul2(__hmul2(halves_of<1>(codes), small), d));
}

template <int kDimIn, int kHeadTilesIn, CudaKvType kTypeIn>
struct MmaShape {
  static constexpr int kDim = kDimIn;
  static constexpr int kHeadTiles = kHeadTilesIn;
  static constexpr CudaKvType kType = kTypeIn;  ///< of the cache, not f32
  static constexpr int kHeads = 8 * kHeadTiles;
  static constexpr int kWarps = kDim <= 96 && kHeadTiles == 1 ? 16 : 8;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kVectors = (2 * kDim + kThreads - 1) / kThreads;  ///< of four columns, a head tile
  static constexpr int kRegs = (kDim + 31) / 32;
  /// From one query's halves to the next's: 64 modulo 128 bytes, so that 8 lanes' 16 bytes don't collide.
  static constexpr int kQueryBytes = 2 * kDim / 128 * 128 + (2 * kDim % 128 > 64 ? 192 : 64);
  static constexpr int kSumStride = kDim + 4;
  static_assert(kQueryBytes >= 2 * kDim && kQueryBytes % 128 == 64);

  struct alignas(16) Shared {
    std::byte high[kHeads][kQueryBytes];
    std::byte low[kHeads][kQueryBytes];
    std::byte key[2 * kDim];  ///< that this block appends: halves, or codes and behind them scales
    std::byte value[2 * kDim];
    float exponent[kHeads];  ///< the power of two in front of a query
    alignas(16) float warp_max[kHeads][kWarps];
    alignas(16) float warp_sum[kHeads][kWarps];
    float max[kHeads];
    float sum[kHeads];
    uint32_t last;
    alignas(16) float sums[kWarps][8][kSumStride];  ///< of a head tile; before that the warps' rows
  };
};

/// The keys of a tile: lane (g, c) = (lane / 4, lane % 4) holds of the positions g and g + 8 the elements
/// 32 j + 8 c … + 7, and of a last half of 16 the elements 4 c … + 3.
template <int kDim>
struct KeyTile {
  static constexpr int kFull = kDim / 32;
  static constexpr bool kHalf = kDim % 32 != 0;
  uint32_t words[2][kFull][4];
  uint32_t rest[2][2];

  template <int kRow, class Load>
  __device__ void fill(const std::byte* row, int c, const Load& load) {
#pragma unroll
    for (int j = 0; j < kFull; ++j) load(words[kRow][j], row + 64 * j + 16 * c);
    if constexpr (kHalf) load(rest[kRow], row + 64 * kFull + 8 * c);
  }
};

/// The values of a tile: lane (g, c) holds of the positions 2c, 2c + 1, 2c + 8, 2c + 9 the columns 64 u + 8 g
/// … + 7, and of what is left over 32 + 16: 4 g … + 3, 2 g … + 1.
template <int kDim>
struct ValueTile {
  static constexpr int kFull = kDim / 64;
  static constexpr bool kHas32 = kDim % 64 >= 32;
  static constexpr bool kHas16 = kDim % 32 != 0;
  static constexpr int kAt32 = 64 * kFull;
  static constexpr int kAt16 = kAt32 + (kHas32 ? 32 : 0);
  uint32_t words[4][kFull > 0 ? kFull : 1][4];
  uint32_t of32[4][2];
  uint32_t of16[4][1];

  template <int kRow, class Load>
  __device__ void fill(const std::byte* row, int g, const Load& load) {
#pragma unroll
    for (int u = 0; u < kFull; ++u) load(words[kRow][u], row + 128 * u + 16 * g);
    if constexpr (kHas32) load(of32[kRow], row + 2 * kAt32 + 8 * g);
    if constexpr (kHas16) load(of16[kRow], row + 2 * kAt16 + 4 * g);
  }
};

struct LoadGlobal {
  template <int n>
  __device__ void operator()(uint32_t (&out)[n], const std::byte* p) const {
    load_words(out, p);
  }
  __device__ void half(uint32_t& out, const std::byte* p) const { load_half(out, p); }
};
struct LoadShared {
  template <int n>
  __device__ void operator()(uint32_t (&out)[n], const std::byte* p) const {
#pragma unroll
    for (int i = 0; i < n; ++i) out[i] = reinterpret_cast<const uint32_t*>(p)[i];
  }
  __device__ void half(uint32_t& out, const std::byte* p) const {
    out = *reinterpret_cast<const uint16_t*>(p);
  }
};
struct SetZero {
  template <int n>
  __device__ void operator()(uint32_t (&out)[n], const std::byte* /*p*/) const {
#pragma unroll
    for (int i = 0; i < n; ++i) out[i] = 0;
  }
  __device__ void half(uint32_t& out, const std::byte* /*p*/) const {
    out = 0;
  }
};

}  // namespace device
}  // namespace tandem::cuda
