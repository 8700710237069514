// What the GEMV kernels (gemv_kernel.cuh) for several tokens multiply by: activations as a tensor core's
// right operand, held for as long as a warp stays with a segment (gemv_walk.h).
//
// The operand (k × 8, column n in lanes 4 n … 4 n + 3) holds tokens by two: column 2 q + t is the pair's
// token t's, but zero outside quarter q. So of a product with two tiles' words, lane l gets the sums over its
// own quarter's columns, of its own rows and both tokens: what it has the scales for.
#pragma once

#include "ops/cuda/async_copy.cuh"
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

/// A segment's activations, a warp's own: the high plane's words in registers, the rest in shared memory,
/// where the next segment's come in meanwhile.
template <int kTokens, bool kWide>
class HeldTokens {
 public:
  static constexpr int kRecord = kCodeRecord<kWide>;
  static constexpr int kBuffer = kTokens * kRecord;
  static constexpr int kBytes = 2 * kBuffer;  ///< shared memory of a warp

  __device__ HeldTokens(std::byte* shared, int lane) : shared_(shared), lane_(lane) {}

  /// Starts to bring a segment's, which take() makes the warp's current ones. The others' are no longer read.
  __device__ void bring(const GemvArgs& args, int segment) {
    constexpr int kPieces = kRecord / 16;
    const auto to = shared_address(shared_ + (kBuffer - current_));
#pragma unroll
    for (int i = 0; i < kTokens * kPieces; i += 32) {
      if (kTokens * kPieces % 32 != 0 && i + lane_ >= kTokens * kPieces) break;
      const int token = (i + lane_) / kPieces;
      const int at = (i + lane_) % kPieces * 16;
      copy_ahead(to + token * kRecord + at,
                 args.x + min(token, args.n_tokens - 1) * args.x_stride + segment * kRecord + at);
    }
    end_of_copies();
  }
  __device__ void take() {
    await_copies<0>();
    __syncwarp();
    current_ = kBuffer - current_;
    const bool mine = is_own_quarter(lane_);
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
#pragma unroll
      for (int v = 0; v < 16; ++v) words_[i][v] = 0;
      if (mine) load_plane<16>(words_[i], own(i) + ActLayout::kHigh);
    }
  }
  /// The words of group g, of pair i's high (0) or low plane.
  __device__ void words(uint32_t (&out)[8], int plane, int i, int g) const {
    if (plane == 0) {
#pragma unroll
      for (int v = 0; v < 8; ++v) out[v] = words_[i][8 * g + v];
    } else {
#pragma unroll
      for (int v = 0; v < 8; ++v) out[v] = 0;
      if (is_own_quarter(lane_)) load_plane<8>(out, own(i) + ActLayout::kLow + 128 * g);
    }
  }
  /// Scale and scaled sum of token t and this lane's group g.
  __device__ float2 meta(int t, int g) const {
    return *reinterpret_cast<const float2*>(shared_ + current_ + t * kRecord + ActLayout::kMeta +
                                            lane_ % kQuad * 16 + 8 * g);
  }
  /// Scaled sum of the group's first half.
  __device__ float first(int t, int g) const {
    return *reinterpret_cast<const float*>(shared_ + current_ + t * kRecord + ActLayout::kFirst +
                                           lane_ % kQuad * 8 + 4 * g);
  }

 private:
  /// Of this lane's token of pair i, from its quarter's first 16 bytes on.
  __device__ const std::byte* own(int i) const {
    return shared_ + current_ + (2 * i + lane_ / kQuad % 2) * kRecord + lane_ % kQuad * 16;
  }

  uint32_t words_[kTokens / 2][16];
  std::byte* shared_;
  int lane_;
  int current_ = 0;  ///< where the current ones are, in bytes
};

/// out = Σ over a lane's 64 products of each row and token: consume()'s, to the bit, by tensor cores:
/// integers first, then the same float operations.
template <QuantFormat F, int kTokens, bool kWide>
__device__ inline void multiply_held(const Lane<F> (&lanes)[2], const HeldTokens<kTokens, kWide>& x, int lane,
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
  static constexpr int kBytes = 0;

  __device__ ReadTokens(std::byte* /*shared*/, int /*lane*/) {}
  __device__ void bring(const GemvArgs& args, int segment) {
    args_ = &args;
    next_ = segment;
  }
  __device__ void take() { offset_ = next_ * kCodeRecord<kWide>; }

  const GemvArgs* args_ = nullptr;
  int next_ = 0;
  int offset_ = 0;
};

/// out = Σ over a lane's 64 products of each row and token.
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
