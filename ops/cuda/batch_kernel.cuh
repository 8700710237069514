// y = W x for up to 64 tokens by tensor cores, straight from tiles: each weight byte is read once, made a
// half once and used for all tokens. Instantiated a format and number of tokens (format_impl.cuh).
//
// Thread map: blockIdx.x is a group of 16 tiles (128 rows; of gate·up 64 rows of both), blockIdx.y its share
// of the segments. A warp has four tiles, that is two m16 operands: lane l of a tile holds row l / 4 and the
// columns 64 (l % 4) … of a unit, and an m16n8k16 wants row l / 4 and four columns of lane l, any four, if
// the other operand has the same. So weights go from memory to registers to the tensor core, and no lane
// needs another's. The tokens' halves of a segment go through shared memory by cp.async, one segment ahead,
// as do the weights in registers. Where segments are shared out, the block that ends last adds the sums in
// order: the bits depend on the shape and on how many tokens the instance is for, not on timing. Bytes: each
// weight byte once; the tokens' halves once a group, from the L2.
#pragma once

#include "ops/cuda/batch_args.h"
#include "ops/cuda/half_weights.cuh"
#include "ops/cuda/mma.cuh"

namespace tandem::cuda {
namespace device {

/// From one token's halves of a segment to the next's: 64 modulo 128 bytes, so that lanes' 16 bytes don't
/// collide.
constexpr int kBatchPitch = 2 * kSegmentCols + 64;

__device__ inline void copy_ahead(uint32_t to, const std::byte* from) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#endif
}
__device__ inline void end_of_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Until all but the last `kLeft` groups of this thread's copies have arrived.
template <int kLeft>
__device__ inline void await_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

/// Where a warp's tiles are: gate's and up's in turns, or four in a row.
struct BatchPlace {
  int part = 0;   ///< of the first two tiles
  int other = 0;  ///< of the last two
  int tile = 0;
  int second = 0;

  __device__ BatchPlace(const BatchArgs& args, int warp) {
    int group = static_cast<int>(blockIdx.x);
    if (args.epilogue != Epilogue::none) {
      other = 1;
      tile = second = group * (kBatchTiles / 2) + warp * (kWarpTiles / 2);
      return;
    }
    while (part + 1 < args.n_parts && group >= args.parts[part].n_groups)
      group -= args.parts[part++].n_groups;
    other = part;
    tile = group * kBatchTiles + warp * kWarpTiles;
    second = tile + kWarpTiles / 2;
  }
  /// First tile's number of the pair i.
  __device__ int pair_tile(int i) const { return i == 0 ? tile : second; }
  __device__ int pair_part(int i) const { return i == 0 ? part : other; }
};

/// A warp's four units of a segment, on their way from memory.
template <QuantFormat F>
struct BatchWeights {
  Lane<F> lanes[kWarpTiles];
  const std::byte* units[kWarpTiles];  ///< of segment 0

  __device__ BatchWeights(const BatchArgs& args, const BatchPlace& place) {
#pragma unroll
    for (int r = 0; r < kWarpTiles; ++r) {
      const BatchPart& part = args.parts[place.pair_part(r / 2)];
      const int tile = min(place.pair_tile(r / 2) + r % 2, part.n_tiles - 1);
      units[r] = part.tiles + static_cast<int64_t>(tile) * args.n_segments * TileLayout<F>::kUnitBytes;
    }
  }
  __device__ void load(int segment, int lane) {
#pragma unroll
    for (int r = 0; r < kWarpTiles; ++r)
      load_lane<F>(lanes[r], units[r] + static_cast<int64_t>(segment) * TileLayout<F>::kUnitBytes, lane);
  }
};

/// The tokens' halves of a segment to shared memory; those beyond the last are the last's again.
template <int kTiles>
__device__ inline void stage_tokens(const BatchArgs& args, int segment, uint32_t to) {
  constexpr int kPieces = 2 * kSegmentCols / 16;  // of a token
#pragma unroll
  for (int i = 0; i < 8 * kTiles * kPieces / (32 * kBatchWarps); ++i) {
    const int piece = i * 32 * kBatchWarps + static_cast<int>(threadIdx.x);
    const int token = piece / kPieces;
    copy_ahead(to + token * kBatchPitch + piece % kPieces * 16,
               args.x + min(token, args.n_tokens - 1) * args.x_stride +
                   static_cast<int64_t>(segment) * ActLayout::kF16Bytes + piece % kPieces * 16);
  }
  end_of_copies();
}

/// acc += the warp's weights of a segment × the tokens' halves. x: this lane's first ones in shared memory.
template <QuantFormat F, int kTiles>
__device__ inline void multiply_segment(const Lane<F> (&lanes)[kWarpTiles], const std::byte* x, int lane,
                                        float (&acc)[2][kTiles][4]) {
  const HalfScales<F> scales[kWarpTiles] = {
      HalfScales<F>(scales_of<F>(lanes[0], lane)), HalfScales<F>(scales_of<F>(lanes[1], lane)),
      HalfScales<F>(scales_of<F>(lanes[2], lane)), HalfScales<F>(scales_of<F>(lanes[3], lane))};
#pragma unroll
  for (int i = 0; i < kLaneCols / 8; ++i) {
    HalfWord first[kWarpTiles];
    HalfWord second[kWarpTiles];
#pragma unroll
    for (int r = 0; r < kWarpTiles; ++r) {
      first[r] = half_word<F>(lanes[r], scales[r], i / 4, 2 * i % 8);
      second[r] = half_word<F>(lanes[r], scales[r], i / 4, 2 * i % 8 + 1);
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const uint4 b = *reinterpret_cast<const uint4*>(x + 8 * j * kBatchPitch + 64 * i);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        mma(acc[m][j], bits_of(first[2 * m].low), bits_of(first[2 * m + 1].low), bits_of(first[2 * m].high),
            bits_of(first[2 * m + 1].high), b.x, b.y);
        mma(acc[m][j], bits_of(second[2 * m].low), bits_of(second[2 * m + 1].low),
            bits_of(second[2 * m].high), bits_of(second[2 * m + 1].high), b.z, b.w);
      }
    }
  }
}

/// Puts the block's sums beside those of the group's other blocks. Returns whether this block came last: then
/// acc is the sum of all, in order.
template <int kTiles>
__device__ inline bool join_splits(const BatchArgs& args, float (&acc)[2][kTiles][4]) {
  constexpr int kThreads = 32 * kBatchWarps;
  __shared__ bool last;
  const int64_t group_sums = int64_t{args.n_splits} * 8 * kTiles * kThreads;
  float* sums = args.partials + blockIdx.x * group_sums + threadIdx.x;
  float* mine = sums + blockIdx.y * (8 * kTiles * kThreads);
#pragma unroll
  for (int e = 0; e < 8 * kTiles; ++e)
    __stcg(mine + e * kThreads, acc[e / (4 * kTiles)][e / 4 % kTiles][e % 4]);
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t before;
    asm volatile("fence.acq_rel.gpu;\n\tatom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
                 : "=r"(before)
                 : "l"(args.tickets + blockIdx.x)
                 : "memory");
    last = static_cast<int>(before) + 1 == args.n_splits;
    if (last) args.tickets[blockIdx.x] = 0;
  }
  __syncthreads();
  if (!last) return false;
#pragma unroll
  for (int e = 0; e < 8 * kTiles; ++e) acc[e / (4 * kTiles)][e / 4 % kTiles][e % 4] = 0;
  for (int split = 0; split < args.n_splits; ++split) {
#pragma unroll
    for (int e = 0; e < 8 * kTiles; ++e) {
      acc[e / (4 * kTiles)][e / 4 % kTiles][e % 4] += __ldcg(sums + (split * 8 * kTiles + e) * kThreads);
    }
  }
  return true;
}

/// Scales the sums and writes the outputs.
template <int kTiles>
__device__ inline void store_sums(const BatchArgs& args, const BatchPlace& place, int lane,
                                  const float (&acc)[2][kTiles][4]) {
  const bool pair = args.epilogue != Epilogue::none;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int token = 8 * j + 2 * (lane % kQuad) + c % 2;
      if (token >= args.n_tokens) continue;
      const std::byte* tail =
          args.x + token * args.x_stride + int64_t{args.n_segments} * ActLayout::kF16Bytes;
      const float factor = args.power * *reinterpret_cast<const float*>(tail);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const BatchPart& part = args.parts[place.pair_part(m)];
        const int row = (place.pair_tile(m) + c / 2) * kTileRows + lane / kQuad;
        if (row >= part.n_rows) continue;
        float value = acc[m][j][c] * factor;
        if (pair) {
          if (m == 1) break;
          value = activate(args.epilogue, value) * (acc[1][j][c] * factor);
        }
        if (part.bias != nullptr) value += part.bias[row];
        part.out[token * part.out_stride + row] = value;
      }
    }
  }
}

}  // namespace device

template <QuantFormat F, int kTiles>
__global__ __launch_bounds__(32 * kBatchWarps,
                             kTiles == 8 ? 2 : 3) void batch_kernel(const __grid_constant__ BatchArgs args) {
#if __CUDA_ARCH__ >= 800
  using namespace device;
  extern __shared__ uint4 staged[];  // (2, 8 kTiles, kBatchPitch bytes)
  constexpr int kStageBytes = 8 * kTiles * kBatchPitch;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int split = static_cast<int>(blockIdx.y);
  const int begin = static_cast<int>(int64_t{args.n_segments} * split / args.n_splits);
  const int end = static_cast<int>(int64_t{args.n_segments} * (split + 1) / args.n_splits);
  const BatchPlace place(args, warp);
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(staged));

  let_next_start();
  BatchWeights<F> weights(args, place);
  if (begin < end) weights.load(begin, lane);
  wait_for_inputs();
  float acc[2][kTiles][4] = {};
  if (begin < end) stage_tokens<kTiles>(args, begin, shared);
  for (int segment = begin; segment < end; ++segment) {
    const int stage = (segment - begin) % 2;
    Lane<F> lanes[kWarpTiles];
#pragma unroll
    for (int r = 0; r < kWarpTiles; ++r) lanes[r] = weights.lanes[r];
    if (segment + 1 < end) {
      weights.load(segment + 1, lane);
      stage_tokens<kTiles>(args, segment + 1, shared + (1 - stage) * kStageBytes);
      await_copies<1>();
    } else {
      await_copies<0>();
    }
    __syncthreads();  // everybody's copies are there
    const std::byte* x = reinterpret_cast<const std::byte*>(staged) + stage * kStageBytes +
                         lane / kQuad * kBatchPitch + lane % kQuad * 16;
    multiply_segment<F, kTiles>(lanes, x, lane, acc);
    __syncthreads();  // the stage may be overwritten
  }
  if (args.n_splits > 1 && !join_splits<kTiles>(args, acc)) return;
  store_sums<kTiles>(args, place, lane, acc);
#endif
}

template <QuantFormat F, int kTiles>
BatchKernel batch_instance() {
  return {reinterpret_cast<const void*>(batch_kernel<F, kTiles>), 8 * kTiles,
          2 * 8 * kTiles * device::kBatchPitch};
}

}  // namespace tandem::cuda
