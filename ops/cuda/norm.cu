#include "ops/cuda/norm.h"

#include "ops/cuda/arrivals_device.cuh"
#include "ops/cuda/cluster.cuh"
#include "ops/cuda/dependent_launch.cuh"
#include "ops/cuda/launch.h"
#include "ops/cuda/peer_device.cuh"
#include "ops/cuda/quantize_device.cuh"

namespace tandem::cuda {
namespace {

constexpr int kWarps = 32;        ///< that share a row
constexpr int kMostSegments = 4;  ///< a warp
constexpr int kClusterBlocks = 8;
constexpr int64_t kManyTokens = 64;  ///< more have blocks enough: clusters would only cost

struct Output {
  std::byte* data = nullptr;  ///< (n_tokens, token_bytes)
  int64_t token_bytes = 0;
  ActForm form = ActForm::f32;
};

struct NormArgs {
  AddNorm what;
  Output out[kMaxNormOutputs];
  bool halves = false;  ///< one of the outputs is in halves
};

/// Eight columns of a row; zeros beyond its end.
__device__ inline void load_row(float (&v)[8], const float* row, int64_t col, int64_t n_cols) {
  for (int i = 0; i < 8; i += 4) {
    const float4 x = col + i < n_cols ? *reinterpret_cast<const float4*>(row + col + i) : float4{};
    v[i] = x.x;
    v[i + 1] = x.y;
    v[i + 2] = x.z;
    v[i + 3] = x.w;
  }
}

/// The factor that norms a row: each thread gives its own sum of squares; all threads get the same bits.
/// shared: (kWarps) for this norm alone. `warp`: of the row's.
template <int kBlocks>
__device__ inline float norm_factor(float squares, int64_t n_cols, float eps, float* shared, int warp) {
  for (int distance = 16; distance > 0; distance /= 2) squares += __shfl_xor_sync(~0U, squares, distance);
  if constexpr (kBlocks == 1) {
    if (threadIdx.x % 32 == 0) shared[warp] = squares;
    __syncthreads();
  } else {
    if (threadIdx.x % 32 < kBlocks) device::store_in_block(shared + warp, threadIdx.x % 32, squares);
    device::cluster_arrive();
    device::cluster_wait();
  }
  float sum = shared[threadIdx.x % 32];
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0U, sum, distance);
  return 1.0F / sqrtf(sum / static_cast<float>(n_cols) + eps);
}

template <int kSegments>
__device__ inline float sum_of_squares(const float (&v)[kSegments][8]) {
  float sum = 0;
  for (int s = 0; s < kSegments; ++s) {
    for (int i = 0; i < 8; ++i) sum += v[s][i] * v[s][i];
  }
  return sum;
}

/// The largest magnitude of a row: each thread gives its own. shared: (kWarps) for this alone.
template <int kBlocks>
__device__ inline float row_max(float amax, float* shared, int warp) {
  for (int distance = 16; distance > 0; distance /= 2)
    amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, distance));
  if constexpr (kBlocks == 1) {
    if (threadIdx.x % 32 == 0) shared[warp] = amax;
    __syncthreads();
  } else {
    if (threadIdx.x % 32 < kBlocks) device::store_in_block(shared + warp, threadIdx.x % 32, amax);
    device::cluster_arrive();
    device::cluster_wait();
  }
  amax = shared[threadIdx.x % 32];
  for (int distance = 16; distance > 0; distance /= 2)
    amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, distance));
  return amax;
}

/// scale: of the token's halves, where there are some.
__device__ inline void store_output(const Output& out, int64_t token, int64_t segment, const float (&x)[8],
                                    const device::HalfScale& scale, int lane) {
  std::byte* row = out.data + token * out.token_bytes;
  if (out.form == ActForm::f16) {
    device::store_halves(x, scale.inverse, row + segment * ActLayout::kF16Bytes, lane);
    if (segment == 0 && lane == 0)
      *reinterpret_cast<float*>(row + out.token_bytes - ActLayout::kTailBytes) = scale.scale;
  } else if (out.form == ActForm::q8) {
    device::store_record<ActForm::q8>(x, row + segment * ActLayout::kQ8Bytes, lane);
  } else if (out.form == ActForm::q15) {
    device::store_record<ActForm::q15>(x, row + segment * ActLayout::kQ15Bytes, lane);
  } else {
    device::store_record<ActForm::f32>(x, row + segment * ActLayout::kF32Bytes, lane);
  }
}

/// Sends this rank's columns of a segment to every other rank: a lane two columns at a time, so that what a
/// warp stores is whole lines on their way. offset: of the segment's packets in a slot.
__device__ inline void send_segment(const device::PeerSlots& slots, int64_t offset, const float* row,
                                    int64_t begin, int64_t n_cols, int lane) {
  float2 mine[kSegmentCols / 64];
#pragma unroll
  for (int k = 0; k < kSegmentCols / 64; ++k) {
    const int64_t col = begin + 64 * k + 2 * lane;
    mine[k] = col < n_cols ? *reinterpret_cast<const float2*>(row + col) : float2{};
  }
  for (int i = 1; i < slots.peers.n_ranks; ++i) {
    int to = slots.peers.rank + i;
    if (to >= slots.peers.n_ranks) to -= slots.peers.n_ranks;
    std::byte* p = slots.slot(to, slots.peers.rank) + offset;
#pragma unroll
    for (int k = 0; k < kSegmentCols / 64; ++k) {
      const int col = 64 * k + 2 * lane;
      if (begin + col < n_cols)
        device::store_packets(p + col * kPacketBytes, mine[k].x, mine[k].y, slots.number);
    }
  }
}

/// Eight columns that one rank sent, or 4 at the row's end.
struct SentColumns {
  uint4 v[4] = {};

  __device__ void load(const device::PeerSlots& slots, int from, int64_t offset, int n) {
    const std::byte* p = slots.slot(slots.peers.rank, from) + offset;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (2 * k < n) v[k] = device::load_packets(p + 2 * k * kPacketBytes);
    }
  }
  __device__ bool are_there(uint32_t number, int n) const {
    bool there = true;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (2 * k < n) there &= v[k].y == number && v[k].w == number;
    }
    return there;
  }
  __device__ void add_to(float (&sum)[8]) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      sum[2 * k] += __uint_as_float(v[k].x);
      sum[2 * k + 1] += __uint_as_float(v[k].z);
    }
  }
};

/// v += the ranks' partial columns, in rank order, as soon as they are there: kAtOnce ranks' are asked for at
/// once. row: of the exchange.
template <int kAtOnce>
__device__ inline void add_peers(const device::PeerSlots& slots, const AddNorm& what, int64_t row,
                                 int64_t col, float (&v)[8]) {
  const int n = col + 8 <= what.n_cols ? 8 : col < what.n_cols ? 4 : 0;
  if (n == 0) return;
  const int64_t offset = (row * what.n_cols + col) * kPacketBytes;
  const int own = what.partial == nullptr ? -1 : what.peers.rank;  // whose sums aren't sent
  float mine[8] = {};
  if (own >= 0) load_row(mine, what.partial + (what.first_token + row) * what.n_cols, col, what.n_cols);
  for (int r = 0; r < what.peers.n_ranks; r += kAtOnce) {
    SentColumns sent[kAtOnce];
    bool there;
    do {
      there = true;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (r + i < what.peers.n_ranks && r + i != own) sent[i].load(slots, r + i, offset, n);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (r + i < what.peers.n_ranks && r + i != own) there &= sent[i].are_there(slots.number, n);
      }
    } while (!there);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (r + i == own) {
        for (int k = 0; k < 8; ++k) v[k] += mine[k];
      } else if (r + i < what.peers.n_ranks) {
        sent[i].add_to(v);
      }
    }
  }
}

/// Thread map: a token has kWarps warps, in one block or, of few tokens, in a cluster of eight, whose
/// multiprocessors ask for the row's bytes together; warp w has the segments w, w + 32, …, a lane 8 columns
/// of each, kept in registers throughout. Reads slots, residual and weights once, all asked for before the
/// first is used; writes residual and records once.
template <int kSegments, int kBlocks>
__global__ __launch_bounds__(kWarps / kBlocks *
                             32) void add_norm_kernel(const __grid_constant__ NormArgs args) {
  __shared__ float shared[3][kWarps];
  if constexpr (kBlocks > 1) device::cluster_arrive();
  const AddNorm& what = args.what;
  const int64_t n_cols = what.n_cols;
  const int64_t row = blockIdx.x / kBlocks;
  const int64_t token = what.first_token + row;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp =
      static_cast<int>(blockIdx.x % kBlocks) * (kWarps / kBlocks) + static_cast<int>(threadIdx.x / 32);
  const auto col_of = [&](int s) { return int64_t{s * kWarps + warp} * kSegmentCols + 8 * lane; };
  device::let_next_start();
  float weight[kSegments][8] = {};
#pragma unroll
  for (int s = 0; s < kSegments; ++s) {
    if (what.weight != nullptr) load_row(weight[s], what.weight, col_of(s), n_cols);
  }
  device::wait_for_inputs();

  float* residual = what.residual + (what.rows == nullptr ? token : what.rows[token]) * n_cols;
  float r[kSegments][8];
  float v[kSegments][8] = {};
#pragma unroll
  for (int s = 0; s < kSegments; ++s) load_row(r[s], residual, col_of(s), n_cols);
  if (what.arrivals.flag != nullptr) {
    const auto piece = static_cast<uint32_t>(token / what.arrivals.piece_tokens);
    if (threadIdx.x == 0) device::await_arrival(what.arrivals.flag, what.arrivals.number + piece);
    __syncthreads();
  }
#pragma unroll
  for (int s = 0; s < kSegments; ++s) {
#pragma unroll 2
    for (int slot = 0; slot < what.n_slots; ++slot) {
      float x[8];
      load_row(x, what.slots[slot] + token * n_cols, col_of(s), n_cols);
      for (int i = 0; i < 8; ++i) v[s][i] += x[i];
    }
  }
  if (what.peers.n_ranks != 0) {
    const device::PeerSlots slots(what.peers);
    if (what.partial != nullptr) {
      const float* mine = what.partial + token * n_cols;
#pragma unroll
      for (int s = 0; s < kSegments; ++s) {
        const int64_t begin = int64_t{s * kWarps + warp} * kSegmentCols;
        send_segment(slots, (row * n_cols + begin) * kPacketBytes, mine, begin, n_cols, lane);
      }
    }
#pragma unroll
    for (int s = 0; s < kSegments; ++s) add_peers<kBlocks == 1 ? 1 : 2>(slots, what, row, col_of(s), v[s]);
  }
  if constexpr (kBlocks > 1) device::cluster_wait();  // all blocks have begun: their shared memory is there
  if (what.post_weight != nullptr) {
    const float factor = norm_factor<kBlocks>(sum_of_squares(v), n_cols, what.eps, shared[0], warp);
#pragma unroll
    for (int s = 0; s < kSegments; ++s) {
      float w[8];
      load_row(w, what.post_weight, col_of(s), n_cols);
      for (int i = 0; i < 8; ++i) v[s][i] *= factor * w[i];
    }
  }
  bool finite = true;
#pragma unroll
  for (int s = 0; s < kSegments; ++s) {
    for (int i = 0; i < 8; ++i) {
      v[s][i] += r[s][i];
      finite &= fabsf(v[s][i]) < INFINITY;
    }
  }
  if (!finite && what.not_finite != nullptr) *what.not_finite = 1;
  const float factor = norm_factor<kBlocks>(sum_of_squares(v), n_cols, what.eps, shared[1], warp);
  float amax = 0;
#pragma unroll
  for (int s = 0; s < kSegments; ++s) {
    for (int i = 0; i < 8; ++i) {
      weight[s][i] *= v[s][i] * factor;
      amax = fmaxf(amax, fabsf(weight[s][i]));
    }
  }
  device::HalfScale scale;
  if (args.halves) scale = device::half_scale(row_max<kBlocks>(amax, shared[2], warp));
#pragma unroll
  for (int s = 0; s < kSegments; ++s) {
    const int64_t segment = s * kWarps + warp;
    if (segment * kSegmentCols >= n_cols) break;
    for (const Output& out : args.out) {
      if (out.data != nullptr) store_output(out, token, segment, weight[s], scale, lane);
    }
    for (int i = 0; i < 8; i += 4) {
      if (what.rows != nullptr || col_of(s) + i >= n_cols) continue;
      *reinterpret_cast<float4*>(residual + col_of(s) + i) =
          make_float4(v[s][i], v[s][i + 1], v[s][i + 2], v[s][i + 3]);
    }
  }
}

template <int kBlocks>
const void* kernel_of(int64_t n_cols) {
  const int64_t segments = ceil_div(n_cols, int64_t{kWarps} * kSegmentCols);
  if (segments <= 1) return reinterpret_cast<const void*>(add_norm_kernel<1, kBlocks>);
  if (segments <= 2) return reinterpret_cast<const void*>(add_norm_kernel<2, kBlocks>);
  return reinterpret_cast<const void*>(add_norm_kernel<kMostSegments, kBlocks>);
}

}  // namespace

void add_norm(const AddNorm& what, int64_t n_tokens, bool early, cudaStream_t stream) {
  require(what.n_cols > 0 && what.n_cols % 4 == 0 &&
              what.n_cols <= int64_t{kMostSegments} * kWarps * kSegmentCols,
          "add_norm: columns", what.n_cols);
  require(what.n_slots >= 0 && what.n_slots <= kMaxNormSlots, "add_norm: slots", what.n_slots);
  require(what.peers.n_ranks == 0 || (what.n_slots == 0 && n_tokens <= kExchangeTokens), "add_norm: peers",
          what.peers.n_ranks, n_tokens);
  require(what.weight != nullptr || (what.out[0] == nullptr && what.out[1] == nullptr),
          "add_norm: outputs without a norm");
  NormArgs args{what, {}};
  for (int i = 0; i < kMaxNormOutputs; ++i) {
    const CudaActivations* out = what.out[i];
    if (out == nullptr) continue;
    require(out->cols() == Range{0, what.n_cols} && what.first_token + n_tokens <= out->max_tokens(),
            "add_norm: shape of an output", i);
    args.out[i] = {out->data(), out->token_bytes(), out->form()};
    args.halves |= out->form() == ActForm::f16;
  }
  if (n_tokens == 0) return;
  const void* clustered = kernel_of<kClusterBlocks>(what.n_cols);
  if (n_tokens <= kManyTokens && is_hopper_code(clustered)) {
    constexpr int kThreads = kWarps / kClusterBlocks * 32;
    launch(clustered, {n_tokens * kClusterBlocks, kThreads, 0, early, kClusterBlocks}, &args, stream);
  } else {
    launch(kernel_of<1>(what.n_cols), {n_tokens, kWarps * 32, 0, early}, &args, stream);
  }
}

}  // namespace tandem::cuda
