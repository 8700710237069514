// Attention of many query rows of a sequence at once by the tensor cores of Volta (m8n8k4, halves, sums in
// float), as prompt_attention_kernel.cuh does it on newer ones; for code that is compiled for less than
// sm_80.
//
// Thread map: a block a (tile of 128 query rows, KV head, split of the positions), a warp 32 rows and all
// positions. An instruction is four products of 8 × 8 × 4, one by the lanes {4 i … 4 i + 3, 16 + 4 i … 16 + 4
// i + 3} each: with i-th rows {4 i …, 16 + 4 i …} a lane's row of the left factor is its own number, and all
// four share the right one. Of the sums a lane has the rows (lane with bit 1 cleared) and that + 2, of 8
// columns n the four n % 4 / 2 = lane's bit 1. A tile of 32 positions comes to registers while the one before
// it is worked on, and from there to shared memory: there are no asynchronous copies. Codes, running maximum
// and precision: as there. Rows in shared memory are an odd number of 8 bytes apart, so that 16 rows' 8 bytes
// don't collide.
#pragma once

#include <type_traits>

#include "ops/cuda/attention_mma_codes.cuh"
#include "ops/cuda/prompt_attention_queries.cuh"

namespace tandem::cuda::device {

/// c += a (row of four) · b (column of four): keys.
__device__ inline void mma_volta_columns(float (&c)[8], uint2 a, uint2 b) {
#if __CUDA_ARCH__ >= 700
  asm("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9}, {%10,%11}, "
      "{%0,%1,%2,%3,%4,%5,%6,%7};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7])
      : "r"(a.x), "r"(a.y), "r"(b.x), "r"(b.y));
#endif
}
/// The same with b a row's four columns: values.
__device__ inline void mma_volta_rows(float (&c)[8], uint2 a, uint2 b) {
#if __CUDA_ARCH__ >= 700
  asm("mma.sync.aligned.m8n8k4.row.row.f32.f16.f16.f32 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9}, {%10,%11}, "
      "{%0,%1,%2,%3,%4,%5,%6,%7};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7])
      : "r"(a.x), "r"(a.y), "r"(b.x), "r"(b.y));
#endif
}

template <int kDimIn, CudaKvType kTypeIn>
struct VoltaShape {
  static constexpr int kDim = kDimIn;
  static constexpr CudaKvType kType = kTypeIn;
  static constexpr bool kCoded = is_coded(kType);
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRows = 32 * kWarps;
  static constexpr int kCols = 32;                                           ///< positions of a tile
  static constexpr int kWords = kDim / 8;                                    ///< of 8 elements, a row
  static constexpr int kItems = (kCols * kWords + kThreads - 1) / kThreads;  ///< words of a plane, a thread
  static constexpr int kGroups = (kDim + kKvGroup - 1) / kKvGroup;
  static constexpr int kStride = 2 * kDim + 8;
  static constexpr int kRowsAt = kRows * kStride;
  static constexpr int kTile = kRowsAt + kRows * static_cast<int>(sizeof(PromptRow));
  static constexpr int kPlane = kCols * kStride;
  static constexpr int kSharedBytes = kTile + 2 * kPlane;
  static_assert(kDim % 16 == 0 && kDim <= 128 && kStride % 16 == 8);
};

/// A thread's words of a tile's plane on their way: eight halves, or eight codes and their scale.
template <class Shape>
struct VoltaWords {
  using Word = std::conditional_t<Shape::kCoded, EightCodes<Shape::kType>, uint4>;
  Word words[Shape::kItems];
  uint16_t scales[Shape::kCoded ? Shape::kItems : 1];

  /// seen: (row) is it to be loaded; others are zeros
  template <class F>
  __device__ void load(const std::byte* plane, int slot, const F& seen) {
#pragma unroll
    for (int k = 0; k < Shape::kItems; ++k) {
      const int i = k * Shape::kThreads + static_cast<int>(threadIdx.x);
      const int row = i / Shape::kWords;
      words[k] = Word{};
      if constexpr (Shape::kCoded) scales[k] = 0;
      if (row >= Shape::kCols || !seen(row)) continue;
      words[k] = reinterpret_cast<const Word*>(plane)[slot * Shape::kWords + i];
      if constexpr (Shape::kCoded) {
        constexpr int kRowBytes = kv_row_bytes(Shape::kType, Shape::kDim);
        const auto* of = reinterpret_cast<const uint16_t*>(plane + kPageTokens * kRowBytes);
        scales[k] = of[(slot + row) * Shape::kGroups + i % Shape::kWords / (kKvGroup / 8)];
      }
    }
  }
  __device__ bool has_large() const {
    bool large = false;
    if constexpr (Shape::kCoded) {
#pragma unroll
      for (const uint16_t scale : scales) large |= is_large_scale(scale);
    }
    return large;
  }
  __device__ void store(std::byte* plane, bool shrunk) const {
#pragma unroll
    for (int k = 0; k < Shape::kItems; ++k) {
      const int i = k * Shape::kThreads + static_cast<int>(threadIdx.x);
      const int row = i / Shape::kWords;
      if (row >= Shape::kCols) continue;
      uint32_t first[2];
      uint32_t second[2];
      if constexpr (Shape::kCoded) {
        scaled_halves(first, words[k].template four<0>(), scales[k], shrunk);
        scaled_halves(second, words[k].template four<1>(), scales[k], shrunk);
      } else {
        first[0] = words[k].x;
        first[1] = words[k].y;
        second[0] = words[k].z;
        second[1] = words[k].w;
      }
      auto* to = reinterpret_cast<uint2*>(plane + row * Shape::kStride + i % Shape::kWords * 16);
      to[0] = make_uint2(first[0], first[1]);
      to[1] = make_uint2(second[0], second[1]);
    }
  }
};

template <class Shape>
struct VoltaCore {
  static constexpr int kDim = Shape::kDim;
  static constexpr int kCols = Shape::kCols;
  static constexpr int kStride = Shape::kStride;

  const AttentionArgs& args;
  const PromptPlace& place;
  std::byte* shared;
  int lane = static_cast<int>(threadIdx.x % 32);
  int warp_row = warp_of_block() * 32;
  int first_position = 0;  ///< of the warp's rows
  int last_position = 0;
  VoltaWords<Shape> keys;
  VoltaWords<Shape> values;
  float acc[kDim / 8][8];  ///< columns 8 n and on: element j is row_of(j / 2 % 2), column col_of(j)
  float max[2];
  float sum[2];  ///< the lane's part

  __device__ VoltaCore(const AttentionArgs& args_in, const PromptPlace& place_in, std::byte* shared_in)
      : args(args_in), place(place_in), shared(shared_in) {}

  __device__ int row_of(int i) const { return warp_row + (lane & ~2) + 2 * i; }
  /// Of eight.
  __device__ int col_of(int j) const { return j / 4 * 4 + (lane & 2) + j % 2; }
  __device__ const PromptRow& row(int i) const {
    return reinterpret_cast<const PromptRow*>(shared + Shape::kRowsAt)[row_of(i)];
  }
  static __device__ uint2 words_at(const std::byte* p) { return *reinterpret_cast<const uint2*>(p); }

  __device__ void load(int tile) {
    const int base = tile * kCols;
    const int64_t page = load_now(place.pages + base / kPageTokens);
    const auto seen = [&](int at) { return base + at >= place.begin && base + at < place.end; };
    keys.load(args.cache.keys(page, place.kv_head), base % kPageTokens, seen);
    values.load(args.cache.values(page, place.kv_head), base % kPageTokens, seen);
  }
  /// To shared memory, for all. Were they made kShrink times smaller?
  __device__ bool settle() {
    std::byte* tile = shared + Shape::kTile;
    __syncthreads();  // the tile before is done with
    keys.store(tile, false);
    values.store(tile + Shape::kPlane, false);
    if constexpr (!Shape::kCoded) {
      __syncthreads();
      return false;
    } else {
      if (__syncthreads_or(keys.has_large() || values.has_large()) == 0) return false;
      keys.store(tile, true);
      values.store(tile + Shape::kPlane, true);
      __syncthreads();  // made anew
      return true;
    }
  }

  // --- a tile

  using Scores = float[kCols / 8][8];

  __device__ void score(Scores& scores) const {
#pragma unroll
    for (auto& eight : scores) {
#pragma unroll
      for (float& x : eight) x = 0;
    }
    const std::byte* query = shared + (warp_row + lane) * kStride;
    const std::byte* key = shared + Shape::kTile + (lane % 4 + lane / 16 * 4) * kStride;
#pragma unroll
    for (int d = 0; d < kDim; d += 4) {
      const uint2 q = words_at(query + 2 * d);
#pragma unroll
      for (int n = 0; n < kCols / 8; ++n)
        mma_volta_columns(scores[n], q, words_at(key + n * 8 * kStride + 2 * d));
    }
  }
  __device__ void mask(int base, Scores& scores) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int last = row(i).position - base;
      const int before = last - place.window;
#pragma unroll
      for (int n = 0; n < kCols / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          if (j / 2 % 2 != i) continue;
          const int col = 8 * n + col_of(j);
          scores[n][j] = col <= last && col > before ? scores[n][j] : -INFINITY;
        }
      }
    }
  }
  /// Scores to weights relative to max; the sums so far are brought there too. more: a further factor
  __device__ void soften(Scores& scores, float more) {
    float shift[2];
    bool moved = false;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float most = -INFINITY;
#pragma unroll
      for (int n = 0; n < kCols / 8; ++n) {
        most = fmaxf(most, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
        most = fmaxf(most, fmaxf(scores[n][2 * i + 4], scores[n][2 * i + 5]));
      }
      most = fmaxf(most, __shfl_xor_sync(~0U, most, 2));
      const float f = row(i).factor * more;
      const float next = most * f > max[i] + kSlack ? most * f : max[i];
      shift[i] = exp2_fast(max[i] - next);
      moved |= next != max[i];
      max[i] = next;
      float total = 0;
#pragma unroll
      for (int n = 0; n < kCols / 8; ++n) {
#pragma unroll
        for (int j = 2 * i; j < 8; j += 4) {
          scores[n][j] = exp2_fast(__fmaf_rn(scores[n][j], f, -next));
          scores[n][j + 1] = exp2_fast(__fmaf_rn(scores[n][j + 1], f, -next));
          total += scores[n][j] + scores[n][j + 1];
        }
      }
      sum[i] = __fmaf_rn(sum[i], shift[i], total);
    }
    if (__any_sync(~0U, moved)) scale_sums(shift[0], shift[1]);
  }
  __device__ void scale_sums(float first, float second) {
#pragma unroll
    for (auto& eight : acc) {
#pragma unroll
      for (int j = 0; j < 8; ++j) eight[j] *= j / 2 % 2 == 0 ? first : second;
    }
  }
  /// Four weights of the lane's own row as a left factor: two are its own, two the lane's across bit 1.
  __device__ uint2 weights_of(const float* four) const {
    const uint32_t first = bits_of(__floats2half2_rn(four[0], four[1]));
    const uint32_t second = bits_of(__floats2half2_rn(four[2], four[3]));
    const bool upper = (lane & 2) != 0;
    const uint32_t other = __shfl_xor_sync(~0U, upper ? first : second, 2);
    return upper ? make_uint2(other, second) : make_uint2(first, other);
  }
  __device__ void add_values(const Scores& weights) {
    const std::byte* value = shared + Shape::kTile + Shape::kPlane + lane % 4 * kStride + lane / 16 * 8;
#pragma unroll
    for (int p = 0; p < kCols; p += 4) {
      const uint2 w = weights_of(weights[p / 8] + p % 8);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) mma_volta_rows(acc[n], w, words_at(value + p * kStride + 16 * n));
    }
  }

  /// The warp's rows with the tile in shared memory.
  __device__ void work(int base, bool shrunk) {
    if (warp_row >= place.n_rows) return;
    const int end = base + kCols - 1;
    if (base > last_position || end <= first_position - place.window) return;  // no row sees any of it
    Scores scores;
    score(scores);
    if (end > first_position || base <= last_position - place.window) mask(base, scores);
    soften(scores, shrunk ? kShrink : 1.0F);
    if (shrunk) scale_sums(1.0F / kShrink, 1.0F / kShrink);
    add_values(scores);
    if (shrunk) scale_sums(kShrink, kShrink);
  }

  /// Tiles [begin, end), counted from position 0.
  __device__ void run(int begin, int end) {
    if (begin < end) load(begin);
    QueryRows<Shape>{args, place, shared, lane}.fill(warp_row);
    first_position = place.position(warp_row);
    last_position = place.position(warp_row + 31);
#pragma unroll
    for (auto& eight : acc) {
#pragma unroll
      for (float& x : eight) x = 0;
    }
    max[0] = max[1] = kNoScore;
    sum[0] = sum[1] = 0;
    for (int tile = begin; tile < end; ++tile) {
      const bool shrunk = settle();
      if (tile + 1 < end) load(tile + 1);
      work(tile * kCols, shrunk);
    }
#pragma unroll
    for (float& x : sum) x += __shfl_xor_sync(~0U, x, 2);
  }

  /// Takes the mixing out of the sums.
  __device__ void unmix() {
#pragma unroll
    for (auto& eight : acc) {
#pragma unroll
      for (int j = 0; j < 8; j += 2) meet(eight[j], eight[j + 1]);
#pragma unroll
      for (float& x : eight) meet_lane(x, lane, 2);
#pragma unroll
      for (int j = 0; j < 4; ++j) meet(eight[j], eight[j + 4]);
    }
    unmix_eights<kDim>(acc, args.read_mix);
  }

  /// split: of n_splits, whose results are partial, and still mixed, where there are several
  __device__ void store(int split, int n_splits) {
    if (n_splits == 1 && args.mix_width > 1) unmix();
    bool finite = true;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = row_of(i);
      if (row >= place.n_rows) continue;
      const int64_t of = place.token(row) * args.groups.n_heads + place.head(row);
      float* out = args.rows + of * kDim;
      float by = sum[i] > 0 ? 1.0F / sum[i] : 0.0F;
      if (n_splits > 1) {
        out = args.partials + (of * n_splits + split) * kDim;
        by = 1.0F;
        if ((lane & 2) == 0) args.partial_sums[of * n_splits + split] = make_float2(max[i], sum[i]);
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int j = 2 * i; j < 8; j += 4) {
          const float2 x = make_float2(acc[n][j] * by, acc[n][j + 1] * by);
          finite &= fabsf(x.x) < INFINITY && fabsf(x.y) < INFINITY;
          *reinterpret_cast<float2*>(out + 8 * n + col_of(j)) = x;
        }
      }
    }
    report(args.not_finite, finite);
  }
};

}  // namespace tandem::cuda::device
