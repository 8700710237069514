// Attention for any head size and cache type on any device, by float arithmetic in shared memory.
//
// Thread map: a block a (token, KV head, slot); it goes through its pieces 32 positions at a time. Scores: a
// warp the heads w and w + 8, a lane a position. Sums: a thread four columns of a head, kVectors times.
// Bytes: each row of the cache once for all query heads of the block.
#include "ops/cuda/attention_device.cuh"
#include "ops/cuda/attention_kernels.h"

namespace tandem::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kHeadTiles = kMaxGroup / 8;
constexpr int kVectors = 8 * kMaxHeadDim / 4 / kThreads;  ///< a head tile
constexpr int kRegs = kMaxHeadDim / 32;
constexpr int kChunk = 32;  ///< positions at a time

struct alignas(16) Shared {
  float weights[kMaxGroup][kChunk];
  float factor[kMaxGroup];
  float max[kMaxGroup];
  float sum[kMaxGroup];
  uint32_t last;
  /// queries (kMaxGroup, head_dim), then rows (kChunk, head_dim + 4), which are also the warps' (head_dim)
  __device__ float* data() { return reinterpret_cast<float*>(this + 1); }
};

/// Four elements of a row of a plane.
template <CudaKvType kType>
__device__ inline float4 load_cached(const std::byte* plane, int slot, int dim, int col) {
  if constexpr (kType == CudaKvType::f32) {
    return *reinterpret_cast<const float4*>(plane + int64_t{slot} * dim * 4 + col * 4);
  } else if constexpr (kType == CudaKvType::f16) {
    const auto* h = reinterpret_cast<const __half2*>(plane + int64_t{slot} * dim * 2 + col * 2);
    const float2 a = __half22float2(h[0]);
    const float2 b = __half22float2(h[1]);
    return make_float4(a.x, a.y, b.x, b.y);
  } else {
    const int row_bytes = kv_row_bytes(kType, dim);
    const std::byte* row = plane + slot * row_bytes;
    uint32_t codes;
    if constexpr (kType == CudaKvType::q4_0) {
      codes = codes_of_nibbles(*reinterpret_cast<const uint32_t*>(row + col / 8 * 4), col % 8 == 4);
    } else {
      codes = *reinterpret_cast<const uint32_t*>(row + col);
    }
    const char4 q = *reinterpret_cast<const char4*>(&codes);
    const auto* scales = reinterpret_cast<const __half*>(plane + kPageTokens * row_bytes);
    const float d = __half2float(scales[slot * ((dim + kKvGroup - 1) / kKvGroup) + col / kKvGroup]);
    return make_float4(d * static_cast<float>(q.x), d * static_cast<float>(q.y), d * static_cast<float>(q.z),
                       d * static_cast<float>(q.w));
  }
}

template <CudaKvType kType>
struct PlainCore {
  const AttentionArgs& args;
  const device::BlockPlace& block;
  const device::TokenPlace& place;
  Shared& shared;
  int dim;
  int lane = static_cast<int>(threadIdx.x % 32);
  int warp = device::warp_of_block();
  float* queries;
  float* rows;
  int stride;
  float4 sums[kHeadTiles][kVectors];

  __device__ PlainCore(const AttentionArgs& args_in, const device::BlockPlace& block_in,
                       const device::TokenPlace& place_in, Shared& shared_in)
      : args(args_in),
        block(block_in),
        place(place_in),
        shared(shared_in),
        dim(args_in.cache.head_dim),
        queries(shared_in.data()),
        rows(shared_in.data() + kMaxGroup * dim),
        stride(dim + 4) {}

  /// The block's queries, scaled, and what it appends.
  __device__ void prepare(bool appends) {
    device::WarpRotation<kRegs> rotation;
    rotation.load(args, block.token, lane);
    const int64_t page = appends ? place.pages[place.position / kPageTokens] : 0;
    const int slot = place.position % kPageTokens;
    device::wait_for_inputs();
    device::WarpRow<kRegs> head;
    float* row = rows + warp * dim;
    for (int job = warp; job < block.n_heads + (appends ? 2 : 0); job += kWarps) {
      const bool is_key = job == block.n_heads;
      const auto source = job < block.n_heads
                              ? device::query_source(args, block.token, block.first_head + job)
                          : is_key ? device::key_source(args, block.token, block.kv_head)
                                   : device::value_source(args, block.token, block.kv_head);
      head.load(source.row, dim, lane);
      device::change_head(args, source, rotation, row, dim, lane, head);
      if (job < block.n_heads) {
        device::report(args.not_finite, head.finite());
        for (float& x : head.x) x *= args.scale_log2;
        head.store(queries + job * dim, dim, lane);
      } else {
        std::byte* plane =
            is_key ? args.cache.keys(page, block.kv_head) : args.cache.values(page, block.kv_head);
        device::report(args.not_finite, device::store_cached(head, kType, plane, slot, dim, lane));
      }
    }
    __syncthreads();  // the appended rows are seen by the block's other threads too
  }

  /// Rows [base, base + kChunk) of a plane as floats; zeros where the token doesn't see them.
  __device__ void stage(const std::byte* plane, int base, int begin, int end) {
    const int a_row = dim / 4;
    for (int i = static_cast<int>(threadIdx.x); i < kChunk * a_row; i += kThreads) {
      const int position = base + i / a_row;
      const int col = i % a_row * 4;
      const bool seen = position >= begin && position < end;
      *reinterpret_cast<float4*>(rows + i / a_row * stride + col) =
          seen ? load_cached<kType>(plane, position % kPageTokens, dim, col) : make_float4(0, 0, 0, 0);
    }
  }

  /// Scores of the staged keys, as weights relative to the maximum so far. max, sum: the warp's heads'
  __device__ void score(bool seen, float (&max)[kHeadTiles], float (&sum)[kHeadTiles]) {
#pragma unroll
    for (int i = 0; i < kHeadTiles; ++i) {
      const int head = warp + i * kWarps;
      if (head >= block.n_heads) break;
      const auto* q = reinterpret_cast<const float4*>(queries + head * dim);
      const auto* k = reinterpret_cast<const float4*>(rows + lane * stride);
      float dot = 0;
#pragma unroll 8
      for (int d = 0; d < dim / 4; ++d) {
        const float4 a = q[d];
        const float4 b = k[d];
        dot += a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
      }
      float most = seen ? dot : -INFINITY;
      for (int distance = 16; distance > 0; distance /= 2)
        most = fmaxf(most, __shfl_xor_sync(~0U, most, distance));
      most = fmaxf(most, max[i]);
      const float weight = seen ? exp2f(dot - most) : 0.0F;
      const float factor = exp2f(max[i] - most);
      float total = weight;
      for (int distance = 16; distance > 0; distance /= 2) total += __shfl_xor_sync(~0U, total, distance);
      max[i] = most;
      sum[i] = sum[i] * factor + total;
      shared.weights[head][lane] = weight;
      if (lane == 0) shared.factor[head] = factor;
    }
  }

  template <class F>
  __device__ void add_values(const F& finisher) {
    finisher.for_vectors([&](int tile, int i, int head, int col, bool valid) {
      if (!valid) return;
      float4& sum = sums[tile][i];
      const float factor = shared.factor[head];
      sum = make_float4(sum.x * factor, sum.y * factor, sum.z * factor, sum.w * factor);
#pragma unroll 8
      for (int p = 0; p < kChunk; ++p) {
        const float weight = shared.weights[head][p];
        const float4 v = *reinterpret_cast<const float4*>(rows + p * stride + col);
        sum.x += weight * v.x;
        sum.y += weight * v.y;
        sum.z += weight * v.z;
        sum.w += weight * v.w;
      }
    });
  }

  /// Positions [begin, end) to sums, shared.max and shared.sum.
  template <class F>
  __device__ void run(int begin, int end, const F& finisher) {
    float max[kHeadTiles];
    float sum[kHeadTiles] = {};
    for (float& m : max) m = device::kNoScore;
    for (auto& tile : sums) {
      for (float4& x : tile) x = make_float4(0, 0, 0, 0);
    }
    for (int base = begin / kChunk * kChunk; base < end; base += kChunk) {
      const int64_t page = place.pages[base / kPageTokens];
      stage(args.cache.keys(page, block.kv_head), base, begin, end);
      __syncthreads();
      score(base + lane >= begin && base + lane < end, max, sum);
      __syncthreads();
      stage(args.cache.values(page, block.kv_head), base, begin, end);
      __syncthreads();
      add_values(finisher);
      __syncthreads();
    }
    if (lane == 0) {
      for (int i = 0; i < kHeadTiles; ++i) {
        shared.max[warp + i * kWarps] = max[i];
        shared.sum[warp + i * kWarps] = sum[i];
      }
    }
    __syncthreads();
  }
};

template <CudaKvType kType>
__global__ __launch_bounds__(kThreads) void plain_attention_kernel(
    const __grid_constant__ AttentionArgs args) {
  extern __shared__ float4 memory[];
  auto& shared = *reinterpret_cast<Shared*>(memory);
  const device::BlockPlace block(args);
  device::TokenPlace place;
  device::let_next_start();
  if (!args.appends) device::wait_for_inputs();
  place.find(args, block.token);
  if (block.slot >= place.n_pieces) return;  // others of the grid wait, so the next kernel's inputs are safe
  PlainCore<kType> core(args, block, place, shared);
  core.prepare(args.appends && block.slot == place.last_slot(args.n_slots));
  device::Finisher<kThreads, kHeadTiles, kVectors, 0> finisher(args, block, place);
  int n_done = 0;
  for (int piece = block.slot; piece < place.n_pieces; piece += args.n_slots) {
    core.run(place.begin(piece), place.end(piece), finisher);
    finisher.take(piece, core.sums, shared.max, shared.sum);
    __syncthreads();
    ++n_done;
  }
  finisher.finish(n_done, &shared.last);
}

}  // namespace

AttentionKernel plain_attention(CudaKvType type, int32_t head_dim) {
  const int64_t floats = int64_t{kMaxGroup} * head_dim + kChunk * (head_dim + 4);
  const void* function =
      reinterpret_cast<const void*>(type == CudaKvType::f32    ? plain_attention_kernel<CudaKvType::f32>
                                    : type == CudaKvType::f16  ? plain_attention_kernel<CudaKvType::f16>
                                    : type == CudaKvType::q8_0 ? plain_attention_kernel<CudaKvType::q8_0>
                                                               : plain_attention_kernel<CudaKvType::q4_0>);
  return {function, kThreads, static_cast<int64_t>(sizeof(Shared)) + 4 * floats};
}

}  // namespace tandem::cuda
