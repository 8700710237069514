// out[token][row] = Σ w[row][col] · x[token][col], halves, sums in float, by Hopper's warpgroups.
//
// Thread map: a block a tile of 128 rows × 64, 128, 192 or 256 tokens: two warpgroups with 64 rows each
// multiply, one warp brings. With a gate the first has 64 rows of gate, the second the same rows of up; at
// the end they exchange half of their sums through shared memory, and each finishes half of the tokens.
//
// A stage of shared memory holds 64 columns of the tile's rows and tokens, both as tensor copies (TMA) lay
// them: a row's 128 bytes one behind another, their 16-byte pieces exchanged as wgmma wants them. The
// bringing warp's first lane asks for stages as they come free; what lies beyond the matrices arrives as
// zeros.
//
// Sums: an element's columns are added 16 at a time from the first to the last, by one warpgroup, whatever
// the tile: its bits depend on its row and its token alone.
// Bytes: a block reads (128 + tokens) rows of halves, mostly from the L2: neighbouring blocks have the same
// rows and the next tokens. Each output is written once.
//
// Measured (H200, 2026-11-27, bench/results/cuda-unpacked-h200.json), µs of a 70B rank's q·k·v, o, gate·up,
// down for 2048 tokens, unpacking included: 291, 206, 1367, 645; by cuBLASLt and a pass over its sums 259,
// 240, 1406, 661. q·k·v's tiles leave a fifth of the multiprocessors idle in the last wave. Gate·up with its
// activation and halves takes 1421, by cuBLASLt and one pass over both 1349: what a block does with its sums
// goes by beside nothing.
#include "ops/cuda/gemm.h"

#include <cuda.h>

#include <algorithm>
#include <array>
#include <limits>

#include "ops/core/check.h"
#include "ops/core/range.h"
#include "ops/cuda/gemv_device.cuh"
#include "ops/cuda/launch.h"
#include "ops/cuda/status.h"
#include "ops/cuda/wgmma.cuh"

namespace tandem::cuda {
namespace {

constexpr int kGroupRows = 64;  ///< of a warpgroup
constexpr int kRows = 2 * kGroupRows;
constexpr int kStageCols = 64;  ///< 128 bytes: what the exchange of pieces goes round in
constexpr int kColBytes = 2 * kStageCols;
constexpr int kGroupThreads = 128;
constexpr int kMultiplying = 2 * kGroupThreads;
constexpr int kThreads = kMultiplying + kGroupThreads;

template <int kTokens>
struct GemmShape {
  static constexpr int kStageBytes = (kRows + kTokens) * kColBytes;
  static constexpr int kStages = 196608 / kStageBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + 1024;  ///< stages begin at multiples of 1024
};

struct DevicePart {
  CUtensorMap w;  ///< boxes of kGroupRows × kStageCols
  float* out;
  int64_t out_stride;
  const float* bias;
  float power;
  int32_t m;
  int32_t end_tile;  ///< tiles of rows of this part and those before it
};

struct GemmArgs {
  CUtensorMap x;  ///< boxes of a tile's tokens × kStageCols
  DevicePart parts[kMaxGemmParts];
  const float* scales;
  int64_t scale_stride;
  int32_t n;
  int32_t n_steps;      ///< stages a tile
  int32_t n_row_tiles;  ///< of all parts
  Epilogue gate;
};

}  // namespace

namespace device {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// A box of a tensor, `col` and `row` its first, to shared memory; the barrier counts its bytes.
__device__ inline void copy_box(uint32_t to, const CUtensorMap& map, int col, int row, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(col), "r"(row), "r"(shared_address(barrier))
      : "memory");
}

/// Which tile a block has: those of kGroupTiles tiles of tokens follow one another, rows by rows.
struct TilePlace {
  static constexpr int kGroupTiles = 8;
  int part = 0;
  int row;
  int token;

  __device__ TilePlace(const GemmArgs& args, int tokens) {
    const int n_tiles = (args.n + tokens - 1) / tokens;
    const auto block = static_cast<int>(blockIdx.x);
    const int group = block / (kGroupTiles * args.n_row_tiles);
    const int width = min(kGroupTiles, n_tiles - group * kGroupTiles);
    const int within = block - group * kGroupTiles * args.n_row_tiles;
    token = (group * kGroupTiles + within % width) * tokens;
    int tile = within / width;
    int before = 0;
    while (tile >= args.parts[part].end_tile) before = args.parts[part++].end_tile;
    tile -= before;
    row = tile * (args.gate == Epilogue::none ? kRows : kGroupRows);
  }
};

template <int kTokens>
__device__ inline void bring_stages(const GemmArgs& args, const TilePlace& place, uint32_t stages,
                                    uint64_t* full, uint64_t* empty) {
  using Shape = GemmShape<kTokens>;
  const bool gated = args.gate != Epilogue::none;
  const CUtensorMap& first = args.parts[place.part].w;
  const CUtensorMap& second = gated ? args.parts[1].w : first;
  const int second_row = place.row + (gated ? 0 : kGroupRows);
  int stage = 0;
  uint32_t phase = 0;
#pragma unroll 1
  for (int step = 0; step < args.n_steps; ++step) {
    if (step >= Shape::kStages) await_phase(empty + stage, phase ^ 1);
    const uint32_t to = stages + stage * Shape::kStageBytes;
    expect_bytes(full + stage, Shape::kStageBytes);
    copy_box(to, first, step * kStageCols, place.row, full + stage);
    copy_box(to + kGroupRows * kColBytes, second, step * kStageCols, second_row, full + stage);
    copy_box(to + kRows * kColBytes, args.x, step * kStageCols, place.token, full + stage);
    if (++stage == Shape::kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
}

template <int kTokens>
__device__ inline void multiply_stages(const GemmArgs& args, uint32_t stages, uint64_t* full, uint64_t* empty,
                                       float (&acc)[kTokens / 8][4]) {
  using Shape = GemmShape<kTokens>;
  const uint32_t my_rows = static_cast<uint32_t>(threadIdx.x / kGroupThreads) * (kGroupRows * kColBytes);
  int stage = 0;
  int before = 0;  // the stage of the step before
  uint32_t phase = 0;
#pragma unroll 1
  for (int step = 0; step < args.n_steps; ++step) {
    await_phase(full + stage, phase);
    const uint32_t at = stages + stage * Shape::kStageBytes;
    const uint64_t rows = swizzled_operand(at + my_rows);
    const uint64_t tokens = swizzled_operand(at + kRows * kColBytes);
    begin_products();
#pragma unroll
    for (int i = 0; i < kStageCols / 16; ++i) multiply_shared(acc, rows + 2 * i, tokens + 2 * i);
    end_of_products();
    await_products<1>();
    if (step > 0 && threadIdx.x % 32 == 0) arrive(empty + before);
    before = stage;
    if (++stage == Shape::kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
  await_products<0>();
  pin(acc);
}

/// All multiplying threads.
__device__ inline void meet_multiplying() {
  asm volatile("bar.sync 1, %0;" ::"n"(kMultiplying) : "memory");
}

/// What a token's sums are multiplied with, beside its part's power.
__device__ inline float scale_of(const GemmArgs& args, int token) {
  if (args.scales == nullptr || token >= args.n) return 1;
  return *reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(args.scales) +
                                         token * args.scale_stride);
}

/// As activate(), with a faster division: nothing else goes on meanwhile.
__device__ inline float gated(Epilogue kind, float gate, float up) {
  if (kind == Epilogue::swiglu) return __fdividef(gate, 1.0F + __expf(-gate)) * up;
  return activate(kind, gate) * up;
}

/// A thread's sums: rows g and g + 8 of its warp's 16, tokens 8 j + 2 c, + 1. scales: (kTokens), in shared
/// memory
template <int kTokens>
struct TileSums {
  static constexpr int kEights = kTokens / 8;
  const GemmArgs& args;
  const TilePlace& place;
  const DevicePart& part;
  const float* scales;
  int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  int group = static_cast<int>(threadIdx.x) / kGroupThreads;
  int row;    ///< of the matrix
  int token;  ///< of the tile
  float* out;

  __device__ TileSums(const GemmArgs& args_in, const TilePlace& place_in, const float* scales_in)
      : args(args_in), place(place_in), part(args_in.parts[place_in.part]), scales(scales_in) {
    const bool own_rows = args.gate == Epilogue::none;  // or both groups have the same
    row = place.row + (own_rows ? group * kGroupRows : 0) + thread / 32 * 16 + thread % 32 / 4;
    token = thread % 4 * 2;
    out = part.out + (place.token + token) * part.out_stride + row;
  }

  /// f(j, e, a token's scale) becomes the output that sum e of the tokens 8 (begin + j) … belongs to.
  template <int kEightsOfIt, class F>
  __device__ void store_eights(int begin, const F& f) const {
    const int n_tokens = args.n - place.token - token;  // that are there, from this thread's first on
    const int n_rows = part.m - row;
    float* to = out + int64_t{8} * begin * part.out_stride;
#pragma unroll
    for (int j = 0; j < kEightsOfIt; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (8 * (begin + j) + e % 2 < n_tokens && e / 2 * 8 < n_rows)
          to[e % 2 * part.out_stride + e / 2 * 8] = f(j, e, scales[8 * (begin + j) + token + e % 2]);
      }
      to += 8 * part.out_stride;
    }
  }

  __device__ void store(const float (&acc)[kEights][4]) const {
    float bias[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (part.bias != nullptr && row + 8 * i < part.m) bias[i] = part.bias[row + 8 * i];
    }
    const float power = part.power;
    store_eights<kEights>(
        0, [&](int j, int e, float scale) { return acc[j][e] * (power * scale) + bias[e / 2]; });
  }

  /// Gate's sums are the first group's, up's the second's: each group gives the other those of half of the
  /// tokens. exchange: (kEights / 2, 4, 2, kGroupThreads)
  __device__ void store_gated(float (&acc)[kEights][4], float* exchange) const {
    constexpr int kHalf = kEights / 2;
    float* given = exchange + group * kGroupThreads + thread;
    const float* got = exchange + (1 - group) * kGroupThreads + thread;
#pragma unroll
    for (int j = 0; j < kHalf; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        given[(4 * j + e) * 2 * kGroupThreads] = group == 0 ? acc[kHalf + j][e] : acc[j][e];
        if (group != 0) acc[j][e] = acc[kHalf + j][e];
      }
    }
    meet_multiplying();
    const float power = part.power;
    store_eights<kHalf>(group * kHalf, [&](int j, int e, float scale) {
      const float own = acc[j][e] * (power * scale);
      const float other = got[(4 * j + e) * 2 * kGroupThreads] * (power * scale);
      return group == 0 ? gated(args.gate, own, other) : gated(args.gate, other, own);
    });
  }
};

#endif

}  // namespace device

namespace {

template <int kTokens>
__global__ __launch_bounds__(kThreads, 1) void gemm_kernel(const __grid_constant__ GemmArgs args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using namespace device;
  using Shape = GemmShape<kTokens>;
  extern __shared__ uint4 staged[];  // from a multiple of 1024 on (kStages, kStageBytes): rows, tokens
  __shared__ uint64_t full[Shape::kStages];
  __shared__ uint64_t empty[Shape::kStages];
  __shared__ float scales[kTokens];
  const uint32_t stages = (shared_address(staged) + 1023) / 1024 * 1024;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < Shape::kStages; ++i) {
      make_barrier(full + i, 1);
      make_barrier(empty + i, kMultiplying / 32);
    }
    show_barriers();
  }
  __syncthreads();
  const TilePlace place(args, kTokens);
  if (threadIdx.x >= kMultiplying) {
    give_registers<40>();
    if (threadIdx.x == kMultiplying) bring_stages<kTokens>(args, place, stages, full, empty);
  } else {
    take_registers<232>();
    if (threadIdx.x < kTokens)
      scales[threadIdx.x] = scale_of(args, place.token + static_cast<int>(threadIdx.x));
    float acc[kTokens / 8][4] = {};
    multiply_stages<kTokens>(args, stages, full, empty, acc);
    meet_multiplying();  // scales are there, and nobody reads stages any more
    const TileSums<kTokens> sums(args, place, scales);
    if (args.gate == Epilogue::none) {
      sums.store(acc);
    } else {
      sums.store_gated(acc, reinterpret_cast<float*>(staged));
    }
  }
#endif
}

/// How the host describes a matrix to the copies: a function of the driver's.
using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

EncodeTiled find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  constexpr unsigned kSince = 12000;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kSince, cudaEnableDefault,
                                         &found));
#else
  check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found));
#endif
  return found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(function) : nullptr;
}

struct TileKernel {
  int tokens;
  const void* function;
  int shared_bytes;
  int cost;  ///< of a tile, in hundredths of the largest
};

template <int kTokens>
TileKernel tile_kernel(int cost) {
  return {kTokens, reinterpret_cast<const void*>(gemm_kernel<kTokens>), GemmShape<kTokens>::kSharedBytes,
          cost};
}

const std::array<TileKernel, 4>& tile_kernels() {
  static const std::array kernels = {tile_kernel<256>(100), tile_kernel<192>(78), tile_kernel<128>(58),
                                     tile_kernel<64>(40)};
  return kernels;
}

class WarpgroupGemm final : public Gemm {
 public:
  explicit WarpgroupGemm(EncodeTiled encode) : encode_(encode) {
    int device = 0;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&n_multiprocessors_, cudaDevAttrMultiProcessorCount, device));
  }

  void multiply(const GemmProduct& p, cudaStream_t stream) override {
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
    const bool gated = p.gate != Epilogue::none;
    require(p.k % kStageCols == 0 && p.k > 0 && p.n <= kMost, "gemm: shape", p.n, p.k);
    require(p.parts.size() <= kMaxGemmParts && (!gated || p.parts.size() == 2), "gemm: parts",
            p.parts.size());
    GemmArgs args{};
    int n_parts = 0;
    for (const GemmPart& part : p.parts) {
      require(part.m <= kMost && !(gated && (part.m != p.parts[0].m || part.bias != nullptr)), "gemm: a part",
              part.m);
      if (part.m == 0) continue;
      DevicePart& to = args.parts[n_parts++];
      if (n_parts == 1 || !gated)
        args.n_row_tiles += static_cast<int32_t>(ceil_div(part.m, int64_t{gated ? kGroupRows : kRows}));
      to = {map_of(part.w, part.m, p.k, p.k, kGroupRows),
            part.out,
            part.out_stride,
            part.bias,
            part.power,
            static_cast<int32_t>(part.m),
            args.n_row_tiles};
    }
    if (n_parts == 0 || p.n == 0) return;
    const TileKernel& kernel = kernel_for(args.n_row_tiles, p.n);
    args.x = map_of(p.x, p.n, p.k, p.x_stride, kernel.tokens);
    args.scales = p.scales;
    args.scale_stride = p.scale_stride;
    args.n = static_cast<int32_t>(p.n);
    args.n_steps = static_cast<int32_t>(p.k / kStageCols);
    args.gate = p.gate;
    launch(kernel.function,
           {args.n_row_tiles * ceil_div(p.n, int64_t{kernel.tokens}), kThreads, kernel.shared_bytes}, &args,
           stream);
  }
  bool fills(int64_t n_rows, int64_t n_tokens) const override {
    constexpr int64_t kBusyPercent = 90;
    const int64_t n_blocks =
        ceil_div(n_rows, int64_t{kRows}) * ceil_div(n_tokens, int64_t{tile_kernels()[0].tokens});
    return 100 * n_blocks >= kBusyPercent * round_up(n_blocks, int64_t{n_multiprocessors_});
  }

 private:
  /// The one whose waves of blocks take least.
  const TileKernel& kernel_for(int64_t n_row_tiles, int64_t n) const {
    const auto cost = [&](const TileKernel& kernel) {
      const int64_t n_blocks = n_row_tiles * ceil_div(n, int64_t{kernel.tokens});
      return ceil_div(n_blocks, int64_t{n_multiprocessors_}) * kernel.cost;
    };
    const auto& kernels = tile_kernels();
    return *std::min_element(kernels.begin(), kernels.end(),
                             [&](const TileKernel& a, const TileKernel& b) { return cost(a) < cost(b); });
  }

  /// A matrix of halves, rows `stride` halves apart, in boxes of box_rows × kStageCols.
  CUtensorMap map_of(const void* data, int64_t n_rows, int64_t n_cols, int64_t stride, int box_rows) const {
    CUtensorMap map;
    const cuuint64_t sizes[] = {static_cast<cuuint64_t>(n_cols), static_cast<cuuint64_t>(n_rows)};
    const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride) * 2};
    const cuuint32_t box[] = {kStageCols, static_cast<cuuint32_t>(box_rows)};
    const cuuint32_t steps[] = {1, 1};
    const CUresult result =
        encode_(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<void*>(data), sizes, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    require(result == CUDA_SUCCESS, "gemm: a matrix that copies can't describe", static_cast<int>(result),
            n_rows, stride);
    return map;
  }

  EncodeTiled encode_;
  int n_multiprocessors_ = 0;
};

}  // namespace

std::unique_ptr<Gemm> Gemm::open() {
  if (!is_code_of_hopper_only(tile_kernels()[0].function)) return nullptr;
  const EncodeTiled encode = find_encode();
  return encode == nullptr ? nullptr : std::make_unique<WarpgroupGemm>(encode);
}

}  // namespace tandem::cuda
