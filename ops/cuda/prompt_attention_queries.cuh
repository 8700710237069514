// Which query rows a block of prompt attention works on, and how they come to shared memory: as halves behind
// a power of two a row, so that no activation overflows.
#pragma once

#include "ops/cuda/attention_mma.cuh"
#include "ops/cuda/prompt_attention.h"

namespace tandem::cuda::device {

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Takes the mixing out of the lane's sums of a row: the steps between groups of eight columns, and the
/// factor. Those within eight are behind it.
template <int kDim, int kSums>
__device__ inline void unmix_eights(float (&sums)[kDim / 8][kSums], float factor) {
  constexpr int kWidth = mix_width(kDim);
  static_assert(kWidth >= 8);
#pragma unroll
  for (int step = 1; 8 * step < kWidth; step *= 2) {
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      if ((n & step) != 0) continue;
#pragma unroll
      for (int i = 0; i < kSums; ++i) meet(sums[n][i], sums[n + step][i]);
    }
  }
#pragma unroll
  for (auto& eight : sums) {
#pragma unroll
    for (float& x : eight) x *= factor;
  }
}

/// Powers of two that a score may exceed the maximum by before weights are made relative to it.
inline constexpr float kSlack = 8.0F;

/// What is kept of a query row beside its halves.
struct PromptRow {
  float factor;  ///< of a score
  int position;
};

/// Which rows and positions a block works on.
struct PromptPlace {
  const int32_t* pages = nullptr;
  int first_token = 0;  ///< of the part
  int kv_head = 0;
  int first_head = 0;
  int group = 0;      ///< query heads of the KV head
  int first_row = 0;  ///< of the part's (token, head) rows
  int n_rows = 0;     ///< of the tile; none: nothing to do
  int first_position = 0;
  int window = 0;  ///< positions that a row sees, itself included
  int begin = 0;   ///< positions that any row of the tile sees: [begin, end)
  int end = 0;

  __device__ PromptPlace(const PromptArgs& args, int tile_rows) {
    const AttentionArgs& a = args.attention;
    const auto block = static_cast<int>(blockIdx.x);
    kv_head = block % a.groups.n_kv_heads;
    int tile = args.n_tiles - 1 - block / a.groups.n_kv_heads;  // the longest begin first
    int part = 0;
    int before = 0;
    while (tile >= args.parts[part].end_tile) before = args.parts[part++].end_tile;
    tile -= before;
    first_head = a.groups.begin[kv_head];
    group = a.groups.begin[kv_head + 1] - first_head;
    first_token = args.parts[part].first_token;
    first_row = tile * tile_rows;
    n_rows = min(tile_rows, args.parts[part].n_tokens * group - first_row);
    if (n_rows <= 0) return;
    pages = a.step.pages + a.step.sequences[first_token] * a.step.pages_stride;
    first_position = a.step.positions[first_token];
    window = a.window > 0 ? min(a.window, 1 << 30) : 1 << 30;
    begin = max(0, position(0) - window + 1);
    end = position(n_rows - 1) + 1;
  }
  /// Of a row of the tile; what lies behind the last counts as it.
  __device__ int position(int row) const {
    return first_position + (first_row + min(row, n_rows - 1)) / group;
  }
  __device__ int64_t token(int row) const { return first_token + (first_row + row) / group; }
  __device__ int head(int row) const { return first_head + (first_row + row) % group; }
};

/// Shape: kDim, kRows, kWarps, kStride (bytes from one row to the next) and kRowsAt, where the PromptRows
/// begin.
template <class Shape>
struct QueryRows {
  static constexpr int kDim = Shape::kDim;
  static constexpr int kVectors = (kDim / 4 + 31) / 32;  ///< of four floats, a lane
  static constexpr int kBatch = 8 / kVectors;            ///< rows that a warp loads at a time
  static constexpr int kWarpRows = Shape::kRows / Shape::kWarps;

  const AttentionArgs& args;
  const PromptPlace& place;
  std::byte* shared;
  int lane;

  __device__ void load(int row, float4 (&x)[kVectors]) const {
    const bool exists = row < place.n_rows;
    const float* q =
        args.q + place.token(exists ? row : 0) * args.q_stride + place.head(exists ? row : 0) * kDim;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int vector = lane + 32 * i;
      x[i] =
          exists && vector < kDim / 4 ? reinterpret_cast<const float4*>(q)[vector] : make_float4(0, 0, 0, 0);
    }
  }
  __device__ void store(int row, const float4 (&x)[kVectors]) const {
    float amax = 0;
    bool finite = true;
#pragma unroll
    for (const float4& v : x) {
      finite &=
          fabsf(v.x) < INFINITY && fabsf(v.y) < INFINITY && fabsf(v.z) < INFINITY && fabsf(v.w) < INFINITY;
      amax = fmaxf(amax, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
    }
    report(args.not_finite, finite);
    for (int distance = 16; distance > 0; distance /= 2)
      amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, distance));
    const float s = args.scale_log2;
    const int bits = __float_as_int(amax * fabsf(s)) >> 23;  // exponent + 127
    const int exponent = min(max(bits, 7), 253) - 127;       // so that 2^-exponent is a normal number
    const float inverse = __int_as_float((127 - exponent) << 23);
    if (lane == 0) {
      reinterpret_cast<PromptRow*>(shared + Shape::kRowsAt)[row] = {__int_as_float((127 + exponent) << 23),
                                                                    place.position(row)};
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int vector = lane + 32 * i;
      if (vector >= kDim / 4) continue;
      const float4 v = x[i];
      *reinterpret_cast<uint2*>(shared + row * Shape::kStride + 8 * vector) =
          make_uint2(bits_of(__floats2half2_rn(v.x * s * inverse, v.y * s * inverse)),
                     bits_of(__floats2half2_rn(v.z * s * inverse, v.w * s * inverse)));
    }
  }
  /// The warp's rows; only it reads them.
  __device__ void fill(int warp_row) const {
#pragma unroll 1
    for (int i = 0; i < kWarpRows; i += kBatch) {
      float4 x[kBatch][kVectors];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) load(warp_row + i + b, x[b]);
#pragma unroll
      for (int b = 0; b < kBatch; ++b) store(warp_row + i + b, x[b]);
    }
    __syncwarp();
  }
};

}  // namespace tandem::cuda::device
