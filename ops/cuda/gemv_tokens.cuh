// What the GEMV kernels (gemv_kernel.cuh) for several tokens multiply by: activations as a tensor core's
// right operand, held in registers for as long as a warp stays with a segment (gemv_walk.h), or read for each
// unit.
//
// The operand (k × 8, column n in lanes 4 n … 4 n + 3) holds tokens by two: column 2 q + t is the pair's
// token t's, but zero outside quarter q. So of a product with two tiles' words, lane l gets the sums over its
// own quarter's columns, of its own rows and both tokens: what it has the scales for.
#pragma once

#include "ops/cuda/gemv_device.cuh"
#include "ops/cuda/mma.cuh"

namespace tandem::cuda::device {

/// Whether this code has products of bytes by tensor cores.
#if __CUDA_ARCH__ >= 800
inline constexpr bool kMultipliesBytes = true;
#else
inline constexpr bool kMultipliesBytes = false;
#endif

/// Whether the operand's column that this lane gives words of is its quarter's.
__device__ inline bool is_own_quarter(int lane) {
  return lane / (2 * kQuad) == lane % kQuad;
}

/// A segment's activations in registers, and their scales and sums in shared memory, a warp's own.
template <int kTokens, bool kWide>
class HeldTokens {
 public:
  static constexpr int kPitch = (ActLayout::kLow - ActLayout::kMeta) / 4;  ///< a token's, in floats
  static constexpr int kFloats = kTokens * kPitch;                         ///< shared memory of a warp

  __device__ HeldTokens(float* shared, int lane) : shared_(shared), lane_(lane) {}

  /// A segment's, whose records are `offset` bytes behind the first.
  __device__ void load(const GemvArgs& args, int offset) {
    const auto record = [&](int t) { return args.x + min(t, args.n_tokens - 1) * args.x_stride + offset; };
    const bool mine = is_own_quarter(lane_);
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
      reinterpret_cast<float4*>(shared_)[lane_] =
          *reinterpret_cast<const float4*>(record(lane_ / kPieces) + ActLayout::kMeta + lane_ % kPieces * 16);
    }
    __syncwarp();
  }
  /// The words of group g, of pair i's high (0) or low plane.
  __device__ void words(uint32_t (&out)[8], int plane, int i, int g) const {
#pragma unroll
    for (int v = 0; v < 8; ++v) out[v] = words_[plane][i][8 * g + v];
  }
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

/// What lanes read that have nothing of their quarter: a record's worth.
template <int kBytes>
__device__ const uint4 kNothing[kBytes / 16] = {};

/// Two tokens' activations where they lie. As HeldTokens to those who read them.
class PairRecords {
 public:
  __device__ PairRecords(const Records<2>& records, int lane)
      : records_(records), lane_(lane), mine_(is_own_quarter(lane)) {
    const std::byte* record = lane / kQuad % 2 == 0 ? records.p[0] : records.p[1];
    p_ = mine_ ? record + lane % kQuad * 16
               : reinterpret_cast<const std::byte*>(kNothing<ActLayout::kQ15Bytes>);
  }

  /// A segment's, whose records are `offset` bytes behind the first.
  __device__ void move_to(int offset) { offset_ = offset; }
  __device__ void words(uint32_t (&out)[8], int plane, int /*pair*/, int g) const {
    load_plane<8>(out,
                  p_ + (mine_ ? offset_ : 0) + (plane == 0 ? ActLayout::kHigh : ActLayout::kLow) + 128 * g);
  }
  __device__ float2 meta(int t, int g) const {
    return *reinterpret_cast<const float2*>(records_.p[t] + offset_ + ActLayout::kMeta + lane_ % kQuad * 16 +
                                            8 * g);
  }
  __device__ float first(int t, int g) const {
    return *reinterpret_cast<const float*>(records_.p[t] + offset_ + ActLayout::kFirst + lane_ % kQuad * 8 +
                                           4 * g);
  }

 private:
  const Records<2>& records_;
  int lane_;
  bool mine_;
  const std::byte* p_;  ///< this lane's token and quarter, the high plane; or kNothing
  int offset_ = 0;
};

/// out = Σ over a lane's 64 products of each row and token: consume()'s, to the bit, by tensor cores:
/// integers first, then the same float operations. `x`: HeldTokens or PairRecords.
template <QuantFormat F, int kTokens, bool kWide, class Input>
__device__ inline void multiply_pairs(const Lane<F> (&lanes)[2], const Input& x, int lane,
                                      float (&out)[2][kTokens]) {
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
        uint32_t in[8];
        x.words(in, plane, t / 2, g);
#pragma unroll
        for (int v = 0; v < 8; v += 2) {
          mma_bytes<detail::kSigned<F>>(to[F::kHalves ? v / 4 : 0], words[0][v], words[1][v], words[0][v + 1],
                                        words[1][v + 1], in[v], in[v + 1]);
        }
      };
      multiply(dot, 0);
      if constexpr (kWide) multiply(dot_low, 1);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float2 meta = x.meta(t + c, g);
        float first = 0;
        if constexpr (F::kHalves && F::kHasMin) first = x.first(t + c, g);
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

/// out = Σ over a lane's 64 products of each row and token.
template <QuantFormat F, int kTokens, bool kWide>
__device__ inline void multiply_held(const Lane<F> (&lanes)[2], const HeldTokens<kTokens, kWide>& held,
                                     int lane, float (&out)[2][kTokens]) {
  multiply_pairs<F, kTokens, kWide>(lanes, held, lane, out);
}

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
