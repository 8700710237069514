// Attention over an f16, q8_0 or q4_0 cache by tensor cores (m16n8k16), straight from registers: no staging
// of keys or values in shared memory, no barrier while the cache is read.
//
// Thread map: a block a (token, KV head, slot). Of a piece, warp w takes the tiles of 16 positions w, w +
// kWarps, …, each with a running maximum of its own; the warps' sums meet in shared memory at the piece's
// end. A tile: scores' = K (16 positions × dim) · q' (dim × 8 heads), then out' (dim × 8 heads) += V' · p.
// Which of the 16 k-columns of an instruction a lane holds is free as long as both operands agree, so a
// lane's keys are 16 contiguous bytes of a position and its values 16 contiguous bytes of four positions.
// Precision: a query is two halves (22 bits) behind a power of two a head; weights are half, and the sum that
// divides them is of the rounded ones; everything is added in float. q8_0, q4_0: keys' codes are multiplied
// as exact halves and their scales in float; values are rounded to halves, 2^8 times smaller where they would
// overflow. Bytes: each row of the cache once for all query heads of the block, 16 a lane and load; a tile's
// values and the next tile's keys are in flight while it is worked on. When it appends, the rows of earlier
// steps are asked for before the kernel waits for its inputs.
#pragma once

#include <type_traits>

#include "ops/cuda/attention_mma_codes.cuh"

namespace tandem::cuda {
namespace device {

template <class Shape>
struct MmaCore {
  static constexpr int kDim = Shape::kDim;
  static constexpr int kHeadTiles = Shape::kHeadTiles;
  static constexpr int kWarps = Shape::kWarps;
  using Shared = typename Shape::Shared;
  static constexpr CudaKvType kType = Shape::kType;
  static constexpr bool kCoded = is_coded(kType);
  static constexpr int kRowBytes = kv_row_bytes(kType, kDim);
  static constexpr int kScaleBytes = 2 * ((kDim + kKvGroup - 1) / kKvGroup);  ///< of a row
  using Keys = std::conditional_t<kCoded, CodedKeyTile<kDim, kType>, KeyTile<kDim>>;
  using Values = ValueTile<kDim>;
  using LoadedValues = std::conditional_t<kCoded, CodedValueTile<kDim, kType>, Values>;

  const AttentionArgs& args;
  const BlockPlace& block;
  const TokenPlace& place;
  Shared& shared;
  int lane = static_cast<int>(threadIdx.x % 32);
  int warp = warp_of_block();
  int g = lane / 4;
  int c = lane % 4;
  int appended = -1;  ///< the position that this block appends; its row lies in shared memory
  int begin = 0;      ///< positions of the piece
  int end = 0;
  int next_page = 0;  ///< of the tile behind the one asked for last
  Keys keys;
  LoadedValues values;
  float acc[kHeadTiles][kDim / 16][4];
  float max[kHeadTiles][2];  ///< heads 2c, 2c + 1 of the tile
  float sum[kHeadTiles][2];
  float4 sums[kHeadTiles][Shape::kVectors];

  __device__ MmaCore(const AttentionArgs& args_in, const BlockPlace& block_in, const TokenPlace& place_in,
                     Shared& shared_in)
      : args(args_in), block(block_in), place(place_in), shared(shared_in) {}

  __device__ int page_of(int base) const { return base < end ? place.pages[base / kPageTokens] : 0; }

  /// Row `row` of a plane or of the appended ones, to row kRow of the lane's tile.
  template <int kRow, class Load>
  __device__ void fill_keys(const std::byte* plane, int row, int n_rows, const Load& load) {
    if constexpr (kCoded) {
      keys.template fill<kRow>(plane + row * kRowBytes, plane + n_rows * kRowBytes + row * kScaleBytes, c,
                               load);
    } else {
      keys.template fill<kRow>(plane + row * kRowBytes, c, load);
    }
  }
  template <int kRow, class Load>
  __device__ void fill_values(const std::byte* plane, int row, int n_rows, const Load& load) {
    if constexpr (kCoded) {
      values.template fill<kRow>(plane + row * kRowBytes, plane + n_rows * kRowBytes + row * kScaleBytes, g,
                                 load);
    } else {
      values.template fill<kRow>(plane + row * kRowBytes, g, load);
    }
  }

  __device__ void load_keys(const std::byte* plane, int base) {
    fill_keys<0>(plane, base % kPageTokens + g, kPageTokens, LoadGlobal{});
    fill_keys<1>(plane, base % kPageTokens + g + 8, kPageTokens, LoadGlobal{});
  }
  template <int kRow>
  __device__ void load_value(const std::byte* plane, int position) {
    if (position >= begin && position < end) {
      fill_values<kRow>(plane, position % kPageTokens, kPageTokens, LoadGlobal{});
    } else {
      fill_values<kRow>(plane, 0, 0, SetZero{});
    }
  }
  __device__ void load_values(const std::byte* plane, int base) {
    load_value<0>(plane, base + 2 * c);
    load_value<1>(plane, base + 2 * c + 1);
    load_value<2>(plane, base + 2 * c + 8);
    load_value<3>(plane, base + 2 * c + 9);
  }
  /// What was loaded of the position that this block appends was anything.
  __device__ void patch(int base) {
    if (appended < base || appended >= base + kTile) return;
    const LoadShared load;
    const int at = appended - base;
    if (at == g) fill_keys<0>(shared.key, 0, 1, load);
    if (at == g + 8) fill_keys<1>(shared.key, 0, 1, load);
    if (at == 2 * c) fill_values<0>(shared.value, 0, 1, load);
    if (at == 2 * c + 1) fill_values<1>(shared.value, 0, 1, load);
    if (at == 2 * c + 8) fill_values<2>(shared.value, 0, 1, load);
    if (at == 2 * c + 9) fill_values<3>(shared.value, 0, 1, load);
  }

  __device__ int first_tile() const { return begin / kTile * kTile + warp * kTile; }

  /// Asks for the warp's first tile of a piece.
  __device__ void start(int piece) {
    begin = place.begin(piece);
    end = place.end(piece);
    const int base = first_tile();
    if (base >= end) return;
    const int64_t page = page_of(base);
    next_page = page_of(base + kWarps * kTile);
    load_keys(args.cache.keys(page, block.kv_head), base);
    load_values(args.cache.values(page, block.kv_head), base);
  }

  // --- queries and the appended row

  __device__ void split_query(const WarpRow<Shape::kRegs>& head, int i) {
    const float amax = head.amax();
    const int bits = __float_as_int(amax) >> 23;           // exponent + 127
    const int exponent = min(max_of(bits, 7), 253) - 127;  // so that 2^-exponent is a normal number
    const float inverse = __int_as_float((127 - exponent) << 23);
    if (lane == 0) shared.exponent[i] = __int_as_float((127 + exponent) << 23);
    auto* high = reinterpret_cast<__half*>(shared.high[i]);
    auto* low = reinterpret_cast<__half*>(shared.low[i]);
#pragma unroll
    for (int r = 0; r < Shape::kRegs; ++r) {
      const float x = head.x[r] * inverse;
      const __half h = __float2half_rn(x);
      if (lane + 32 * r >= kDim) continue;
      high[lane + 32 * r] = h;
      low[lane + 32 * r] = __float2half_rn(x - __half2float(h));
    }
  }
  static __device__ int max_of(int a, int b) {
    return a > b ? a : b;
  }

  /// To its slot in a plane, and to shared memory.
  __device__ bool store_appended(const WarpRow<Shape::kRegs>& head, std::byte* plane, int slot,
                                 std::byte* copy) const {
    if constexpr (kCoded) {
      return store_coded<kType>(head, CodedRow::in_plane(kType, plane, slot, kDim),
                                {copy, reinterpret_cast<__half*>(copy + kRowBytes)}, kDim, lane);
    } else {
      return store_half(head, reinterpret_cast<__half*>(plane) + slot * kDim, reinterpret_cast<__half*>(copy),
                        kDim, lane);
    }
  }

  /// Queries, then the key and the value that the block appends.
  __device__ HeadSource source_of(int job) const {
    if (job < Shape::kHeads) return query_source(args, block.token, block.first_head + job);
    return job == Shape::kHeads ? key_source(args, block.token, block.kv_head)
                                : value_source(args, block.token, block.kv_head);
  }
  /// A warp's next head, asked for while it works on the one before. Zeros for queries that don't exist.
  __device__ void load_job(int job, int n_jobs, WarpRow<Shape::kRegs>& head) const {
    const bool exists = job < block.n_heads || (job >= Shape::kHeads && job < n_jobs);
    head.load(source_of(job).row, exists ? kDim : 0, lane);
  }

  /// The block's queries, and what it appends. All that it reads is there.
  __device__ void prepare(const WarpRotation<Shape::kRegs>& rotation, bool appends, int64_t page) {
    const int slot = place.position % kPageTokens;
    const int n_jobs = Shape::kHeads + (appends ? 2 : 0);
    float* row = &shared.sums[0][0][0] + warp * kDim;
    WarpRow<Shape::kRegs> next;
    load_job(warp, n_jobs, next);
#pragma unroll 1
    for (int job = warp; job < n_jobs; job += kWarps) {
      WarpRow<Shape::kRegs> head = next;
      load_job(job + kWarps, n_jobs, next);
      change_head(args, source_of(job), rotation, row, kDim, lane, head);
      if (job < Shape::kHeads) {
        report(args.not_finite, head.finite());
#pragma unroll
        for (float& x : head.x) x *= args.scale_log2;
        split_query(head, job);
        continue;
      }
      const bool is_key = job == Shape::kHeads;
      std::byte* plane =
          is_key ? args.cache.keys(page, block.kv_head) : args.cache.values(page, block.kv_head);
      report(args.not_finite, store_appended(head, plane, slot, is_key ? shared.key : shared.value));
    }
    if (appends) appended = place.position;
    __syncthreads();
  }

  // --- a tile

  /// scores of heads 2c, 2c + 1 at the positions g (first two) and g + 8
  __device__ void score(int tile, float (&scores)[4]) const {
    const std::byte* high_row = shared.high[8 * tile + g];
    const std::byte* low_row = shared.low[8 * tile + g];
    if constexpr (kCoded) {
      keys.score(scores, high_row, low_row, c);
    } else {
      score_halves(high_row, low_row, scores);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[i] *= shared.exponent[8 * tile + 2 * c + i % 2];
  }
  __device__ void score_halves(const std::byte* high_row, const std::byte* low_row,
                               float (&scores)[4]) const {
    float part[2][2][4] = {};  // (high, low; even, odd): chains that don't wait for each other
#pragma unroll
    for (int j = 0; j < Keys::kFull; ++j) {
      const uint4 h = *reinterpret_cast<const uint4*>(high_row + 64 * j + 16 * c);
      const uint4 l = *reinterpret_cast<const uint4*>(low_row + 64 * j + 16 * c);
      const auto& a = keys.words[0][j];
      const auto& b = keys.words[1][j];
      mma(part[0][0], a[0], b[0], a[1], b[1], h.x, h.y);
      mma(part[1][0], a[0], b[0], a[1], b[1], l.x, l.y);
      mma(part[0][1], a[2], b[2], a[3], b[3], h.z, h.w);
      mma(part[1][1], a[2], b[2], a[3], b[3], l.z, l.w);
    }
    if constexpr (Keys::kHalf) {
      const uint2 h = *reinterpret_cast<const uint2*>(high_row + 64 * Keys::kFull + 8 * c);
      const uint2 l = *reinterpret_cast<const uint2*>(low_row + 64 * Keys::kFull + 8 * c);
      mma(part[0][0], keys.rest[0][0], keys.rest[1][0], keys.rest[0][1], keys.rest[1][1], h.x, h.y);
      mma(part[1][0], keys.rest[0][0], keys.rest[1][0], keys.rest[0][1], keys.rest[1][1], l.x, l.y);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[i] = part[0][0][i] + part[0][1][i] + (part[1][0][i] + part[1][1][i]);
  }

  /// Weights of the tile's positions relative to the new maximum, as the products with the values want them.
  __device__ void soften(int tile, int base, float (&scores)[4], uint32_t (&weights)[2]) {
    const bool seen[2] = {base + g >= begin && base + g < end, base + g + 8 >= begin && base + g + 8 < end};
    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      scores[i] = seen[0] ? scores[i] : -INFINITY;
      scores[2 + i] = seen[1] ? scores[2 + i] : -INFINITY;
      float most = fmaxf(scores[i], scores[2 + i]);
#pragma unroll
      for (int distance = 4; distance < 32; distance *= 2)
        most = fmaxf(most, __shfl_xor_sync(~0U, most, distance));
      most = fmaxf(most, max[tile][i]);
      factor[i] = exp2f(max[tile][i] - most);
      max[tile][i] = most;
      scores[i] = exp2f(scores[i] - most);
      scores[2 + i] = exp2f(scores[2 + i] - most);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const __half2 rounded = __floats2half2_rn(scores[2 * i], scores[2 * i + 1]);
      const float2 back = __half22float2(rounded);
      sum[tile][0] = i == 0 ? sum[tile][0] * factor[0] + back.x : sum[tile][0] + back.x;
      sum[tile][1] = i == 0 ? sum[tile][1] * factor[1] + back.y : sum[tile][1] + back.y;
      weights[i] = transposed(bits_of(rounded));
    }
#pragma unroll
    for (auto& column : acc[tile]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) column[i] *= factor[i % 2];
    }
  }

  /// Two words of a position's values to 16 columns: row g is the word's first column, g + 8 its second.
  static __device__ void add_value(float (&out)[4], uint32_t p0, uint32_t p1, uint32_t p2, uint32_t p3,
                                   const uint32_t (&weights)[2]) {
    mma(out, __byte_perm(p0, p1, 0x5410), __byte_perm(p0, p1, 0x7632), __byte_perm(p2, p3, 0x5410),
        __byte_perm(p2, p3, 0x7632), weights[0], weights[1]);
  }
  __device__ void add_values(int tile, const uint32_t (&weights)[2]) {
    if constexpr (kCoded) {
      const bool shrunk = __any_sync(~0U, values.has_large()) != 0;
      if (shrunk) scale_sums(tile, 1.0F / kShrink);
      add_codes(tile, weights, shrunk);
      if (shrunk) scale_sums(tile, kShrink);
    } else {
#pragma unroll
      for (int u = 0; u < Values::kFull; ++u) {
        add_words(tile, u, values.words[0][u], values.words[1][u], values.words[2][u], values.words[3][u],
                  weights);
      }
      add_rest(tile, values, weights);
    }
  }
  __device__ void scale_sums(int tile, float by) {
#pragma unroll
    for (auto& column : acc[tile]) {
#pragma unroll
      for (float& x : column) x *= by;
    }
  }
  __device__ void add_codes(int tile, const uint32_t (&weights)[2], bool shrunk) {
#pragma unroll
    for (int u = 0; u < Values::kFull; ++u) {
      uint32_t words[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) values.decode(words[i], i, u, g, shrunk);
      add_words(tile, u, words[0], words[1], words[2], words[3], weights);
    }
    Values rest;
    values.decode_rest(rest, g, shrunk);
    add_rest(tile, rest, weights);
  }
  /// Columns 64 u and on; p: of the lane's four positions
  __device__ void add_words(int tile, int u, const uint32_t (&p0)[4], const uint32_t (&p1)[4],
                            const uint32_t (&p2)[4], const uint32_t (&p3)[4], const uint32_t (&weights)[2]) {
#pragma unroll
    for (int t = 0; t < 4; ++t) add_value(acc[tile][4 * u + t], p0[t], p1[t], p2[t], p3[t], weights);
  }
  /// The columns behind the last 64.
  __device__ void add_rest(int tile, const Values& of, const uint32_t (&weights)[2]) {
    auto& out = acc[tile];
    if constexpr (Values::kHas32) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        add_value(out[4 * Values::kFull + t], of.of32[0][t], of.of32[1][t], of.of32[2][t], of.of32[3][t],
                  weights);
      }
    }
    if constexpr (Values::kHas16)
      add_value(out[kDim / 16 - 1], of.of16[0][0], of.of16[1][0], of.of16[2][0], of.of16[3][0], weights);
  }

  /// The piece that start() began, to sums, shared.max and shared.sum.
  template <class F>
  __device__ void run(const F& finisher) {
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
      max[tile][0] = max[tile][1] = kNoScore;
      sum[tile][0] = sum[tile][1] = 0;
#pragma unroll
      for (auto& column : acc[tile]) {
        for (float& x : column) x = 0;
      }
    }
    constexpr int kStep = kWarps * kTile;
    for (int base = first_tile(); base < end; base += kStep) {
      patch(base);
      float scores[kHeadTiles][4];
#pragma unroll
      for (int tile = 0; tile < kHeadTiles; ++tile) score(tile, scores[tile]);
      const bool more = base + kStep < end;
      const int64_t page = next_page;
      if (more) {
        next_page = page_of(base + 2 * kStep);
        load_keys(args.cache.keys(page, block.kv_head), base + kStep);
      }
#pragma unroll
      for (int tile = 0; tile < kHeadTiles; ++tile) {
        uint32_t weights[2];
        soften(tile, base, scores[tile], weights);
        add_values(tile, weights);
      }
      if (more) load_values(args.cache.values(page, block.kv_head), base + kStep);
    }
    meet(finisher);
  }

  // --- the warps' sums

  /// Four columns of heads 2c and 2c + 1 from two instructions' sums.
  __device__ void store_columns(const float (&first)[4], const float (&second)[4], int col, float f0,
                                float f1) {
    *reinterpret_cast<float4*>(&shared.sums[warp][2 * c][col]) =
        make_float4(first[0] * f0, first[2] * f0, second[0] * f0, second[2] * f0);
    *reinterpret_cast<float4*>(&shared.sums[warp][2 * c + 1][col]) =
        make_float4(first[1] * f1, first[3] * f1, second[1] * f1, second[3] * f1);
  }
  __device__ void store_sums(int tile, float f0, float f1) {
    const auto& out = acc[tile];
#pragma unroll
    for (int u = 0; u < Values::kFull; ++u) {
      store_columns(out[4 * u], out[4 * u + 1], 64 * u + 8 * g, f0, f1);
      store_columns(out[4 * u + 2], out[4 * u + 3], 64 * u + 8 * g + 4, f0, f1);
    }
    if constexpr (Values::kHas32)
      store_columns(out[4 * Values::kFull], out[4 * Values::kFull + 1], Values::kAt32 + 4 * g, f0, f1);
    if constexpr (Values::kHas16) {
      const auto& last = out[kDim / 16 - 1];
      const int col = Values::kAt16 + 2 * g;
      *reinterpret_cast<float2*>(&shared.sums[warp][2 * c][col]) = make_float2(last[0] * f0, last[2] * f0);
      *reinterpret_cast<float2*>(&shared.sums[warp][2 * c + 1][col]) =
          make_float2(last[1] * f1, last[3] * f1);
    }
  }

  __device__ float max_over_warps(int head) const {
    float most = kNoScore;
#pragma unroll
    for (int w = 0; w < kWarps; w += 4) {
      const float4 x = *reinterpret_cast<const float4*>(&shared.warp_max[head][w]);
      most = fmaxf(most, fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w)));
    }
    return most;
  }
  /// shared.max and shared.sum of a head, by one thread.
  __device__ void sum_head(int head) {
    const float most = max_over_warps(head);
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      total += shared.warp_sum[head][w] * exp2f(shared.warp_max[head][w] - most);
    shared.max[head] = most;
    shared.sum[head] = total;
  }
  /// Four columns of a head over the warps that had positions, in order.
  __device__ float4 sum_warps(int head, int col, int n_warps) const {
    float4 total = make_float4(0, 0, 0, 0);
    for (int begin = 0; begin < n_warps; begin += 4) {
#pragma unroll
      for (int w = begin; w < begin + 4; ++w) {
        if (w >= n_warps) continue;
        const float4 x = *reinterpret_cast<const float4*>(&shared.sums[w][head][col]);
        total = make_float4(total.x + x.x, total.y + x.y, total.z + x.z, total.w + x.w);
      }
    }
    return total;
  }

  template <class F>
  __device__ void meet(const F& finisher) {
    const int n_warps = min(kWarps, (end - begin / kTile * kTile + kTile - 1) / kTile);
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int distance = 4; distance < 32; distance *= 2)
          sum[tile][i] += __shfl_xor_sync(~0U, sum[tile][i], distance);
        if (g != 0) continue;
        shared.warp_max[8 * tile + 2 * c + i][warp] = max[tile][i];
        shared.warp_sum[8 * tile + 2 * c + i][warp] = sum[tile][i];
      }
    }
    __syncthreads();
    const int idle = kWarps * 32 - 1 - static_cast<int>(threadIdx.x);  // the last warps have least to do
    if (idle < Shape::kHeads) sum_head(idle);
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
      if (tile > 0) __syncthreads();
      if (warp < n_warps) {
        const int head = 8 * tile + 2 * c;
        store_sums(tile, exp2f(max[tile][0] - max_over_warps(head)),
                   exp2f(max[tile][1] - max_over_warps(head + 1)));
      }
      __syncthreads();
      finisher.for_vectors([&](int of, int i, int head, int col, bool valid) {
        if (valid && of == tile) sums[of][i] = sum_warps(head % 8, col, n_warps);
      });
    }
  }
};

}  // namespace device
}  // namespace tandem::cuda
