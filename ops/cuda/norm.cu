#include "ops/cuda/norm.h"

#include "ops/cuda/dependent_launch.cuh"
#include "ops/cuda/launch.h"
#include "ops/cuda/quantize_device.cuh"

namespace tandem::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kMostSegments = 4;  ///< a warp

struct Output {
  std::byte* data = nullptr;  ///< (n_tokens, token_bytes)
  int64_t token_bytes = 0;
  ActForm form = ActForm::f32;
};

struct NormArgs {
  AddNorm what;
  Output out[kMaxNormOutputs];
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
__device__ inline float norm_factor(float squares, int64_t n_cols, float eps, float* shared) {
  for (int distance = 16; distance > 0; distance /= 2) squares += __shfl_xor_sync(~0U, squares, distance);
  __syncthreads();  // the shared sums of a norm before this one have been read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = squares;
  __syncthreads();
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

__device__ inline void store_output(const Output& out, int64_t token, int64_t segment, const float (&x)[8],
                                    int lane) {
  std::byte* row = out.data + token * out.token_bytes;
  if (out.form == ActForm::q8) {
    device::store_record<ActForm::q8>(x, row + segment * ActLayout::kQ8Bytes, lane);
  } else if (out.form == ActForm::q15) {
    device::store_record<ActForm::q15>(x, row + segment * ActLayout::kQ15Bytes, lane);
  } else {
    device::store_record<ActForm::f32>(x, row + segment * ActLayout::kF32Bytes, lane);
  }
}

/// Thread map: a block a token; warp w the segments w, w + 32, …, a lane 8 columns of each, kept in registers
/// throughout. Reads slots, residual and weights once, all asked for before the first is used; writes
/// residual and records once.
template <int kSegments>
__global__ __launch_bounds__(kThreads) void add_norm_kernel(const __grid_constant__ NormArgs args) {
  __shared__ float shared[kWarps];
  const AddNorm& what = args.what;
  const int64_t n_cols = what.n_cols;
  const int64_t token = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto col_of = [&](int s) { return int64_t{s * kWarps + warp} * kSegmentCols + 8 * lane; };
  device::let_next_start();
  float weight[kSegments][8];
#pragma unroll
  for (int s = 0; s < kSegments; ++s) load_row(weight[s], what.weight, col_of(s), n_cols);
  device::wait_for_inputs();

  float* residual = what.residual + token * n_cols;
  float r[kSegments][8];
  float v[kSegments][8] = {};
#pragma unroll
  for (int s = 0; s < kSegments; ++s) load_row(r[s], residual, col_of(s), n_cols);
#pragma unroll
  for (int s = 0; s < kSegments; ++s) {
#pragma unroll 2
    for (int slot = 0; slot < what.n_slots; ++slot) {
      float x[8];
      load_row(x, what.slots[slot] + token * n_cols, col_of(s), n_cols);
      for (int i = 0; i < 8; ++i) v[s][i] += x[i];
    }
  }
  if (what.post_weight != nullptr) {
    const float factor = norm_factor(sum_of_squares(v), n_cols, what.eps, shared);
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
  const float factor = norm_factor(sum_of_squares(v), n_cols, what.eps, shared);
#pragma unroll
  for (int s = 0; s < kSegments; ++s) {
    const int64_t segment = s * kWarps + warp;
    if (segment * kSegmentCols >= n_cols) break;
    for (int i = 0; i < 8; ++i) weight[s][i] *= v[s][i] * factor;
    for (const Output& out : args.out) {
      if (out.data != nullptr) store_output(out, token, segment, weight[s], lane);
    }
    for (int i = 0; i < 8; i += 4) {
      if (what.n_slots == 0 || col_of(s) + i >= n_cols) continue;
      *reinterpret_cast<float4*>(residual + col_of(s) + i) =
          make_float4(v[s][i], v[s][i + 1], v[s][i + 2], v[s][i + 3]);
    }
  }
}

const void* kernel_for(int64_t n_cols) {
  const int64_t segments = ceil_div(n_cols, int64_t{kWarps} * kSegmentCols);
  if (segments <= 1) return reinterpret_cast<const void*>(add_norm_kernel<1>);
  if (segments <= 2) return reinterpret_cast<const void*>(add_norm_kernel<2>);
  return reinterpret_cast<const void*>(add_norm_kernel<kMostSegments>);
}

}  // namespace

void add_norm(const AddNorm& what, int64_t n_tokens, bool early, cudaStream_t stream) {
  require(what.n_cols > 0 && what.n_cols % 4 == 0 &&
              what.n_cols <= int64_t{kMostSegments} * kWarps * kSegmentCols,
          "add_norm: columns", what.n_cols);
  require(what.n_slots >= 0 && what.n_slots <= kMaxNormSlots, "add_norm: slots", what.n_slots);
  NormArgs args{what, {}};
  for (int i = 0; i < kMaxNormOutputs; ++i) {
    const CudaActivations* out = what.out[i];
    if (out == nullptr) continue;
    require(out->cols() == Range{0, what.n_cols} && n_tokens <= out->max_tokens(),
            "add_norm: shape of an output", i);
    args.out[i] = {out->data(), out->token_bytes(), out->form()};
  }
  if (n_tokens == 0) return;
  launch(kernel_for(what.n_cols), {n_tokens, kThreads, 0, early}, &args, stream);
}

}  // namespace tandem::cuda
