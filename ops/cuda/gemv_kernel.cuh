// y = W x for 1 to 4 tokens: every format, one kernel template. Instantiated in a unit a format.
//
// Thread map: a persistent grid; block b of G takes the bundles b, b + G, … (a bundle: kRows tiles of 8 rows,
// which share their activations), so that the whole grid reads a window that moves through the matrix. A
// row's bits don't depend on grid, neighbours or timing. There are two ways through a block's units (a unit:
// a segment of a bundle); both have the next ones' weights in flight in registers while they work on one:
// - In chunks, where what is read for a unit's activations is little beside its weights: a bundle's segments
//   are cut into chunks of kUnits; warp w takes the block's chunks w, w + kWarps, … A chunk's sums go to
//   shared memory and are added in chunk order at the end.
// - In rounds (Walk), else: a warp stays with a segment for all bundles, and holds its activations in
//   registers (gemv_tokens.cuh). Its sums are added in shared memory, segment by segment.
// Bytes: each weight byte once, 16 a lane and load, past the L1; activations from the L1.
// Measured (H200, 2026-11-22, bench/results/cuda-gemv-h200.json), % of the read sweep, alone / launched
// early: 28672×8192 Q4_K 90 / 95 (80 / 84 on other allocations of the same size), Q6_K 90 / 96; the four
// products of a 70B rank's layer in a row Q4_K 80 / 88, Q6_K 84 / 93.
//
// Tried and slower (µs for the four products of a layer, Q4_K, early; this one 60): a ring in shared memory a
// warp by cp.async 62 to 86, by bulk copies 64 to 147; contiguous runs a warp 62 to 66; four units in flight
// 74; bringing 4 to 16 MB of the next matrix into the L2 at the end 63 to 68. Plain reads of the same bytes
// in the same launches take 53.6 (61 when not launched early).
// Four tokens in chunks were bound by the L1, which gives a pair's few words to few lanes (µs for a rank's o,
// gate·up and down of 15 bits, Q4_K, H200: 9.1, 46.3, 33.9; in rounds 7.9, 43.9, 28.1; one token 5.6, 34.5,
// 17.7). Two tokens of 8 bits are slower in rounds (gate·up 39.4, in chunks 38.2).
#pragma once

#include <type_traits>

#include "ops/cuda/gemv_tokens.cuh"
#include "ops/cuda/gemv_walk.h"
#include "ops/cuda/peer_device.cuh"
#include "ops/cuda/quantize_device.cuh"

namespace tandem::cuda {

/// How a kernel is cut: threads a block, blocks a multiprocessor, segments a chunk, tiles a bundle.
/// `kRounds`: a chunk is a segment, units are taken as Walk says, and kUnits of them are in flight.
template <int kThreadsIn, int kBlocksIn, int kUnitsIn, int kRowsIn, bool kRoundsIn = false>
struct GemvShape {
  static constexpr bool kRounds = kRoundsIn;
  static constexpr int kThreads = kThreadsIn;
  static constexpr int kBlocks = kBlocksIn;
  static constexpr int kUnits = kUnitsIn;
  static constexpr int kRows = kRowsIn;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kBundleRows = kRows * kTileRows;

  /// Shared memory of a block, beside that of the sums.
  template <int kTokens, bool kWide>
  static constexpr int64_t shared_bytes() {
    if constexpr (!kRounds)
      return 0;
    else
      return int64_t{kWarps} * device::HeldTokens<kTokens, kWide>::kBytes;
  }
};

namespace device {

/// Whether kernels in chunks multiply two tokens at a time by tensor cores.
template <class F, int kTokens, int kRows>
inline constexpr bool kByPairs = kMultipliesBytes&& QuantFormat<F>&& kTokens == 2 && kRows == 2;

/// Stands for PairRecords where there are none.
struct NoPairs {
  template <int kTokens>
  __device__ NoPairs(const Records<kTokens>& /*records*/, int /*lane*/) {}
};

/// The block's pair number `local`, of all.
__device__ inline int pair_of(const GemvArgs& args, int local, int block, int n_blocks) {
  return args.run == 1 ? block + local * n_blocks : 2 * (block + (local >> 1) * n_blocks) + (local & 1);
}

/// A chunk's weights in flight.
template <class F, class Shape>
struct Chunk {
  static constexpr int kUnitBytes = TileLayout<F>::kUnitBytes;
  Lane<F> lanes[Shape::kUnits][Shape::kRows];
  const std::byte* first = nullptr;  ///< first tile's first unit
  int64_t tile_stride = 0;
  int segment = 0;
  int n = 0;  ///< segments in it

  /// Where item `item` of the block is.
  __device__ void find(const GemvArgs& args, int item, int first_bundle, int n_blocks, bool pair) {
    const int local = divide(item, args.n_chunks, args.chunk_magic);
    const int bundle = pair ? 2 * pair_of(args, local >> 1, first_bundle, n_blocks) + (local & 1)
                            : first_bundle + local * n_blocks;
    const BundlePlace place = place_of(args, bundle, pair);
    segment = (item - local * args.n_chunks) * Shape::kUnits;
    n = min(Shape::kUnits, args.n_segments - segment);
    tile_stride = static_cast<int64_t>(args.n_segments) * kUnitBytes;
    first = tiles_of(args, place.part) + place.bundle * (Shape::kRows * tile_stride) +
            static_cast<int64_t>(segment) * kUnitBytes;
  }
  __device__ void load(int i, int lane) {
#pragma unroll
    for (int r = 0; r < Shape::kRows; ++r)
      load_lane<F>(lanes[i][r], first + r * tile_stride + i * kUnitBytes, lane);
  }
};

/// A warp's units in its order, in shared memory (most_units() of them). All lanes.
template <class F, class Shape, int kTokens>
__device__ inline void list_units(const GemvArgs& args, const Walk<Shape::kWarps>& walk, int block,
                                  int n_blocks, UnitPlace* list) {
  constexpr int kUnitBytes = TileLayout<F>::kUnitBytes;
  constexpr int kSlot = Shape::kBundleRows * kTokens;
  const bool pair = args.epilogue != Epilogue::none;
  const int64_t tile_stride = static_cast<int64_t>(args.n_segments) * kUnitBytes;
  for (int i = static_cast<int>(threadIdx.x % 32); i < walk.size(); i += 32) {
    const auto [segment, local] = walk.unit(i);
    const int bundle =
        pair ? 2 * pair_of(args, local >> 1, block, n_blocks) + (local & 1) : block + local * n_blocks;
    const BundlePlace at = place_of(args, bundle, pair);
    const int slot = (local * args.n_chunks + walk.slot_of(segment)) * kSlot;
    list[i] = {tiles_of(args, at.part) + at.bundle * (Shape::kRows * tile_stride) +
                   static_cast<int64_t>(segment) * kUnitBytes,
               segment, walk.adds(segment) ? ~slot : slot};
  }
  __syncwarp();
}

/// A unit of a bundle's tiles in flight.
template <class F, int kRows>
struct Unit {
  Lane<F> lanes[kRows];

  __device__ void load(const std::byte* unit, int64_t tile_stride, int lane) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) load_lane<F>(lanes[r], unit + r * tile_stride, lane);
  }
};

/// This lane's number, asked for anew, so that what follows from it takes no registers until then.
__device__ inline int ask_lane() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

/// Stores a warp's sums of a chunk, added up over quads. slot: (kTokens, kBundleRows); `add`: to what is
/// there
template <int kRows, int kTokens>
__device__ inline void store_slot(const float (&acc)[kRows][kTokens], float* slot, int lane,
                                  bool add = false) {
  if constexpr (kRows * kTokens % kQuad == 0) {
    // lanes hand each other half of what they hold, twice: in the same order as one value at a time
    constexpr int kSums = kRows * kTokens;
    float half[kSums / 2];
    const bool upper = lane % 2 != 0;
#pragma unroll
    for (int i = 0; i < kSums / 2; ++i) {
      const float low = acc[i / kTokens][i % kTokens];
      const float high = acc[(i + kSums / 2) / kTokens][(i + kSums / 2) % kTokens];
      half[i] = (upper ? high : low) + __shfl_xor_sync(~0U, upper ? low : high, 1);
    }
    const bool outer = lane % kQuad >= 2;
#pragma unroll
    for (int i = 0; i < kSums / 4; ++i) {
      const float sum = (outer ? half[i + kSums / 4] : half[i]) +
                        __shfl_xor_sync(~0U, outer ? half[i] : half[i + kSums / 4], 2);
      const int mine = i + (upper ? kSums / 2 : 0) + (outer ? kSums / 4 : 0);
      float& to = slot[(mine % kTokens * kRows + mine / kTokens) * kTileRows + lane / kQuad];
      to = add ? to + sum : sum;
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        float sum = acc[r][t];
        sum += __shfl_xor_sync(~0U, sum, 1);
        sum += __shfl_xor_sync(~0U, sum, 2);
        if (lane % kQuad == 0) {
          float& to = slot[(t * kRows + r) * kTileRows + lane / kQuad];
          to = add ? to + sum : sum;
        }
      }
    }
  }
}

/// Adds each row's chunks in order, applies the epilogue and writes the outputs. All threads, after a
/// barrier.
template <class Shape, int kTokens>
__device__ inline void finish(const GemvArgs& args, const float* slots, int n_local, int block,
                              int n_blocks) {
  constexpr int kSlot = Shape::kBundleRows * kTokens;
  const PeerSender peers(args.peers);
  const bool pair = args.epilogue != Epilogue::none;
  const auto sum_of = [&](int local, int rest) {
    float sum = 0;
    const float* slot = slots + local * args.n_chunks * kSlot + rest;
#pragma unroll 4
    for (int c = 0; c < args.n_chunks; ++c) sum += slot[c * kSlot];
    return sum;
  };
  for (int i = static_cast<int>(threadIdx.x); i < n_local * kSlot; i += Shape::kThreads) {
    const int local = i / kSlot;
    const int rest = i % kSlot;
    const int token = rest / Shape::kBundleRows;
    BundlePlace place{0, block + local * n_blocks};
    float value;
    if (pair) {
      value = activate(args.epilogue, sum_of(2 * local, rest)) * sum_of(2 * local + 1, rest);
    } else {
      value = sum_of(local, rest);
      place = place_of(args, place.bundle, false);
    }
    const GemvPart& part = args.parts[place.part];
    const int row = place.bundle * Shape::kBundleRows + rest % Shape::kBundleRows;
    if (row >= part.n_rows || token >= args.n_tokens) continue;
    if (part.bias != nullptr) value += part.bias[row];
    if (args.factor != nullptr) value *= *args.factor;
    if (peers.n_ranks() != 0) {
      peers.send(args.peer_token + token, row, part.out_stride, value);
      continue;
    }
    float& out = part.out[token * part.out_stride + row];
    out = args.accumulate ? out + value : value;
  }
}

/// As finish(), for gate and up whose outputs are quantised: a warp a run of 32 rows and token, a lane a row.
/// All threads, after a barrier.
template <class Shape, int kTokens>
__device__ inline void finish_records(const GemvArgs& args, const float* slots, int n_runs, int block,
                                      int n_blocks) {
  constexpr int kSlot = Shape::kBundleRows * kTokens;
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = static_cast<int>(threadIdx.x / 32); i < n_runs * args.n_tokens; i += Shape::kWarps) {
    const int run = i / args.n_tokens;
    const int token = i - run * args.n_tokens;
    const int gate_slot = 2 * (run * args.run + lane / Shape::kBundleRows) * args.n_chunks * kSlot +
                          token * Shape::kBundleRows + lane % Shape::kBundleRows;
    const int up_slot = gate_slot + args.n_chunks * kSlot;
    float gate = 0;
    float up = 0;
#pragma unroll 4
    for (int c = 0; c < args.n_chunks; ++c) {
      gate += slots[gate_slot + c * kSlot];
      up += slots[up_slot + c * kSlot];
    }
    float value = activate(args.epilogue, gate) * up;
    if (args.factor != nullptr) value *= *args.factor;
    if (!(fabsf(value) < INFINITY) && args.not_finite != nullptr) *args.not_finite = 1;
    const int col = args.record_lead + 32 * (block + run * n_blocks);
    std::byte* row = args.records + token * args.record_token_bytes;
    if (args.record_wide) {
      store_row_group<ActForm::q15>(value, row + col / kSegmentCols * ActLayout::kQ15Bytes,
                                    col % kSegmentCols / 32, lane);
    } else {
      store_row_group<ActForm::q8>(value, row + col / kSegmentCols * ActLayout::kQ8Bytes,
                                   col % kSegmentCols / 32, lane);
    }
  }
}

/// The block's dynamic shared memory.
__device__ inline float* block_memory() {
  extern __shared__ float4 memory[];
  return reinterpret_cast<float*>(memory);
}

/// Epilogue and outputs of all the block's sums.
template <class F, class Shape, int kTokens>
__device__ inline void finish_all(const GemvArgs& args, const float* slots, int n_local, int block,
                                  int n_blocks) {
  __syncthreads();
  if constexpr (QuantFormat<F> && Shape::kBundleRows == 16) {
    if (args.records != nullptr) {
      finish_records<Shape, kTokens>(args, slots, n_local, block, n_blocks);
      return;
    }
  }
  finish<Shape, kTokens>(args, slots, n_local, block, n_blocks);
}

/// The body of a kernel in rounds.
template <class F, int kTokens, bool kWide, class Shape>
__device__ inline void gemv_rounds(const GemvArgs& args, int block, int n_blocks) {
  constexpr int kUnits = kMultipliesBytes ? Shape::kUnits : 1;  // ReadTokens leaves no registers for more
  constexpr int kSlot = Shape::kBundleRows * kTokens;
  using Held = std::conditional_t<kMultipliesBytes, HeldTokens<kTokens, kWide>, ReadTokens<kTokens, kWide>>;
  constexpr int kHeldBytes = HeldTokens<kTokens, kWide>::kBytes;  // of a warp
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int n_local = (args.n_bundles - block + n_blocks - 1) / n_blocks;  // bundles, or runs of pairs
  const int n_bundles = n_local * (args.epilogue != Epilogue::none ? 2 * args.run : 1);
  float* const slots = block_memory() + Shape::kWarps * kHeldBytes / 4;  // (n_bundles, n_chunks, kSlot)
  const Walk<Shape::kWarps> walk(args.n_segments, n_bundles, warp);
  UnitPlace* const list =
      reinterpret_cast<UnitPlace*>(slots + n_bundles * args.n_chunks * kSlot) + warp * walk.most_units();

  let_next_start();
  if (args.expert != nullptr) wait_for_inputs();  // which weights these are, a kernel before this one says
  list_units<F, Shape, kTokens>(args, walk, block, n_blocks, list);
  const int n = walk.size();
  const int64_t tile_stride = static_cast<int64_t>(args.n_segments) * TileLayout<F>::kUnitBytes;
  Unit<F, Shape::kRows> units[kUnits];
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    if (i < n) units[i].load(list[i].unit, tile_stride, lane);
  }
  wait_for_inputs();
  Held held(reinterpret_cast<std::byte*>(block_memory()) + warp * kHeldBytes, lane);
  int held_segment = -1;
  int turn = 0;
  if (n > 0) held.bring(args, walk.segment(0));
  for (int begin = 0; begin < n; begin += kUnits) {
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const int at = begin + i;
      if (i != 0 && at >= n) break;
      const UnitPlace place = list[at];
      if (place.segment != held_segment) {
        held_segment = place.segment;
        held.take();
        if (++turn < walk.n_segments()) held.bring(args, walk.segment(turn));
      }
      float products[Shape::kRows][kTokens];
      multiply_held<F>(units[i].lanes, held, lane, products);
      if (at + kUnits < n) units[i].load(list[at + kUnits].unit, tile_stride, lane);
      const bool adds = place.slot < 0;
      store_slot<Shape::kRows, kTokens>(products, slots + (adds ? ~place.slot : place.slot),
                                        kMultipliesBytes ? lane : ask_lane(), adds);
    }
  }
  finish_all<F, Shape, kTokens>(args, slots, n_local, block, n_blocks);
}

/// The kernel's body, for the block `block` of `n_blocks` that work on `args`.
template <class F, int kTokens, bool kWide, class Shape>
__device__ inline void gemv(const GemvArgs& args, int block, int n_blocks) {
  if constexpr (Shape::kRounds) {
    gemv_rounds<F, kTokens, kWide, Shape>(args, block, n_blocks);
    return;
  }
  constexpr int kRecord = record_bytes<F, kWide>();
  constexpr int kUnits = Shape::kUnits;
  float* slots = block_memory();  // (bundles of the block, n_chunks, kTokens, kBundleRows)
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const bool pair = args.epilogue != Epilogue::none;
  const int n_local = (args.n_bundles - block + n_blocks - 1) / n_blocks;  // bundles, or runs of pairs
  const int n_items = n_local * (pair ? 2 * args.run : 1) * args.n_chunks;

  let_next_start();
  if (args.expert != nullptr) wait_for_inputs();  // which weights these are, a kernel before this one says
  Chunk<F, Shape> chunk;
  int item = warp;
  if (item < n_items) {
    chunk.find(args, item, block, n_blocks, pair);
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      if (i < chunk.n) chunk.load(i, lane);
    }
  }
  wait_for_inputs();
  const Records<kTokens> records(args);
  std::conditional_t<kByPairs<F, kTokens, Shape::kRows>, PairRecords, NoPairs> pairs(records, lane);
  for (; item < n_items; item += Shape::kWarps) {
    const int n = chunk.n;
    const int record = chunk.segment * kRecord;
    const bool more = item + Shape::kWarps < n_items;
    if (more) chunk.find(args, item + Shape::kWarps, block, n_blocks, pair);
    float acc[Shape::kRows][kTokens] = {};
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      if (i < n) {
        if constexpr (kByPairs<F, kTokens, Shape::kRows>) {
          float sums[2][2];
          pairs.move_to(record + i * kRecord);
          multiply_pairs<F, 2, kWide>(chunk.lanes[i], pairs, lane, sums);
#pragma unroll
          for (int j = 0; j < 4; ++j) acc[j / 2][j % 2] += sums[j / 2][j % 2];
        } else if constexpr (QuantFormat<F>) {
          LaneInput<F, kWide> input;
          input.load(records.p[0] + record + i * kRecord, lane % kQuad);
          consume<F, kTokens, kWide, Shape::kRows>(chunk.lanes[i], input, records, record + i * kRecord, lane,
                                                   acc);
        } else {
          consume<F, kTokens, Shape::kRows>(chunk.lanes[i], records, record + i * kRecord, lane, acc);
        }
      }
      if (more && i < chunk.n) chunk.load(i, lane);
    }
    store_slot<Shape::kRows, kTokens>(acc, slots + item * Shape::kBundleRows * kTokens,
                                      kTokens == 1 || !kMultipliesBytes ? lane : ask_lane());
  }
  finish_all<F, Shape, kTokens>(args, slots, n_local, block, n_blocks);
}

}  // namespace device

template <class F, int kTokens, bool kWide, class Shape>
__global__ __launch_bounds__(Shape::kThreads,
                             Shape::kBlocks) void gemv_kernel(const __grid_constant__ GemvArgs args) {
  device::gemv<F, kTokens, kWide, Shape>(args, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
}

/// Parts of two formats in one launch: the first blocks work on one, the rest on the other.
template <class A, class B, int kTokens, class Shape>
__global__ __launch_bounds__(Shape::kThreads, Shape::kBlocks) void gemv_mixed_kernel(
    const __grid_constant__ GemvMixedArgs args) {
  const int block = static_cast<int>(blockIdx.x);
  if (block < args.first_blocks) {
    device::gemv<A, kTokens, false, Shape>(args.first, block, args.first_blocks);
  } else {
    device::gemv<B, kTokens, false, Shape>(args.second, block - args.first_blocks,
                                           static_cast<int>(gridDim.x) - args.first_blocks);
  }
}

}  // namespace tandem::cuda
