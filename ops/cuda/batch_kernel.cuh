// y = W x for up to 64 tokens by tensor cores, straight from tiles: each weight byte is read once, made a
// half once and used for all tokens. Instantiated a format and number of tokens (format_impl.cuh).
//
// Thread map: blockIdx.x is a group of tiles, as many as a block's warps have (BatchShape; of gate·up half as
// many of each), blockIdx.y its share of the segments. A warp has two or four tiles, that is one or two m16
// operands: lane l of a tile holds row l / 4 and the columns 64 (l % 4) … of a unit, and an m16n8k16 wants
// row l / 4 and four columns of lane l, any four, if the other operand has the same. So weights go from
// memory to registers to the tensor core, and no lane needs another's. few_kernel's warps run each by itself:
// weights two segments ahead in registers, the tokens' halves from the L1, where the block's warps find what
// the first of them brought. batch_kernel's share the halves in shared memory, brought by cp.async. Where
// segments are shared out, each of the blocks adds up some tokens' sums, in order: the bits depend on the
// shape and on how many tokens the instance is for, not on timing. Bytes: each weight byte once; the tokens'
// halves once a group, from the L2. Measured (H200, 2026-11-27), µs of a 70B rank's four products, Q4_K, 8 /
// 16 / 32 / 64 tokens: 92 / 108 / 141 / 220 (164 by warpgroups), of one token by gemv 67. Products that
// waited for each other and groups of half as many tiles: 64 tokens 319.
#pragma once

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/batch_args.h"
#include "ops/cuda/half_weights.cuh"
#include "ops/cuda/mma.cuh"

namespace tandem::cuda {

/// How a kernel is cut: tiles a warp, warps a block, blocks a multiprocessor, segments of tokens' halves in
/// shared memory.
template <int kTilesIn, int kWarpsIn, int kBlocksIn, int kStagesIn = 0>
struct BatchShape {
  static constexpr int kTiles = kTilesIn;
  static constexpr int kWarps = kWarpsIn;
  static constexpr int kBlocks = kBlocksIn;
  static constexpr int kStages = kStagesIn;
};

namespace device {

/// From one token's halves of a segment to the next's: 64 modulo 128 bytes, so that lanes' 16 bytes don't
/// collide.
constexpr int kBatchPitch = 2 * kSegmentCols + 64;

/// Which token tiles a block finishes: every of-th from index on.
struct BatchShare {
  int index = 0;
  int of = 1;
  __device__ bool has(int token_tile) const { return token_tile % of == index; }
};

/// Where a warp's kTiles tiles of a group are: one half gate's and one half up's, or all in a row.
template <int kTiles, int kWarps>
struct BatchPlace {
  int part = 0;   ///< of the first half
  int other = 0;  ///< of the second
  int tile = 0;   ///< number of the first half's first
  int second = 0;

  __device__ BatchPlace(const BatchArgs& args, int group, int warp) {
    if (args.epilogue != Epilogue::none) {
      other = 1;
      tile = second = (group * kWarps + warp) * (kTiles / 2);
      return;
    }
    while (part + 1 < args.n_parts && group >= args.parts[part].n_groups)
      group -= args.parts[part++].n_groups;
    other = part;
    tile = (group * kWarps + warp) * kTiles;
    second = tile + kTiles / 2;
  }
  /// Of the warp's tile r.
  __device__ int part_of(int r) const { return r < kTiles / 2 ? part : other; }
  __device__ int number_of(int r) const { return r < kTiles / 2 ? tile + r : second + r - kTiles / 2; }
};

/// Where a warp's units of segment 0 are.
template <class F, int kTiles>
struct BatchUnits {
  const std::byte* units[kTiles];

  template <int kWarps>
  __device__ BatchUnits(const BatchArgs& args, const BatchPlace<kTiles, kWarps>& place) {
#pragma unroll
    for (int r = 0; r < kTiles; ++r) {
      const BatchPart& part = args.parts[place.part_of(r)];
      const int tile = min(place.number_of(r), part.n_tiles - 1);
      units[r] = part.tiles + static_cast<int64_t>(tile) * args.n_segments * TileLayout<F>::kUnitBytes;
    }
  }
  __device__ void load(Lane<F> (&lanes)[kTiles], int segment, int lane) const {
#pragma unroll
    for (int r = 0; r < kTiles; ++r)
      load_lane<F>(lanes[r], units[r] + static_cast<int64_t>(segment) * TileLayout<F>::kUnitBytes, lane);
  }
};

/// A warp's sums: of each m16 operand and eight tokens, rows l / 4 of its two tiles, tokens 2 (l % 4) and
/// + 1.
template <int kTiles, int kTokenTiles>
using BatchSums = float[kTiles / 2][kTokenTiles][4];

/// acc of token tile j += a word of each of the warp's tiles × four columns' halves.
template <int kTiles, int kTokenTiles>
__device__ inline void multiply_word(const HalfWord (&words)[kTiles], uint32_t low, uint32_t high,
                                     float (&acc)[kTiles / 2][kTokenTiles][4], int j) {
#pragma unroll
  for (int m = 0; m < kTiles / 2; ++m)
    mma(acc[m][j], bits_of(words[2 * m].low), bits_of(words[2 * m + 1].low), bits_of(words[2 * m].high),
        bits_of(words[2 * m + 1].high), low, high);
}

/// acc += the warp's weights of a segment × the tokens' halves. halves(j, i): those of token tile j and the
/// columns 8 i … 8 i + 7 of each quarter that are this lane's.
template <QuantFormat F, int kTiles, int kTokenTiles, class Halves>
__device__ inline void multiply_segment(const Lane<F> (&lanes)[kTiles], int lane, const Halves& halves,
                                        BatchSums<kTiles, kTokenTiles>& acc) {
  HalfScales<F> scales[kTiles];
#pragma unroll
  for (int r = 0; r < kTiles; ++r) scales[r] = HalfScales<F>(scales_of<F>(lanes[r], lane));
#pragma unroll
  for (int i = 0; i < kLaneCols / 8; ++i) {
    HalfWord first[kTiles];
    HalfWord second[kTiles];
#pragma unroll
    for (int r = 0; r < kTiles; ++r) {
      first[r] = half_word<F>(lanes[r], scales[r], i / 4, 2 * i % 8);
      second[r] = half_word<F>(lanes[r], scales[r], i / 4, 2 * i % 8 + 1);
    }
    // Some tokens' halves at a time, then all of the first words, then all of the second: no product waits
    // for the one before it.
    constexpr int kAtOnce = kTokenTiles < 4 ? kTokenTiles : 4;
#pragma unroll
    for (int begin = 0; begin < kTokenTiles; begin += kAtOnce) {
      uint4 b[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) b[j] = halves(begin + j, i);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) multiply_word<kTiles>(first, b[j].x, b[j].y, acc, begin + j);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) multiply_word<kTiles>(second, b[j].z, b[j].w, acc, begin + j);
    }
  }
}

/// A barrier of the block, or of its first kThreads threads.
template <int kThreads = 0>
__device__ inline void sync_threads() {
  if constexpr (kThreads == 0) {
    __syncthreads();
  } else {
    asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
  }
}

/// Adds 1 with what was written before it; the sum.
__device__ inline int count_up(uint32_t* to) {
  uint32_t before;
  asm volatile("fence.acq_rel.gpu;\n\tatom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(to)
               : "memory");
  return static_cast<int>(before) + 1;
}

/// Tells the others that what this block wrote is there. tickets: two words that blocks share, zeros before
/// they all have come and behind it.
template <int kThreads = 0>
__device__ inline void come(uint32_t* tickets) {
  sync_threads<kThreads>();
  if (threadIdx.x == 0) count_up(tickets);
}

/// Until n_blocks blocks have come, which must run all at once.
template <int kThreads = 0>
__device__ inline void await_blocks(uint32_t* tickets, int n_blocks) {
  if (threadIdx.x == 0) {
    uint32_t seen;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(tickets) : "memory");
    } while (static_cast<int>(seen) < n_blocks);
    if (count_up(tickets + 1) == n_blocks) tickets[0] = tickets[1] = 0;  // for the next launch
  }
  sync_threads<kThreads>();
}

/// Adds up the sums of the blocks that share a group's segments, in their order: each block leaves its own in
/// memory, waits for the others', and gets the whole sums of its share of the tokens.
template <int kTiles, int kTokenTiles, int kWarps>
__device__ inline void join_splits(const BatchArgs& args, const BatchShare& share,
                                   BatchSums<kTiles, kTokenTiles>& acc) {
  constexpr int kThreads = 32 * kWarps;
  constexpr int kSums = 2 * kTiles * kTokenTiles;  // a thread
  float* sums = args.partials + blockIdx.x * (int64_t{args.n_splits} * kSums * kThreads) + threadIdx.x;
  const auto place = [](int split, int m, int j, int e) {
    return (split * kSums + (m * kTokenTiles + j) * 4 + e) * kThreads;
  };
#pragma unroll
  for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
    for (int m = 0; m < kTiles / 2; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) __stcg(sums + place(static_cast<int>(blockIdx.y), m, j, e), acc[m][j][e]);
    }
  }
  uint32_t* tickets = args.tickets + 2 * blockIdx.x;
  come(tickets);
  await_blocks(tickets, args.n_splits);
#pragma unroll
  for (int j = 0; j < kTokenTiles; ++j) {
    if (!share.has(j)) continue;
#pragma unroll
    for (int m = 0; m < kTiles / 2; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[m][j][e] = __ldcg(sums + place(0, m, j, e));
    }
    for (int split = 1; split < args.n_splits; ++split) {
#pragma unroll
      for (int m = 0; m < kTiles / 2; ++m) {
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[m][j][e] += __ldcg(sums + place(split, m, j, e));
      }
    }
  }
}

__device__ inline void store_sum(const BatchPart& part, int token, int row, float value) {
  if (row >= part.n_rows) return;
  if (part.bias != nullptr) value += part.bias[row];
  part.out[token * part.out_stride + row] = value;
}

/// Scales the sums and writes the outputs of some of the tokens, of which the sums' first is token `first`.
/// Of gate·up the first half of a warp's tiles is gate's, the second up's.
template <int kTiles, int kTokenTiles, int kWarps>
__device__ inline void store_sums(const BatchArgs& args, const BatchPlace<kTiles, kWarps>& place,
                                  const BatchShare& share, int lane,
                                  const BatchSums<kTiles, kTokenTiles>& acc, int first = 0) {
  const bool pair = args.epilogue != Epilogue::none;
#pragma unroll
  for (int j = 0; j < kTokenTiles; ++j) {
    if (!share.has(j)) continue;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int token = first + 8 * j + 2 * (lane % kQuad) + c;
      if (token >= args.n_tokens) continue;
      const std::byte* tail =
          args.x + token * args.x_stride + int64_t{args.n_segments} * ActLayout::kF16Bytes;
      const float factor = args.power * *reinterpret_cast<const float*>(tail);
      const auto sum_of = [&](int r) { return acc[r / 2][j][2 * (r % 2) + c] * factor; };
#pragma unroll
      for (int r = 0; r < kTiles; ++r) {
        const BatchPart& part = args.parts[place.part_of(r)];
        const int row = place.number_of(r) * kTileRows + lane / kQuad;
        if (!pair) {
          store_sum(part, token, row, sum_of(r));
        } else if (r < kTiles / 2) {
          store_sum(part, token, row, activate(args.epilogue, sum_of(r)) * sum_of(r + kTiles / 2));
        }
      }
    }
  }
}

/// The segments of this block.
struct BatchRange {
  int begin;
  int end;
  __device__ explicit BatchRange(const BatchArgs& args)
      : begin(static_cast<int>(int64_t{args.n_segments} * blockIdx.y / args.n_splits)),
        end(static_cast<int>(int64_t{args.n_segments} * (blockIdx.y + 1) / args.n_splits)) {}
};

/// The tokens' halves of a segment to shared memory; those beyond the last are the last's again.
template <int kTokenTiles, int kWarps>
__device__ inline void stage_tokens(const BatchArgs& args, int segment, uint32_t to) {
  constexpr int kPieces = 2 * kSegmentCols / 16;  // of a token
  constexpr int kThreads = 32 * kWarps;
  constexpr int kAll = 8 * kTokenTiles * kPieces;
#pragma unroll
  for (int first = 0; first < kAll; first += kThreads) {
    const int piece = first + static_cast<int>(threadIdx.x);
    if (kAll % kThreads != 0 && piece >= kAll) break;
    const int token = piece / kPieces;
    copy_ahead(to + token * kBatchPitch + piece % kPieces * 16,
               args.x + min(token, args.n_tokens - 1) * args.x_stride +
                   static_cast<int64_t>(segment) * ActLayout::kF16Bytes + piece % kPieces * 16);
  }
}

}  // namespace device

/// Up to 8 kTokenTiles tokens, each warp by itself.
template <QuantFormat F, int kTokenTiles, class Shape>
__global__ __launch_bounds__(32 * Shape::kWarps,
                             Shape::kBlocks) void few_kernel(const __grid_constant__ BatchArgs args) {
#if __CUDA_ARCH__ >= 800
  using namespace device;
  constexpr int kTiles = Shape::kTiles;
  constexpr int kWarps = Shape::kWarps;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const BatchRange segments(args);
  const BatchPlace<kTiles, kWarps> place(args, static_cast<int>(blockIdx.x),
                                         static_cast<int>(threadIdx.x / 32));
  let_next_start();
  const BatchUnits<F, kTiles> weights(args, place);
  Lane<F> even[kTiles];
  Lane<F> odd[kTiles];
  if (segments.begin < segments.end) weights.load(even, segments.begin, lane);
  if (segments.begin + 1 < segments.end) weights.load(odd, segments.begin + 1, lane);
  wait_for_inputs();
  const std::byte* tokens[kTokenTiles];
#pragma unroll
  for (int j = 0; j < kTokenTiles; ++j)
    tokens[j] = args.x + min(8 * j + lane / kQuad, args.n_tokens - 1) * args.x_stride + lane % kQuad * 16;
  BatchSums<kTiles, kTokenTiles> acc = {};
  const auto multiply = [&](Lane<F>(&lanes)[kTiles], int segment) {
    multiply_segment<F, kTiles, kTokenTiles>(
        lanes, lane,
        [&](int j, int i) {
          return *reinterpret_cast<const uint4*>(tokens[j] + int64_t{segment} * ActLayout::kF16Bytes +
                                                 64 * i);
        },
        acc);
    if (segment + 2 < segments.end) weights.load(lanes, segment + 2, lane);
  };
  for (int segment = segments.begin; segment < segments.end; segment += 2) {
    multiply(even, segment);
    if (segment + 1 < segments.end) multiply(odd, segment + 1);
  }
  const BatchShare share{static_cast<int>(blockIdx.y), args.n_splits};
  if (args.n_splits > 1) join_splits<kTiles, kTokenTiles, kWarps>(args, share, acc);
  store_sums<kTiles, kTokenTiles>(args, place, share, lane, acc);
#endif
}

/// Up to 8 kTokenTiles tokens, whose halves the block's warps share, three segments at a time in shared
/// memory: one that is read, and two on their way.
template <QuantFormat F, int kTokenTiles, class Shape>
__global__ __launch_bounds__(32 * Shape::kWarps,
                             Shape::kBlocks) void batch_kernel(const __grid_constant__ BatchArgs args) {
#if __CUDA_ARCH__ >= 800
  using namespace device;
  constexpr int kTiles = Shape::kTiles;
  constexpr int kWarps = Shape::kWarps;
  constexpr int kStages = Shape::kStages;
  constexpr int kStageBytes = 8 * kTokenTiles * kBatchPitch;
  extern __shared__ uint4 staged[];  // (kStages, 8 kTokenTiles, kBatchPitch bytes)
  const int lane = static_cast<int>(threadIdx.x % 32);
  const BatchRange segments(args);
  const BatchPlace<kTiles, kWarps> place(args, static_cast<int>(blockIdx.x),
                                         static_cast<int>(threadIdx.x / 32));
  const auto shared = shared_address(staged);
  const auto stage_of = [&](int segment) { return (segment - segments.begin) % kStages * kStageBytes; };
  const auto stage = [&](int segment) {
    if (segment < segments.end) stage_tokens<kTokenTiles, kWarps>(args, segment, shared + stage_of(segment));
    end_of_copies();
  };

  let_next_start();
  const BatchUnits<F, kTiles> weights(args, place);
  Lane<F> next[kTiles];
  if (segments.begin < segments.end) weights.load(next, segments.begin, lane);
  wait_for_inputs();
  BatchSums<kTiles, kTokenTiles> acc = {};
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) stage(segments.begin + i);
  for (int segment = segments.begin; segment < segments.end; ++segment) {
    Lane<F> lanes[kTiles];
#pragma unroll
    for (int r = 0; r < kTiles; ++r) lanes[r] = next[r];
    if (segment + 1 < segments.end) weights.load(next, segment + 1, lane);
    await_copies<kStages - 2>();
    __syncthreads();  // everybody's copies of this segment are there, and nobody reads the one before any
                      // more
    stage(segment + kStages - 1);
    const std::byte* x = reinterpret_cast<const std::byte*>(staged) + stage_of(segment) +
                         lane / kQuad * kBatchPitch + lane % kQuad * 16;
    multiply_segment<F, kTiles, kTokenTiles>(
        lanes, lane,
        [&](int j, int i) { return *reinterpret_cast<const uint4*>(x + 8 * j * kBatchPitch + 64 * i); }, acc);
  }
  const BatchShare share{static_cast<int>(blockIdx.y), args.n_splits};
  if (args.n_splits > 1) join_splits<kTiles, kTokenTiles, kWarps>(args, share, acc);
  store_sums<kTiles, kTokenTiles>(args, place, share, lane, acc);
#endif
}

template <QuantFormat F, int kTokenTiles, class Shape>
BatchKernel few_instance() {
  return {reinterpret_cast<const void*>(few_kernel<F, kTokenTiles, Shape>),
          8 * kTokenTiles,
          Shape::kTiles * Shape::kWarps,
          Shape::kBlocks,
          32 * Shape::kWarps,
          0};
}
template <QuantFormat F, int kTokenTiles, class Shape>
BatchKernel batch_instance() {
  return {reinterpret_cast<const void*>(batch_kernel<F, kTokenTiles, Shape>),
          8 * kTokenTiles,
          Shape::kTiles * Shape::kWarps,
          Shape::kBlocks,
          32 * Shape::kWarps,
          Shape::kStages * 8 * kTokenTiles * device::kBatchPitch};
}

}  // namespace tandem::cuda
