// y = W x for up to 64 tokens by Hopper's warpgroups: batch_kernel's work (batch_kernel.cuh) where the
// tokens' halves stay in shared memory, from which wgmma reads them once for 64 rows. Instantiated a format
// (format_impl.cuh).
//
// Thread map: a block has three or four warpgroups that multiply and one that brings. A multiplying warp has
// two tiles (an m16 operand); the tiles of all of them are a group. The groups' segments, one group's behind
// the other's, are cut into as many equal runs as there are multiprocessors, a block each: a block ends one
// group, does some whole and begins another. Parts of groups are left in memory, and when a block has done
// its run, it and those that it shares a group with add them up, in the blocks' order, each for some of the
// tokens. So bits depend on shape and number of multiprocessors, not on timing; and all blocks have to run at
// once.
//
// A stage of shared memory holds a unit of work: a segment's tokens and the group's weights, as they lie in
// memory. The bringing warps fill stages as they come free: weights by bulk copies, a tile's each; tokens
// through registers, because wgmma wants neighbouring columns of a token from different quarters of a
// segment, as the four lanes of a row have them, and storing matrices (stmatrix) turns them so. The
// multiplying warps take their weights to registers, make them halves, and give them to the tensor core with
// the tokens where they are. Bytes: each weight byte once, the tokens' once a block and group.
//
// Measured (H200, 2026-11-27, bench/results/cuda-products-h200.json), µs of a 70B rank's q·k·v, o, gate·up,
// down for 64 tokens, Q4_K: 26, 19, 75, 44, by batch_kernel 30, 24, 113, 55; Q6_K: 29, 27, 100, 54 and 32,
// 27, 142, 65. Gate·up is 400 TFLOP/s: the making of halves and the products of four warpgroups overlap, but
// not wholly. Slower, µs of gate·up: tokens by cp.async in words of two columns, or blocks that waited for
// their neighbours one after another, 247; sums written by unrolled code 90. Instances for 8, 16 and 32
// tokens gained nothing: a block fills a multiprocessor, so it can't begin before the kernel before it has
// ended.
#pragma once

#include "ops/cuda/batch_kernel.cuh"
#include "ops/cuda/wgmma.cuh"

namespace tandem::cuda {

/// Whether there is code of them in this build (ops/CMakeLists.txt).
#ifdef TANDEM_WARPGROUPS
inline constexpr bool kHasWarpgroupCode = true;
#else
inline constexpr bool kHasWarpgroupCode = false;
#endif

namespace device {

constexpr int kPanelCols = 64;                      ///< of a panel of tokens
constexpr int kPanels = kSegmentCols / kPanelCols;  ///< of a segment
constexpr int kPanelTokenBytes = 2 * kPanelCols;    ///< of a token in a panel
constexpr int kGroupThreads = 128;                  ///< of a warpgroup

}  // namespace device

/// How the kernel is cut for a format.
template <class F>
struct WarpgroupShape {
  static constexpr int kUnitBytes = TileLayout<F>::kUnitBytes;
  static constexpr int kWarps = kUnitBytes <= 1280 ? 16 : 12;  ///< that multiply
  static constexpr int kMultiplying = 32 * kWarps;             ///< threads
  static constexpr int kThreads = kMultiplying + device::kGroupThreads;
  static constexpr int kRegisters = kWarps == 16 ? 104 : 144;       ///< of a thread that multiplies
  static constexpr int kRegistersToBring = kWarps == 16 ? 64 : 80;  ///< together what the launch gets
  static constexpr int kTiles = 2 * kWarps;
  static constexpr int kTokenTiles = 8;
  static constexpr int kTokens = 8 * kTokenTiles;
  static constexpr int kTokenBytes = kTokens * 2 * kSegmentCols;  ///< of a stage, first
  static constexpr int kStageBytes = kTokenBytes + (kTiles * kUnitBytes + 1023) / 1024 * 1024;
  static constexpr int kMostShared = 225 * 1024;
  static constexpr int kStages = kMostShared / kStageBytes < 6 ? kMostShared / kStageBytes : 6;
  static constexpr int kSharedBytes = kStages * kStageBytes + 1024;  ///< stages begin at multiples of 1024
  static_assert(kStages >= 2);
};

namespace device {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// Units of work (a group's segment) of a block, and who has which.
struct WorkRange {
  int64_t n;  ///< all blocks'
  int begin;
  int end;

  __device__ explicit WorkRange(const BatchArgs& args) : n(int64_t{args.n_groups} * args.n_segments) {
    begin = begin_of(static_cast<int>(blockIdx.x));
    end = begin_of(static_cast<int>(blockIdx.x) + 1);
  }
  __device__ int begin_of(int block) const { return static_cast<int>(n * block / gridDim.x); }
  /// Which block has the unit.
  __device__ int block_of(int unit) const {
    return static_cast<int>((int64_t{unit + 1} * gridDim.x + n - 1) / n) - 1;
  }
};

/// Where in the ring of stages a warp is; phase flips with each round.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

/// The bringing warpgroup's part.
template <class F, class Shape>
struct Bringer {
  static constexpr int kUnitBytes = Shape::kUnitBytes;
  const BatchArgs& args;
  const WorkRange& work;
  uint32_t stages;
  uint64_t* full;   ///< (kStages): a stage's bytes are there
  uint64_t* empty;  ///< (kStages): nobody reads it any more

  /// The next stage's weights; the warps share the tiles, lanes have one each.
  struct Weights {
    static constexpr int kTiles = Shape::kTiles / 4;  // a warp's
    int unit;
    int segment;
    int tile;  ///< of the group's, this lane's
    RingPlace<Shape::kStages> at;
    const std::byte* from = nullptr;

    __device__ explicit Weights(const BatchArgs& args, const WorkRange& work)
        : unit(work.begin), segment(work.begin % args.n_segments) {
      tile = static_cast<int>(threadIdx.x) % kGroupThreads / 32 * kTiles + static_cast<int>(threadIdx.x % 32);
      find(args, work.begin / args.n_segments);
    }
    __device__ static bool has_tile() { return threadIdx.x % 32 < kTiles; }
    __device__ void find(const BatchArgs& args, int group) {
      if (!has_tile()) return;
      const BatchPlace<2, Shape::kWarps> place(args, group, tile / 2);
      const BatchPart& part = args.parts[place.part_of(tile % 2)];
      from = part.tiles + static_cast<int64_t>(min(place.number_of(tile % 2), part.n_tiles - 1)) *
                              args.n_segments * kUnitBytes;
    }
  };
  __device__ void bring(Weights& weights) const {
    if (weights.unit >= work.end) return;
    uint64_t* barrier = full + weights.at.stage;
    if (threadIdx.x % 32 == 0) expect_bytes(barrier, Weights::kTiles * kUnitBytes);
    __syncwarp();
    if (Weights::has_tile())
      copy_bulk(
          stages + weights.at.stage * Shape::kStageBytes + Shape::kTokenBytes + weights.tile * kUnitBytes,
          weights.from + static_cast<int64_t>(weights.segment) * kUnitBytes, kUnitBytes, barrier);
    weights.at.advance();
    ++weights.unit;
    if (++weights.segment == args.n_segments) {
      weights.segment = 0;
      if (weights.unit < work.end) weights.find(args, weights.unit / args.n_segments);
    }
  }

  /// A segment's tokens; a warp brings a panel of each. A load is 128 bytes of four tokens: lane 4 r + q has
  /// quarter q's eight columns of row r, a run of eight columns of a token. They are stored as matrices of
  /// eight such rows and four words.
  struct Tokens {
    static constexpr int kAtOnce = 4;
    static constexpr int kLoads = Shape::kTokens / kAtOnce;  // of a panel
    static constexpr int kInFlight = 8;
    uint4 words[kInFlight];

    static __device__ int panel() { return static_cast<int>(threadIdx.x) % kGroupThreads / 32; }
    static __device__ int lane() { return static_cast<int>(threadIdx.x % 32); }
    /// Loads first … of the segment.
    __device__ void load(const BatchArgs& args, int segment, int first) {
      int token = first * kAtOnce + lane() / 8;
      const std::byte* from = args.x + token * args.x_stride +
                              static_cast<int64_t>(segment) * ActLayout::kF16Bytes +
                              panel() * kPanelTokenBytes + lane() % 8 * 16;
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        words[i] = make_uint4(0, 0, 0, 0);
        if (token < args.n_tokens) words[i] = *reinterpret_cast<const uint4*>(from);
        from += kAtOnce * args.x_stride;
        token += kAtOnce;
      }
    }
    __device__ void store(uint32_t panels, int first) const {
      // Where the lane's row of a matrix goes: matrix lane / 8, row lane % 8.
      const int row = lane() % 8 / 2;
      const int piece = lane() % 2 * kQuad + lane() / 8;
      const uint32_t to =
          panels + panel() * (Shape::kTokens * kPanelTokenBytes) + (first * kAtOnce + row) * kPanelTokenBytes;
#pragma unroll
      for (int i = 0; i < kInFlight; ++i)
        store_matrices(to + i * (kAtOnce * kPanelTokenBytes) + (piece ^ (row + i % 2 * kAtOnce)) * 16,
                       words[i]);
    }
  };

  __device__ void run() const {
    Weights weights(args, work);
#pragma unroll 1
    for (int i = 0; i < Shape::kStages; ++i) bring(weights);
    wait_for_inputs();
    RingPlace<Shape::kStages> at;
    int segment = work.begin % args.n_segments;
    Tokens tokens;
    tokens.load(args, segment, 0);
#pragma unroll 1
    for (int unit = work.begin; unit < work.end; ++unit) {
      if (unit - work.begin >= Shape::kStages) {
        await_phase(empty + at.stage, at.phase ^ 1);
        bring(weights);
      }
      const uint32_t panels = stages + at.stage * Shape::kStageBytes;
      tokens.store(panels, 0);
#pragma unroll 1
      for (int first = Tokens::kInFlight; first < Tokens::kLoads; first += Tokens::kInFlight) {
        tokens.load(args, segment, first);
        tokens.store(panels, first);
      }
      show_to_products();
      arrive(full + at.stage);
      at.advance();
      if (++segment == args.n_segments) segment = 0;
      if (unit + 1 < work.end) tokens.load(args, segment, 0);
    }
  }
};

/// acc += the warpgroup's weights × a segment's tokens (at `panels`).
template <QuantFormat F>
__device__ inline void multiply_panels(const Lane<F> (&lanes)[2], int lane, uint32_t panels,
                                       float (&acc)[WarpgroupShape<F>::kTokenTiles][4]) {
  const HalfScales<F> scales[2] = {HalfScales<F>(scales_of<F>(lanes[0], lane)),
                                   HalfScales<F>(scales_of<F>(lanes[1], lane))};
  const uint64_t operand = swizzled_operand(panels);
#pragma unroll
  for (int i = 0; i < kLaneCols / 8; ++i) {
    HalfWord words[2][2];
#pragma unroll
    for (int w = 0; w < 2; ++w) {
#pragma unroll
      for (int r = 0; r < 2; ++r) words[w][r] = half_word<F>(lanes[r], scales[r], i / 4, 2 * i % 8 + w);
    }
    const uint32_t at = i / 2 * (WarpgroupShape<F>::kTokens * kPanelTokenBytes) + i % 2 * 64;
    begin_products();
#pragma unroll
    for (int w = 0; w < 2; ++w)
      multiply_group(acc, bits_of(words[w][0].low), bits_of(words[w][1].low), bits_of(words[w][0].high),
                     bits_of(words[w][1].high), operand + (at + 32 * w) / 16);
    end_of_products();
    if (i + 1 < kLaneCols / 8) {
      await_products<1>();
    } else {
      await_products<0>();
    }
  }
  pin(acc);
}

/// Where blocks leave their sums of a part of a group: two parts a block, of its first group and its last.
template <class Shape>
struct PartSums {
  static constexpr int kTokenTiles = Shape::kTokenTiles;
  static constexpr int kSums = 4 * kTokenTiles;  // a thread
  float* first;                                  // of this thread

  __device__ explicit PartSums(const BatchArgs& args) : first(args.partials + threadIdx.x) {}
  __device__ float* at(int block, int which, int j) const {
    return first + ((int64_t{2} * block + which) * kSums + 4 * j) * Shape::kMultiplying;
  }
  __device__ void leave(int which, const float (&acc)[kTokenTiles][4]) const {
    float* sums = at(static_cast<int>(blockIdx.x), which, 0);
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) __stcg(sums + (4 * j + e) * Shape::kMultiplying, acc[j][e]);
    }
  }
};

/// Adds up the group's sums that blocks first … last left, this block's share of the tokens, and writes them.
/// first_which: the first block's part; the others' is their first. A loop, because code that runs once is
/// waited for longer than it runs.
template <class Shape>
__device__ inline void finish_group(const BatchArgs& args, int group, int first, int last, int first_which) {
  const PartSums<Shape> parts(args);
  const BatchPlace<2, Shape::kWarps> place(args, group, static_cast<int>(threadIdx.x / 32));
  const int n_tiles = (args.n_tokens + 7) / 8;
#pragma unroll 1
  for (int j = static_cast<int>(blockIdx.x) - first; j < n_tiles; j += last - first + 1) {
    float acc[1][1][4];
    const float* sums = parts.at(first, first_which, j);
#pragma unroll
    for (int e = 0; e < 4; ++e) acc[0][0][e] = __ldcg(sums + e * Shape::kMultiplying);
#pragma unroll 1
    for (int block = first + 1; block <= last; ++block) {
      sums = parts.at(block, 0, j);
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[0][0][e] += __ldcg(sums + e * Shape::kMultiplying);
    }
    store_sums<2, 1, Shape::kWarps>(args, place, BatchShare{}, static_cast<int>(threadIdx.x % 32), acc,
                                    8 * j);
  }
}

/// A multiplying warp's part.
template <QuantFormat F>
__device__ inline void multiply_run(const BatchArgs& args, const WorkRange& work, const std::byte* memory,
                                    uint32_t stages, uint64_t* full, uint64_t* empty) {
  using Shape = WarpgroupShape<F>;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int n_segments = args.n_segments;
  const int first_group = work.begin / n_segments;
  const PartSums<Shape> parts(args);
  wait_for_inputs();  // the tokens' scales are read by these warps
  RingPlace<Shape::kStages> at;
  float acc[1][Shape::kTokenTiles][4] = {};
  int group = first_group;
  int segment = work.begin - group * n_segments;
  bool whole = segment == 0;  // so far, of this block's part of the group
#pragma unroll 1
  for (int unit = work.begin; unit < work.end; ++unit) {
    await_phase(full + at.stage, at.phase);
    Lane<F> lanes[2];
    const std::byte* mine =
        memory + at.stage * Shape::kStageBytes + Shape::kTokenBytes + 2 * warp * Shape::kUnitBytes;
    load_lane<F, FromShared>(lanes[0], mine, lane);
    load_lane<F, FromShared>(lanes[1], mine + Shape::kUnitBytes, lane);
    multiply_panels<F>(lanes, lane, stages + at.stage * Shape::kStageBytes, acc[0]);
    arrive(empty + at.stage);
    at.advance();
    ++segment;
    if (segment < n_segments && unit + 1 < work.end) continue;
    const int which = group == first_group ? 0 : 1;
    parts.leave(which, acc[0]);
    if (whole && segment == n_segments) {
      const int self = static_cast<int>(blockIdx.x);
      finish_group<Shape>(args, group, self, self, which);  // each thread's own sums
    } else {
      come<Shape::kMultiplying>(args.tickets + 2 * work.block_of(group * n_segments));
    }
    ++group;
    segment = 0;
    whole = true;
#pragma unroll
    for (int j = 0; j < Shape::kTokenTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[0][j][e] = 0;
    }
  }
  const int last_group = (work.end - 1) / n_segments;
#pragma unroll 1
  for (group = first_group; group <= last_group;
       group += last_group > first_group ? last_group - first_group : 1) {
    const int first = work.block_of(group * n_segments);
    const int last = work.block_of((group + 1) * n_segments - 1);
    if (first == last) continue;
    await_blocks<Shape::kMultiplying>(args.tickets + 2 * first, last - first + 1);
    // The first block may have begun with the group before; the others begin within this one.
    finish_group<Shape>(args, group, first, last, work.begin_of(first) < group * n_segments ? 1 : 0);
  }
}

#endif

}  // namespace device

/// Up to 64 tokens.
template <QuantFormat F>
__global__ __launch_bounds__(WarpgroupShape<F>::kThreads,
                             1) void warpgroup_kernel(const __grid_constant__ BatchArgs args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using namespace device;
  using Shape = WarpgroupShape<F>;
  extern __shared__ uint4 staged[];  // from a multiple of 1024 on (kStages, kStageBytes): (kPanels, kTokens,
                                     // kPanelTokenBytes), (kTiles, kUnitBytes)
  __shared__ uint64_t full[Shape::kStages];
  __shared__ uint64_t empty[Shape::kStages];
  const auto shared = shared_address(staged);
  const uint32_t stages = (shared + 1023) / 1024 * 1024;
  let_next_start();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < Shape::kStages; ++i) {
      make_barrier(full + i, kGroupThreads + 4);  // its threads' tokens, its warps' weights
      make_barrier(empty + i, Shape::kMultiplying);
    }
    show_barriers();
  }
  __syncthreads();
  const WorkRange work(args);
  if (threadIdx.x >= Shape::kMultiplying) {
    give_registers<Shape::kRegistersToBring>();
    Bringer<F, Shape>{args, work, stages, full, empty}.run();
  } else {
    take_registers<Shape::kRegisters>();
    multiply_run<F>(args, work, reinterpret_cast<const std::byte*>(staged) + (stages - shared), stages, full,
                    empty);
  }
#endif
}

template <QuantFormat F>
BatchKernel warpgroup_instance() {
  using Shape = WarpgroupShape<F>;
  return {reinterpret_cast<const void*>(warpgroup_kernel<F>),
          Shape::kTokens,
          Shape::kTiles,
          1,
          Shape::kThreads,
          Shape::kSharedBytes,
          true};
}

}  // namespace tandem::cuda
