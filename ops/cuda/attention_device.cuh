// What the attention kernels share beside heads by warps (attention_heads.cuh): how a token's positions are
// cut into pieces, and how partial results are merged and written.
//
// The bits of an output row depend on its query, its position, the window, the cached rows that it sees and
// the most pieces that the launch makes of a token, not on the step's other tokens, the page ids or the
// grid: a piece is always computed by one block in one order, and pieces are merged in order, whether the
// block that did them all keeps them in registers or the last block to finish reads them from scratch.
#pragma once

#include "ops/cuda/attention_heads.cuh"
#include "ops/cuda/dependent_launch.cuh"

namespace tandem::cuda::device {

/// The maximum of no scores. Finite, so that it can be subtracted from itself.
inline constexpr float kNoScore = -1e30F;

// --- where a token stands, and its pieces

/// A load that stays where it is written: the compiler would sink it below a branch, behind another latency.
__device__ inline int load_now(const int32_t* p) {
  int x;
  asm volatile("ld.global.b32 %0, [%1];" : "=r"(x) : "l"(p));
  return x;
}

struct TokenPlace {
  const int32_t* pages = nullptr;
  int position = 0;
  int first_seen = 0;
  int first_page = 0;
  int pages_a_piece = 0;
  int n_pieces = 0;

  __device__ void find(const AttentionArgs& args, int64_t token) {
    const int sequence = load_now(args.step.sequences + token);
    position = load_now(args.step.positions + token);
    pages = args.step.pages + sequence * args.step.pages_stride;
    first_seen = args.window > 0 ? max(0, position - args.window + 1) : 0;
    first_page = first_seen / kPageTokens;
    n_pieces = position / kPageTokens + 1 - first_page;
    pages_a_piece = 1;
    if (n_pieces <= args.max_pieces) return;
    pages_a_piece = (n_pieces + args.max_pieces - 1) / args.max_pieces;
    n_pieces = (n_pieces + pages_a_piece - 1) / pages_a_piece;
  }
  /// Which of n_slots blocks does the last piece.
  __device__ int last_slot(int n_slots) const {
    return n_pieces <= n_slots ? n_pieces - 1 : (n_pieces - 1) % n_slots;
  }
  /// Positions of a piece that the token sees: [begin, end).
  __device__ int begin(int piece) const {
    return max(first_seen, (first_page + piece * pages_a_piece) * kPageTokens);
  }
  __device__ int end(int piece) const {
    return min(position + 1, (first_page + (piece + 1) * pages_a_piece) * kPageTokens);
  }
};

// --- partial results
// A block's vectors: vector i of thread t and head tile h is four columns of a head, number i · threads + t
// of the tile's (8, head_dim / 4).

/// Sums over positions, relative to their maximum, of a head: four of its columns.
struct Partial {
  float4 sum{0, 0, 0, 0};
  float max = kNoScore;
  float weight = 0;

  /// Written out with its roundings, so that every place that merges does it to the same bits.
  __device__ void merge(float4 other, float other_max, float other_weight) {
    const float most = fmaxf(max, other_max);
    const float a = exp2f(max - most);
    const float b = exp2f(other_max - most);
    sum.x = __fmaf_rn(sum.x, a, __fmul_rn(other.x, b));
    sum.y = __fmaf_rn(sum.y, a, __fmul_rn(other.y, b));
    sum.z = __fmaf_rn(sum.z, a, __fmul_rn(other.z, b));
    sum.w = __fmaf_rn(sum.w, a, __fmul_rn(other.w, b));
    weight = __fmaf_rn(weight, a, __fmul_rn(other_weight, b));
    max = most;
  }
  __device__ float4 result() const {
    const float inverse = weight > 0 ? 1.0F / weight : 0.0F;
    return make_float4(sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse);
  }
};

/// What the cache's mixing of values left in an output, taken out: of four columns a lane, neighbours in
/// neighbouring lanes. All lanes of the warp.
__device__ inline float4 unmixed(const AttentionArgs& args, float4 x) {
  const int width = args.mix_width;
  if (width == 1) return x;  // others are multiples of 4, as heads are
  meet(x.x, x.y);
  meet(x.z, x.w);
  meet(x.x, x.z);
  meet(x.y, x.w);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int step = 1; step < width / 4; step *= 2) {
    meet_lane(x.x, lane, step);
    meet_lane(x.y, lane, step);
    meet_lane(x.z, lane, step);
    meet_lane(x.w, lane, step);
  }
  const float factor = args.read_mix;
  return make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor);
}

/// Four columns of a head's output. All lanes of the warp; `valid`: of a head that exists (else x is 0). kDim
/// as Finisher's.
template <int kDim>
__device__ inline void write_result(const AttentionArgs& args, int64_t token, int head, int col, float4 x,
                                    bool valid) {
  if (!valid) x = make_float4(0, 0, 0, 0);
  x = unmixed(args, x);
  report(args.not_finite,
         fabsf(x.x) < INFINITY && fabsf(x.y) < INFINITY && fabsf(x.z) < INFINITY && fabsf(x.w) < INFINITY);
  const int dim = kDim != 0 ? kDim : args.cache.head_dim;
  if (args.out == nullptr) {
    float* row = args.rows + (token * args.groups.n_heads + head) * dim;
    if (valid) *reinterpret_cast<float4*>(row + col) = x;
    return;
  }
  const int stored = args.out_lead + head * dim + col;
  const int segment = stored / kSegmentCols;
  const int group = stored % kSegmentCols / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  std::byte* row = args.out + token * args.out_token_bytes;
  if (args.form == ActForm::q8) {
    store_group<ActForm::q8>(x, row + segment * ActLayout::kQ8Bytes, group, lane, valid);
  } else if (args.form == ActForm::q15) {
    store_group<ActForm::q15>(x, row + segment * ActLayout::kQ15Bytes, group, lane, valid);
  } else {
    store_group<ActForm::f32>(x, row + segment * ActLayout::kF32Bytes, group, lane, valid);
  }
}

/// The block's place in the grid, and its heads.
struct BlockPlace {
  int64_t token = 0;
  int kv_head = 0;
  int slot = 0;
  int first_head = 0;
  int n_heads = 0;

  __device__ explicit BlockPlace(const AttentionArgs& args) {
    slot = static_cast<int>(blockIdx.x);
    kv_head = static_cast<int>(blockIdx.y);
    token = args.first_token + blockIdx.z;
    first_head = args.groups.begin[kv_head];
    n_heads = args.groups.begin[kv_head + 1] - first_head;
  }
};

/// Everything behind a block's piece: kept, or handed to the block that finishes last.
/// kDim: of a head, or 0 where the compiler doesn't know it.
template <int kThreads, int kHeadTiles, int kVectors, int kDim>
struct Finisher {
  const AttentionArgs& args;
  const BlockPlace& block;
  const TokenPlace& place;
  bool alone;  ///< this block does all pieces of the token
  Partial kept[kHeadTiles][kVectors];

  __device__ Finisher(const AttentionArgs& args_in, const BlockPlace& block_in, const TokenPlace& place_in)
      : args(args_in),
        block(block_in),
        place(place_in),
        alone(args_in.n_slots == 1 || place_in.n_pieces == 1) {}

  __device__ int head_dim() const { return kDim != 0 ? kDim : args.cache.head_dim; }

  /// f(head tile, vector, head of the group, column, is there such a head) of the thread's vectors.
  template <class F>
  __device__ void for_vectors(const F& f) const {
    const int a_head = head_dim() / 4;
#pragma unroll
    for (int tile = 0; tile < kHeadTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int vector = i * kThreads + static_cast<int>(threadIdx.x);
        const int head = 8 * tile + vector / a_head;
        f(tile, i, head, vector % a_head * 4, vector < 8 * a_head && head < block.n_heads);
      }
    }
  }

  __device__ int64_t partial_index(int head, int piece) const {
    const int64_t token = block.token - args.first_token;
    return (token * args.groups.n_heads + block.first_head + head) * args.max_pieces + piece;
  }

  /// sums: (head tiles, vectors) of the thread; max, weight: (heads) of shared memory
  __device__ void take(int piece, const float4 (&sums)[kHeadTiles][kVectors], const float* max,
                       const float* weight) {
    for_vectors([&](int tile, int i, int head, int col, bool valid) {
      if (!valid) return;
      if (alone) {
        kept[tile][i].merge(sums[tile][i], max[head], weight[head]);
        return;
      }
      const int64_t at = partial_index(head, piece);
      *reinterpret_cast<float4*>(args.partials + at * head_dim() + col) = sums[tile][i];
      if (col == 0) args.partial_sums[at] = make_float2(max[head], weight[head]);
    });
  }

  /// Is this the last block of the (token, KV head)? What the others wrote is seen then.
  __device__ bool all_done(int n_done, uint32_t* shared) const {
    __syncthreads();
    if (threadIdx.x == 0) {
      const int64_t token = block.token - args.first_token;
      uint32_t* ticket = args.tickets + token * args.groups.n_kv_heads + block.kv_head;
      uint32_t before;
      asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                   : "=r"(before)
                   : "l"(ticket), "r"(n_done)
                   : "memory");
      const bool last = static_cast<int>(before) + n_done == place.n_pieces;
      if (last) *ticket = 0;
      *shared = last ? 1 : 0;
    }
    __syncthreads();
    return *shared != 0;
  }

  /// All pieces, in order; several are asked for at a time.
  __device__ Partial merged(int head, int col) const {
    constexpr int kBatch = 8;
    const int64_t first = partial_index(head, 0);
    const float* sums = args.partials + first * head_dim() + col;
    Partial all;
    for (int begin = 0; begin < place.n_pieces; begin += kBatch) {
      float4 sum[kBatch];
      float2 of[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int piece = min(begin + i, place.n_pieces - 1);
        of[i] = __ldcg(args.partial_sums + first + piece);
        sum[i] = __ldcg(reinterpret_cast<const float4*>(sums + piece * head_dim()));
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {  // a piece beyond the last changes nothing
        const bool exists = begin + i < place.n_pieces;
        all.merge(sum[i], exists ? of[i].x : kNoScore, of[i].y);
      }
    }
    return all;
  }

  /// The last block of the (token, KV head) merges all pieces, in order. n_done: pieces that this block did.
  /// shared: a word. All threads.
  __device__ void finish(int n_done, uint32_t* shared) {
    if (!alone && !all_done(n_done, shared)) return;
    for_vectors([&](int tile, int i, int head, int col, bool valid) {
      float4 x = make_float4(0, 0, 0, 0);
      if (valid) x = alone ? kept[tile][i].result() : merged(head, col).result();
      write_result<kDim>(args, block.token, block.first_head + head, col, x, valid);
    });
  }
};

}  // namespace tandem::cuda::device
