// Attention of many query rows of a sequence at once, by tensor cores (m16n8k16, halves, sums in float).
//
// Thread map: a block a (tile of 128 query rows, KV head, split of the positions). A query row is a (token,
// head of the group) pair, so that grouped heads fill a tile: any group size does. A warp has 32 rows (16
// where a head is wider than 128) and all positions: no sum crosses warps.
// A tile of 64 (32) positions: keys and values come to shared memory by asynchronous copies while the tile
// before it is worked on; scores = q · K'; weights by a running maximum, which is left alone while no score
// exceeds it by more than a factor 2^8, so that the sums are rarely rescaled; sums += weights · V.
// q8_0, q4_0: codes are copied as they are, then become halves of a tile; where a scale is so large that they
// would overflow, the tile is made 2^8 times smaller and the products larger again.
// Precision: a query is a half (11 bits) behind a power of two a row; weights are halves; the rest is float.
// Bytes: each tile of the cache once for all 128 rows, mostly from L2.
// A row's bits depend on its query, its position, the window and the cached rows that it sees, and on the
// number of splits (and, where a scale exceeds 500, on whose tile it shares).
#pragma once

#include "ops/cuda/prompt_attention_queries.cuh"
#include "ops/cuda/prompt_attention_tile.cuh"

namespace tandem::cuda {
namespace device {

template <class Shape>
struct PromptCore {
  static constexpr int kDim = Shape::kDim;
  static constexpr int kTall = Shape::kTall;
  static constexpr int kCols = Shape::kCols;
  static constexpr int kStride = Shape::kStride;
  static constexpr int kThreads = Shape::kThreads;

  const AttentionArgs& args;
  const PromptPlace& place;
  std::byte* shared;
  int lane = static_cast<int>(threadIdx.x % 32);
  int warp = warp_of_block();
  int warp_row;            ///< the warp's first
  int first_position = 0;  ///< of the warp's rows
  int last_position = 0;
  uint32_t queries;  ///< where the lane reads queries, in shared memory
  uint32_t key_row;  ///< and keys and values, from a plane's begin
  uint32_t value_row;
  float acc[kTall][kDim / 8][4];  ///< rows g and g + 8 of 16, columns 8 n + 2 c, + 1
  // of the lane's rows 16 i / 2 + g + 8 (i % 2):
  float max[2 * kTall];  ///< what weights are relative to
  float sum[2 * kTall];  ///< the lane's part

  __device__ PromptCore(const AttentionArgs& args_in, const PromptPlace& place_in, std::byte* shared_in)
      : args(args_in), place(place_in), shared(shared_in) {
    warp_row = warp * 16 * kTall;
    const int eight = lane / 8;
    const uint32_t base = shared_address(shared);
    queries = base + (warp_row + lane % 16) * kStride + lane / 16 * 16;
    key_row = (eight / 2 * 8 + lane % 8) * kStride + eight % 2 * 16;
    value_row = (eight % 2 * 8 + lane % 8) * kStride + eight / 2 * 16;
#pragma unroll
    for (auto& tall : acc) {
#pragma unroll
      for (auto& column : tall) {
#pragma unroll
        for (float& x : column) x = 0;
      }
    }
  }

  __device__ const PromptRow* rows() const {
    return reinterpret_cast<const PromptRow*>(shared + Shape::kRowsAt);
  }

  /// Nothing summed yet. The queries are there.
  __device__ void prepare() {
    first_position = place.position(warp_row);
    last_position = place.position(warp_row + 16 * kTall - 1);
#pragma unroll
    for (int i = 0; i < 2 * kTall; ++i) {
      max[i] = kNoScore;
      sum[i] = 0;
    }
  }
  __device__ int row_of(int i) const {
    return warp_row + i / 2 * 16 + i % 2 * 8 + lane / 4;
  }

  // --- a tile's way to shared memory

  __device__ bool is_seen(int at) const {
    return at >= place.begin && at < place.end;
  }

  /// Asks for the positions `base` and on, to one of two places. page: theirs
  __device__ void ask(int base, int64_t page, int stage) const {
    const std::byte* keys = args.cache.keys(page, place.kv_head);
    const std::byte* values = args.cache.values(page, place.kv_head);
    const int slot = base % kPageTokens;
    if constexpr (Shape::kCoded) {
      const uint32_t to =
          shared_address(shared + Shape::kCopies) + stage * 2 * (Shape::kCodes + Shape::kScales);
      ask_codes(to, keys, slot);
      ask_codes(to + Shape::kCodes + Shape::kScales, values, slot);
    } else {
      const uint32_t to = shared_address(shared + Shape::kTiles) + stage * 2 * Shape::kPlane;
#pragma unroll
      for (int k = 0; k < kCols * Shape::kWords / kThreads; ++k) {
        const uint32_t i = k * kThreads + threadIdx.x;
        const auto row = static_cast<int>(i / Shape::kWords);
        const uint32_t at = to + row * kStride + i % Shape::kWords * 16;
        const int64_t from = slot * 2 * kDim + i * 16;
        copy_ahead(at, keys + from, is_seen(base + row));
        copy_ahead(at + Shape::kPlane, values + from, is_seen(base + row));
      }
    }
  }
  __device__ void ask_codes(uint32_t to, const std::byte* plane, int slot) const {
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kCodes / 16; i += kThreads)
      copy_ahead(to + 16 * i, plane + slot * Shape::kRowBytes + 16 * i, true);
    const std::byte* scales = plane + kPageTokens * Shape::kRowBytes + slot * Shape::kGroups * 2;
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kScales / 16; i += kThreads)
      copy_ahead(to + Shape::kCodes + 16 * i, scales + 16 * i, true);
  }

  /// The copied codes as halves, kShrink times smaller where asked for. Was a scale too large for that?
  __device__ bool decode(int base, int stage, bool shrunk) {
    bool large = false;
#pragma unroll
    for (int plane = 0; plane < 2; ++plane) {
      const std::byte* from =
          shared + Shape::kCopies + (2 * stage + plane) * (Shape::kCodes + Shape::kScales);
      std::byte* to = shared + Shape::kTiles + plane * Shape::kPlane;
#pragma unroll 2
      for (int k = 0; k < kCols * Shape::kWords / kThreads; ++k) {
        const uint32_t i = k * kThreads + threadIdx.x;
        const auto row = static_cast<int>(i / Shape::kWords);
        const uint32_t word = i % Shape::kWords;
        uint4 halves = make_uint4(0, 0, 0, 0);
        if (is_seen(base + row)) {
          const EightCodes<Shape::kType> codes = reinterpret_cast<const EightCodes<Shape::kType>*>(from)[i];
          const __half scale = reinterpret_cast<const __half*>(
              from + Shape::kCodes)[row * Shape::kGroups + word / (kKvGroup / 8)];
          large |= is_large_scale(__half_as_ushort(scale));
          uint32_t first[2];
          uint32_t second[2];
          scaled_halves(first, codes.template four<0>(), __half_as_ushort(scale), shrunk);
          scaled_halves(second, codes.template four<1>(), __half_as_ushort(scale), shrunk);
          halves = make_uint4(first[0], first[1], second[0], second[1]);
        }
        *reinterpret_cast<uint4*>(to + row * kStride + 16 * word) = halves;
      }
    }
    return large;
  }

  // --- a tile

  using Scores = float[kTall][kCols / 8][4];
  using Weights = uint32_t[kTall][kCols / 16][4];

  __device__ void score(uint32_t keys, Scores& scores) const {
#pragma unroll
    for (auto& tall : scores) {
#pragma unroll
      for (auto& column : tall) {
#pragma unroll
        for (float& x : column) x = 0;
      }
    }
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t q[kTall][4];
#pragma unroll
      for (int t = 0; t < kTall; ++t) load_matrices(q[t], queries + t * 16 * kStride + 32 * d);
#pragma unroll
      for (int n = 0; n < kCols / 16; ++n) {
        uint32_t k[4];
        load_matrices(k, keys + n * 16 * kStride + 32 * d);
#pragma unroll
        for (int t = 0; t < kTall; ++t) {
          mma(scores[t][2 * n], q[t][0], q[t][1], q[t][2], q[t][3], k[0], k[1]);
          mma(scores[t][2 * n + 1], q[t][0], q[t][1], q[t][2], q[t][3], k[2], k[3]);
        }
      }
    }
  }

  /// Positions that a row doesn't see. base: of the tile
  __device__ void mask(int base, Scores& scores) const {
#pragma unroll
    for (int i = 0; i < 2 * kTall; ++i) {
      const int last = rows()[row_of(i)].position - base - lane % 4 * 2;  // of the lane's columns
      const int before = last - place.window;
#pragma unroll
      for (int n = 0; n < kCols / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int col = 8 * n + j;
          float& x = scores[i / 2][n][i % 2 * 2 + j];
          x = col <= last && col > before ? x : -INFINITY;
        }
      }
    }
  }

  /// Scores to weights relative to max; the sums so far are brought there too. more: a further factor
  __device__ void soften(Scores& scores, Weights& weights, float more) {
    float shift[2 * kTall];
    bool moved = false;
#pragma unroll
    for (int i = 0; i < 2 * kTall; ++i) {
      float most = -INFINITY;
#pragma unroll
      for (int n = 0; n < kCols / 8; ++n)
        most = fmaxf(most, fmaxf(scores[i / 2][n][i % 2 * 2], scores[i / 2][n][i % 2 * 2 + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0U, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0U, most, 2));
      const float f = rows()[row_of(i)].factor * more;
      const float reached = most * f;
      const float next = reached > max[i] + kSlack ? reached : max[i];
      shift[i] = exp2_fast(max[i] - next);
      moved |= next != max[i];
      max[i] = next;
      float total = 0;
#pragma unroll
      for (int n = 0; n < kCols / 8; ++n) {
        float(&x)[4] = scores[i / 2][n];
        x[i % 2 * 2] = exp2_fast(__fmaf_rn(x[i % 2 * 2], f, -next));
        x[i % 2 * 2 + 1] = exp2_fast(__fmaf_rn(x[i % 2 * 2 + 1], f, -next));
        total += x[i % 2 * 2] + x[i % 2 * 2 + 1];
        weights[i / 2][n / 2][n % 2 * 2 + i % 2] = bits_of(__floats2half2_rn(x[i % 2 * 2], x[i % 2 * 2 + 1]));
      }
      sum[i] = __fmaf_rn(sum[i], shift[i], total);
    }
    if (__any_sync(~0U, moved)) scale_sums(shift);
  }
  __device__ void scale_sums(const float (&by)[2 * kTall]) {
#pragma unroll
    for (int t = 0; t < kTall; ++t) {
#pragma unroll
      for (auto& column : acc[t]) {
#pragma unroll
        for (int j = 0; j < 4; ++j) column[j] *= by[2 * t + j / 2];
      }
    }
  }
  __device__ void scale_sums(float by) {
    float all[2 * kTall];
#pragma unroll
    for (float& x : all) x = by;
    scale_sums(all);
  }

  __device__ void add_values(uint32_t values, const Weights& weights) {
#pragma unroll
    for (int p = 0; p < kCols / 16; ++p) {
#pragma unroll
      for (int n = 0; n < kDim / 16; ++n) {
        uint32_t v[4];
        load_transposed(v, values + p * 16 * kStride + 32 * n);
#pragma unroll
        for (int t = 0; t < kTall; ++t) {
          const uint32_t(&w)[4] = weights[t][p];
          mma(acc[t][2 * n], w[0], w[1], w[2], w[3], v[0], v[1]);
          mma(acc[t][2 * n + 1], w[0], w[1], w[2], w[3], v[2], v[3]);
        }
      }
    }
  }

  /// The warp's rows with the tile at `tile`, in shared memory.
  __device__ void work(int base, uint32_t tile, bool shrunk) {
    if (warp_row >= place.n_rows) return;
    const int end = base + kCols - 1;
    if (base > last_position || end <= first_position - place.window) return;  // no row sees any of it
    Scores scores;
    Weights weights;
    score(tile + key_row, scores);
    if (end > first_position || base <= last_position - place.window) mask(base, scores);
    soften(scores, weights, shrunk ? kShrink : 1.0F);
    if (shrunk) scale_sums(1.0F / kShrink);
    add_values(tile + Shape::kPlane + value_row, weights);
    if (shrunk) scale_sums(kShrink);
  }

  /// Tiles [begin, end), counted from position 0.
  __device__ void run(int begin, int end) {
    const auto page_of = [&](int tile) {
      return tile < end ? load_now(place.pages + tile * kCols / kPageTokens) : 0;
    };
    if (begin < end) ask(begin * kCols, page_of(begin), 0);
    int next_page = page_of(begin + 1);
    QueryRows<Shape>{args, place, shared, lane}.fill(warp_row);
    prepare();
    for (int tile = begin; tile < end; ++tile) {
      const int stage = (tile - begin) % 2;
      await_copies();
      __syncthreads();  // every thread's copies are there, and the tile before is done with
      if (tile + 1 < end) ask((tile + 1) * kCols, next_page, 1 - stage);
      next_page = page_of(tile + 2);
      bool shrunk = false;
      if constexpr (Shape::kCoded) {
        shrunk = __syncthreads_or(decode(tile * kCols, stage, false)) != 0;
        if (shrunk) {
          decode(tile * kCols, stage, true);
          __syncthreads();  // made anew
        }
      }
      work(tile * kCols,
           shared_address(shared + Shape::kTiles) + (Shape::kCoded ? 0 : stage * 2 * Shape::kPlane), shrunk);
    }
#pragma unroll
    for (float& x : sum) {
      x += __shfl_xor_sync(~0U, x, 1);
      x += __shfl_xor_sync(~0U, x, 2);
    }
  }

  // --- results

  /// Takes the mixing out of the sums.
  __device__ void unmix() {
#pragma unroll
    for (auto& tall : acc) {
#pragma unroll
      for (auto& eight : tall) {
#pragma unroll
        for (int i = 0; i < 4; i += 2) meet(eight[i], eight[i + 1]);
#pragma unroll
        for (float& x : eight) {
          meet_lane(x, lane, 1);
          meet_lane(x, lane, 2);
        }
      }
      unmix_eights<kDim>(tall, args.read_mix);
    }
  }

  /// split: of n_splits, whose results are partial, and still mixed, where there are several
  __device__ void store(int split, int n_splits) {
    if constexpr (Shape::kCoded) {
      if (n_splits == 1 && args.mix_width > 1) unmix();
    }
    bool finite = true;
#pragma unroll
    for (int i = 0; i < 2 * kTall; ++i) {
      const int row = row_of(i);
      if (row >= place.n_rows) continue;
      const int64_t of = place.token(row) * args.groups.n_heads + place.head(row);
      float* out = args.rows + of * kDim;
      float by = sum[i] > 0 ? 1.0F / sum[i] : 0.0F;
      if (n_splits > 1) {
        out = args.partials + (of * n_splits + split) * kDim;
        by = 1.0F;
        if (lane % 4 == 0) args.partial_sums[of * n_splits + split] = make_float2(max[i], sum[i]);
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        const float2 x = make_float2(acc[i / 2][n][i % 2 * 2] * by, acc[i / 2][n][i % 2 * 2 + 1] * by);
        finite &= fabsf(x.x) < INFINITY && fabsf(x.y) < INFINITY;
        *reinterpret_cast<float2*>(out + 8 * n + lane % 4 * 2) = x;
      }
    }
    report(args.not_finite, finite);
  }
};

}  // namespace device

template <class Shape>
__global__ __launch_bounds__(Shape::kThreads, Shape::kBlocks) void prompt_attention_kernel(
    const __grid_constant__ PromptArgs args) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ float4 memory[];
  device::let_next_start();
  const device::PromptPlace place(args, Shape::kRows);
  if (place.n_rows <= 0) return;  // others of the grid wait, so the next kernel's inputs are safe
  device::wait_for_inputs();
  const auto split = static_cast<int>(blockIdx.y);
  const int first = place.begin / Shape::kCols;
  const int n = (place.end + Shape::kCols - 1) / Shape::kCols - first;
  const int a_split = (n + args.n_splits - 1) / args.n_splits;
  device::PromptCore<Shape> core(args.attention, place, reinterpret_cast<std::byte*>(memory));
  core.run(first + min(n, split * a_split), first + min(n, (split + 1) * a_split));
  core.store(split, args.n_splits);
#endif
}

template <class Shape>
PromptKernel prompt_kernel_entry() {
  return {reinterpret_cast<const void*>(prompt_attention_kernel<Shape>), Shape::kThreads, Shape::kSharedBytes,
          Shape::kRows, Shape::kBlocks};
}

template <int kDim, CudaKvType kType>
PromptKernel prompt_kernel_of(int64_t shared_bytes) {
  using Shape = device::PromptShape<kDim, kType>;
  constexpr int64_t kSmallest = 99 * 1024;  // of the devices that have tensor cores of this kind
  if (Shape::kSharedBytes <= shared_bytes) return prompt_kernel_entry<Shape>();
  if constexpr (Shape::kSharedBytes > kSmallest && !Shape::kWide) {
    using Small = device::PromptShape<kDim, kType, true>;
    if (Small::kSharedBytes <= shared_bytes) return prompt_kernel_entry<Small>();
  }
  return {};
}

/// The head sizes of the models that there are.
template <CudaKvType kType>
PromptKernel prompt_kernel_for(int32_t head_dim, int64_t shared_bytes) {
  switch (head_dim) {
    case 64:
      return prompt_kernel_of<64, kType>(shared_bytes);
    case 80:
      return prompt_kernel_of<80, kType>(shared_bytes);
    case 96:
      return prompt_kernel_of<96, kType>(shared_bytes);
    case 112:
      return prompt_kernel_of<112, kType>(shared_bytes);
    case 128:
      return prompt_kernel_of<128, kType>(shared_bytes);
    case 192:
      return prompt_kernel_of<192, kType>(shared_bytes);
    case 256:
      return prompt_kernel_of<256, kType>(shared_bytes);
    default:
      return {};
  }
}

}  // namespace tandem::cuda
