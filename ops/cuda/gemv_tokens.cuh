// What the GEMV kernels for two and four tokens (gemv_kernel.cuh) multiply by: activations that a warp holds
// in registers for as long as it stays with a segment (gemv_walk.h), and tensor cores.
#pragma once

#include "ops/cuda/gemv_device.cuh"

namespace tandem::cuda::device {

/// Whether this code has products of bytes by tensor cores.
#if __CUDA_ARCH__ >= 800
inline constexpr bool kMultipliesBytes = true;
#else
inline constexpr bool kMultipliesBytes = false;
#endif

/// A segment's activations in registers, and their scales and sums in shared memory, a warp's own.
/// Registers: tokens by two as a tensor core's right operand (k × 8, column n in lanes 4 n … 4 n + 3): column
/// 2 q + t is the pair's token t's, but zero outside quarter q. So of a product with two tiles' words, lane l
/// gets the sums over its own quarter's columns, of its own rows and both tokens: what it has the scales for.
template <int kTokens, bool kWide>
class HeldTokens {
 public:
  static constexpr int kPitch = (ActLayout::kLow - ActLayout::kMeta) / 4;  ///< a token's, in floats
  static constexpr int kFloats = kTokens * kPitch;                         ///< shared memory of a warp

  __device__ HeldTokens(float* shared, int lane) : shared_(shared), lane_(lane) {}

  /// A segment's, whose records are `offset` bytes behind the first.
  __device__ void load(const GemvArgs& args, int offset) {
    const auto record = [&](int t) {
      return args.x + min(t, args.n_tokens - 1) * args.x_stride + offset;
    };
    const bool mine = lane_ / (2 * kQuad) == lane_ % kQuad;
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
      const std::byte* p = record(2 * i + lane_ / kQuad % 2) + lane_ % kQuad * 16;
#pragma unroll
      for (int plane = 0; plane < (kWide ? 2 : 1); ++plane) {
#pragma unroll
        for (int v = 0; v < 16; ++v) words_[plane][i][v] = 0;
        if (mine) load_plane<16>(words_[plane][i], p + (plane == 0 ? ActLayout::kHigh : ActLayout::kLow));
      }
    }
    constexpr int kPieces = kPitch / 4;  // of 16 bytes
    static_assert(kTokens * kPieces <= 32);
    __syncwarp();
    if (lane_ < kTokens * kPieces) {
      reinterpret_cast<float4*>(shared_)[lane_] = *reinterpret_cast<const float4*>(
          record(lane_ / kPieces) + ActLayout::kMeta + lane_ % kPieces * 16);
    }
    __syncwarp();
  }
  /// Word v of group g, of the pair i's high (0) or low plane.
  __device__ uint32_t word(int plane, int i, int g, int v) const { return words_[plane][i][8 * g + v]; }
  /// Scale and scaled sum of token t and this lane's group g.
  __device__ float2 meta(int t, int g) const {
    return *reinterpret_cast<const float2*>(shared_ + t * kPitch + lane_ % kQuad * 4 + 2 * g);
  }
  /// Scaled sum of the group's first half.
  __device__ float first(int t, int g) const {
    constexpr int kFirst = (ActLayout::kFirst - ActLayout::kMeta) / 4;
    return shared_[t * kPitch + kFirst + lane_ % kQuad * 2 + g];
  }

 private:
  uint32_t words_[kWide ? 2 : 1][kTokens / 2][16];
  float* shared_;
  int lane_;
};

/// out = Σ over a lane's 64 products of each row and token: consume()'s, to the bit, by tensor cores: integers
/// first, then the same float operations.
template <QuantFormat F, int kTokens, bool kWide>
__device__ inline void multiply_held(const Lane<F> (&lanes)[2], const HeldTokens<kTokens, kWide>& held,
                                     int lane, float (&out)[2][kTokens]) {
  constexpr int kHalves = F::kHalves ? 2 : 1;
  const LaneScales scales[2] = {scales_of<F>(lanes[0], lane), scales_of<F>(lanes[1], lane)};
  LaneSum sums[2][kTokens];
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    uint32_t words[2][8];
#pragma unroll
    for (int v = 0; v < 8; ++v) {
      words[0][v] = weight_word<F>(lanes[0].codes, g, v);
      words[1][v] = weight_word<F>(lanes[1].codes, g, v);
    }
#pragma unroll
    for (int t = 0; t < kTokens; t += 2) {
      int dot[kHalves][4] = {};
      int dot_low[kHalves][4] = {};
      const auto multiply = [&](int(&to)[kHalves][4], int plane) {
#pragma unroll
        for (int v = 0; v < 8; v += 2) {
          mma_bytes<detail::kSigned<F>>(to[F::kHalves ? v / 4 : 0], words[0][v], words[1][v], words[0][v + 1],
                                        words[1][v + 1], held.word(plane, t / 2, g, v),
                                        held.word(plane, t / 2, g, v + 1));
        }
      };
      multiply(dot, 0);
      if constexpr (kWide) multiply(dot_low, 1);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float2 meta = held.meta(t + c, g);
        float first = 0;
        if constexpr (F::kHalves && F::kHasMin) first = held.first(t + c, g);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          int whole[2] = {dot[0][2 * r + c], dot[kHalves - 1][2 * r + c]};
          if constexpr (kHalves == 1) whole[1] = 0;
          if constexpr (kWide) {
            whole[0] = 128 * whole[0] + dot_low[0][2 * r + c];
            if constexpr (kHalves == 2) whole[1] = 128 * whole[1] + dot_low[1][2 * r + c];
          }
          add_group<F, kWide>(sums[r][t + c], scales[r], g, whole, meta.x, meta.y, first);
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) out[r][t] = sum_of<F>(sums[r][t], scales[r]);
  }
}

/// Stands for HeldTokens where there are no such tensor cores: activations are read for each unit.
template <int kTokens, bool kWide>
class ReadTokens {
 public:
  __device__ ReadTokens(float* /*shared*/, int /*lane*/) {}
  __device__ void load(const GemvArgs& args, int offset) {
    args_ = &args;
    offset_ = offset;
  }

  const GemvArgs* args_ = nullptr;
  int offset_ = 0;
};

template <QuantFormat F, int kTokens, bool kWide>
__device__ inline void multiply_held(const Lane<F> (&lanes)[2], const ReadTokens<kTokens, kWide>& read,
                                     int lane, float (&out)[2][kTokens]) {
  const Records<kTokens> records(*read.args_);
  LaneInput<F, kWide> input;
  input.load(records.p[0] + read.offset_, lane % kQuad);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) out[r][t] = 0;
  }
  consume<F, kTokens, kWide, 2>(lanes, input, records, read.offset_, lane, out);
}

}  // namespace tandem::cuda::device
