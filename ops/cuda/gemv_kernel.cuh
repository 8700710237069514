// y = W x for 1 to 4 tokens: every format, one kernel template. Instantiated in a unit a format.
//
// Thread map: a persistent grid; block b of G takes the bundles b, b + G, … (a bundle: kRows tiles of 8 rows,
// which share their activations), so that the whole grid reads a window that moves through the matrix. Gate
// and up whose rows are quantised in groups of 32 go by runs of as many; where these don't come out even,
// two blocks of a cluster share each run (BlockShare, gemv_sums.cuh). A row's bits don't depend on grid,
// neighbours or timing. There are two ways through a block's units (a unit: a segment of a bundle); both have
// the next ones' weights in flight while they work on one:
// - In chunks, of one token, and where weights are floats: a bundle's segments are cut into chunks of kUnits;
//   warp w takes the block's chunks w, w + kWarps, … A chunk's sums go to shared memory and are added in
//   chunk order at the end.
// - In rounds (Walk), of more: a warp stays with a segment for all bundles, and holds its activations in
//   registers (gemv_tokens.cuh). Where its units lie it writes down before it begins: a quarter of the loop's
//   instructions otherwise. Its sums are added in shared memory, segment by segment.
// Bytes: each weight byte once, 16 a lane and load, past the L1; activations from the L1.
// Measured (H200, 2026-11-22, bench/results/cuda-gemv-h200.json), % of the read sweep, alone / launched
// early: 28672×8192 Q4_K 90 / 95 (80 / 84 on other allocations of the same size), Q6_K 90 / 96; the four
// products of a 70B rank's layer in a row Q4_K 80 / 88, Q6_K 84 / 93. One, two and four tokens (2026-11-27,
// bench/results/cuda-gemv-tokens-h200.json), µs of a rank's qkv, o, gate·up and down, Q4_K: 8.8, 6.9, 34.4,
// 18.9; 9.2, 7.6, 35.3, 20.0; 9.5, 8.0, 36.2, 23.3. Four are bound by the integer units that take weights
// apart.
//
// Tried and slower (µs for the four products of a layer, Q4_K, early; this one 60): a ring in shared memory a
// warp by cp.async 62 to 86, by bulk copies 64 to 147; contiguous runs a warp 62 to 66; four units in flight
// 74; bringing 4 to 16 MB of the next matrix into the L2 at the end 63 to 68. Plain reads of the same bytes
// in the same launches take 53.6 (61 when not launched early). Of four tokens (gate·up 38.5 at the time):
// units brought into the L2 two to eight ahead 41 to 44; clusters that share a bundle's segments in place of
// its rows 37.4 for 36.8, and 0.8 more for the small products; 12 warps for 16 with two units in flight each
// 50. Other shares of the multiprocessor's memory for the L1 than the driver chooses: no faster.
#pragma once

#include <type_traits>

#include "ops/cuda/gemv_sums.cuh"
#include "ops/cuda/gemv_tokens.cuh"
#include "ops/cuda/gemv_walk.h"

namespace tandem::cuda {

/// How a kernel is cut: threads a block, blocks a multiprocessor, segments a chunk, tiles a bundle.
/// `kRounds`: a chunk is a segment, units are taken as Walk says, and kUnits of them are in flight (0: one,
/// in shared memory).
template <int kThreadsIn, int kBlocksIn, int kUnitsIn, int kRowsIn, bool kRoundsIn = false>
struct GemvShape {
  static constexpr bool kRounds = kRoundsIn;
  static constexpr int kThreads = kThreadsIn;
  static constexpr int kBlocks = kBlocksIn;
  static constexpr int kUnits = kUnitsIn;
  static constexpr int kRows = kRowsIn;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kBundleRows = kRows * kTileRows;
};

namespace device {

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
  __device__ void find(const GemvArgs& args, int item, const BlockShare& share) {
    const int local = divide(item, args.n_chunks, args.chunk_magic);
    const BundlePlace place = place_of(args, share.bundle(args, local), args.epilogue != Epilogue::none);
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
__device__ inline void list_units(const GemvArgs& args, const Walk<Shape::kWarps>& walk,
                                  const BlockShare& share, UnitPlace* list) {
  constexpr int kUnitBytes = TileLayout<F>::kUnitBytes;
  constexpr int kSlot = Shape::kBundleRows * kTokens;
  const int64_t tile_stride = static_cast<int64_t>(args.n_segments) * kUnitBytes;
  for (int i = static_cast<int>(threadIdx.x % 32); i < walk.size(); i += 32) {
    const auto [segment, local] = walk.unit(i);
    const BundlePlace at = place_of(args, share.bundle(args, local), args.epilogue != Epilogue::none);
    const int slot = (local * args.n_chunks + walk.slot_of(segment)) * kSlot;
    list[i] = {tiles_of(args, at.part) + at.bundle * (Shape::kRows * tile_stride) +
                   static_cast<int64_t>(segment) * kUnitBytes,
               segment, walk.adds(segment) ? ~slot : slot};
  }
  __syncwarp();
}

/// The next units of a warp's list in flight: kUnits of them in registers, or one in shared memory where
/// kUnits is 0.
template <class F, int kRows, int kUnits>
class UnitsInFlight {
 public:
  static constexpr int kBytes = 0;

  __device__ UnitsInFlight(std::byte* /*shared*/, const UnitPlace* list, int n, int64_t tile_stride, int lane)
      : list_(list), n_(n), tile_stride_(tile_stride), lane_(lane) {
#pragma unroll
    for (int i = 0; i < kUnits; ++i) bring(i, i);
  }
  /// Unit number `at`, which is of those whose number has the remainder i, divided by kUnits.
  __device__ const Lane<F> (&unit(int /*at*/, int i))[kRows] {
    return lanes_[i];
  }
  /// Unit `at` is done with.
  __device__ void next(int at, int i) {
    bring(at + kUnits, i);
  }

 private:
  __device__ void bring(int at, int i) {
    if (at >= n_) return;
    const std::byte* unit = list_[at].unit;
#pragma unroll
    for (int r = 0; r < kRows; ++r) load_lane<F>(lanes_[i][r], unit + r * tile_stride_, lane_);
  }

  Lane<F> lanes_[kUnits][kRows];
  const UnitPlace* list_;
  int n_;
  int64_t tile_stride_;
  int lane_;
};

template <class F, int kRows>
class UnitsInFlight<F, kRows, 0> {
 public:
  static constexpr int kBytes = kRows * TileLayout<F>::kUnitBytes;  ///< shared memory

  __device__ UnitsInFlight(std::byte* shared, const UnitPlace* list, int n, int64_t tile_stride, int lane)
      : shared_(shared), list_(list), n_(n), tile_stride_(tile_stride), lane_(lane) {
    bring(0);
  }
  __device__ const Lane<F> (&unit(int at, int /*i*/))[kRows] {
    await_copies<0>();
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      load_lane<F, FromShared>(lanes_[r], shared_ + r * TileLayout<F>::kUnitBytes, lane_);
    __syncwarp();
    bring(at + 1);
    return lanes_;
  }
  __device__ void next(int /*at*/, int /*i*/) {}

 private:
  __device__ void bring(int at) {
    if (at >= n_) return;
    constexpr int kPieces = TileLayout<F>::kUnitBytes / 16;
    const std::byte* unit = list_[at].unit;
    const auto to = shared_address(shared_);
#pragma unroll
    for (int i = 0; i < kRows * kPieces; i += 32) {
      if (i + 32 > kRows * kPieces && i + lane_ >= kRows * kPieces) break;
      const int r = (i + lane_) / kPieces;
      copy_ahead(to + (i + lane_) * 16, unit + r * tile_stride_ + (i + lane_ - r * kPieces) * 16);
    }
    end_of_copies();
  }

  Lane<F> lanes_[kRows];
  std::byte* shared_;
  const UnitPlace* list_;
  int n_;
  int64_t tile_stride_;
  int lane_;
};

/// Shared memory of a block's warps for what they have in flight or hold, on Ampere and later.
template <class F, int kTokens, bool kWide, class Shape>
constexpr int64_t own_bytes() {
  if constexpr (!Shape::kRounds)
    return 0;
  else
    return int64_t{Shape::kWarps} *
           (HeldTokens<kTokens, kWide>::kBytes + UnitsInFlight<F, Shape::kRows, Shape::kUnits>::kBytes);
}

/// This lane's number, asked for anew, so that what follows from it takes no registers until then.
__device__ inline int ask_lane() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

/// The block's dynamic shared memory.
__device__ inline float* block_memory() {
  extern __shared__ float4 memory[];
  return reinterpret_cast<float*>(memory);
}

/// The body of a kernel in rounds.
template <class F, int kTokens, bool kWide, class Shape>
__device__ inline void gemv_rounds(const GemvArgs& args, const BlockShare& share) {
  constexpr int kUnits = kMultipliesBytes ? Shape::kUnits : 1;  // ReadTokens leaves no registers for more
  constexpr int kAtOnce = kUnits == 0 ? 1 : kUnits;
  constexpr int kSlot = Shape::kBundleRows * kTokens;
  using Held = std::conditional_t<kMultipliesBytes, HeldTokens<kTokens, kWide>, ReadTokens<kTokens, kWide>>;
  using InFlight = UnitsInFlight<F, Shape::kRows, kUnits>;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  // Shared memory: the warps' own, sums (n_bundles, n_chunks, kSlot), the warps' lists, what finish_all()
  // has.
  constexpr int kOwnBytes = Held::kBytes + InFlight::kBytes;
  std::byte* const own = reinterpret_cast<std::byte*>(block_memory()) + warp * kOwnBytes;
  const int n_bundles = share.n_bundles(args);
  float* const slots = block_memory() + Shape::kWarps * kOwnBytes / 4;
  const Walk<Shape::kWarps> walk(args.n_segments, n_bundles, warp);
  auto* const lists = reinterpret_cast<UnitPlace*>(slots + n_bundles * args.n_chunks * kSlot);
  UnitPlace* const list = lists + warp * walk.most_units();

  let_next_start();
  if (args.expert != nullptr) wait_for_inputs();  // which weights these are, a kernel before this one says
  list_units<F, Shape, kTokens>(args, walk, share, list);
  const int n = walk.size();
  InFlight units(own + Held::kBytes, list, n,
                 static_cast<int64_t>(args.n_segments) * TileLayout<F>::kUnitBytes, lane);
  wait_for_inputs();
  Held held(own, lane);
  int held_segment = -1;
  int turn = 0;
  if (n > 0) held.bring(args, walk.segment(0));
  for (int begin = 0; begin < n; begin += kAtOnce) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = begin + i;
      if (i != 0 && at >= n) break;
      const UnitPlace place = list[at];
      if (place.segment != held_segment) {
        held_segment = place.segment;
        held.take();
        if (++turn < walk.n_segments()) held.bring(args, walk.segment(turn));
      }
      float products[Shape::kRows][kTokens];
      multiply_held<F>(units.unit(at, i), held, lane, products);
      units.next(at, i);
      const bool adds = place.slot < 0;
      store_slot<Shape::kRows, kTokens>(products, slots + (adds ? ~place.slot : place.slot),
                                        kMultipliesBytes ? lane : ask_lane(), adds);
    }
  }
  auto* const staged = reinterpret_cast<float*>(lists + Shape::kWarps * walk.most_units());
  finish_all<F, Shape, kTokens>(args, slots, share, staged);
}

/// The kernel's body, for the block `block` of `n_blocks` that work on `args`.
template <class F, int kTokens, bool kWide, class Shape>
__device__ inline void gemv(const GemvArgs& args, int block, int n_blocks) {
  const BlockShare share(args, block, n_blocks);
  if (args.n_halves == 2) cluster_arrive();  // finish_records() waits
  if constexpr (Shape::kRounds) {
    gemv_rounds<F, kTokens, kWide, Shape>(args, share);
    return;
  }
  constexpr int kRecord = record_bytes<F, kWide>();
  constexpr int kUnits = Shape::kUnits;
  constexpr int kSlot = Shape::kBundleRows * kTokens;
  float* slots = block_memory();  // (bundles of the block, n_chunks, kSlot)
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int n_items = share.n_bundles(args) * args.n_chunks;

  let_next_start();
  if (args.expert != nullptr) wait_for_inputs();  // which weights these are, a kernel before this one says
  Chunk<F, Shape> chunk;
  int item = warp;
  if (item < n_items) {
    chunk.find(args, item, share);
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      if (i < chunk.n) chunk.load(i, lane);
    }
  }
  wait_for_inputs();
  const Records<kTokens> records(args);
  for (; item < n_items; item += Shape::kWarps) {
    const int n = chunk.n;
    const int record = chunk.segment * kRecord;
    const bool more = item + Shape::kWarps < n_items;
    if (more) chunk.find(args, item + Shape::kWarps, share);
    float acc[Shape::kRows][kTokens] = {};
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      if (i < n) {
        if constexpr (QuantFormat<F>) {
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
    store_slot<Shape::kRows, kTokens>(acc, slots + item * kSlot,
                                      kTokens == 1 || !kMultipliesBytes ? lane : ask_lane());
  }
  finish_all<F, Shape, kTokens>(args, slots, share, slots + n_items * kSlot);
}

}  // namespace device

template <class F, int kTokens, bool kWide, class Shape>
__global__ __launch_bounds__(Shape::kThreads,
                             Shape::kBlocks) void gemv_kernel(const __grid_constant__ GemvArgs args) {
  device::gemv<F, kTokens, kWide, Shape>(args, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
}

/// Parts of two formats in one launch: the first blocks work on one, the rest on the other.
template <class A, class B, int kTokens, class ShapeA, class ShapeB>
__global__ __launch_bounds__(ShapeA::kThreads, ShapeA::kBlocks) void gemv_mixed_kernel(
    const __grid_constant__ GemvMixedArgs args) {
  const int block = static_cast<int>(blockIdx.x);
  if (block < args.first_blocks) {
    device::gemv<A, kTokens, false, ShapeA>(args.first, block, args.first_blocks);
  } else {
    device::gemv<B, kTokens, false, ShapeB>(args.second, block - args.first_blocks,
                                            static_cast<int>(gridDim.x) - args.first_blocks);
  }
}

}  // namespace tandem::cuda
