#include "ops/cuda/rows.h"

#include "ops/core/check.h"
#include "ops/core/range.h"
#include "ops/cuda/dependent_launch.cuh"
#include "ops/cuda/gemv_device.cuh"
#include "ops/cuda/launch.h"
#include "ops/cuda/quantize_device.cuh"

namespace tandem::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kElements = 4;  ///< a thread
constexpr int64_t kPiece = int64_t{kThreads} * kElements;
constexpr int kHalfThreads = 512;
constexpr int kHalfWarps = kHalfThreads / 32;

struct FinishArgs {
  RawRows rows;
  const float* bias;
};
struct GateArgs {
  RawRows gate;
  RawRows up;
  Epilogue kind;
};

struct HalvesArgs {
  GateArgs rows;
  std::byte* out;  ///< (n_tokens, token_bytes), of the first token
  int64_t token_bytes;
  int64_t n_segments;
  int64_t lead;  ///< columns of the first segment that the shard doesn't own
  uint32_t* not_finite;
};

__device__ inline float factor_of(const RawRows& rows, int64_t token) {
  if (rows.scales == nullptr) return rows.power;
  return rows.power * *reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(rows.scales) +
                                                      token * rows.scale_stride);
}

/// Calls f with the thread's elements: blockIdx.x is a token, blockIdx.y a piece of its row.
template <class F>
__device__ inline void for_elements(const RawRows& rows, const F& f) {
  const int64_t first = blockIdx.y * kPiece + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const int64_t row = first + i * kThreads;
    if (row < rows.n_rows) f(row);
  }
}

__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ FinishArgs args) {
  device::let_next_start();
  device::wait_for_inputs();
  const int64_t token = blockIdx.x;
  float* row = args.rows.data + token * args.rows.stride;
  const float factor = factor_of(args.rows, token);
  for_elements(args.rows,
               [&](int64_t i) { row[i] = row[i] * factor + (args.bias != nullptr ? args.bias[i] : 0.0F); });
}

__global__ void __launch_bounds__(kThreads) gate_kernel(const __grid_constant__ GateArgs args) {
  device::let_next_start();
  device::wait_for_inputs();
  const int64_t token = blockIdx.x;
  float* gate = args.gate.data + token * args.gate.stride;
  const float* up = args.up.data + token * args.up.stride;
  const float gate_factor = factor_of(args.gate, token);
  const float up_factor = factor_of(args.up, token);
  for_elements(args.gate, [&](int64_t i) {
    gate[i] = device::activate(args.kind, gate[i] * gate_factor) * (up[i] * up_factor);
  });
}

/// The four columns from `col` on of a row in shared memory; zeros outside of it.
__device__ inline float4 shared_columns(const float* row, int64_t col, int64_t n_rows) {
  return col >= 0 && col < n_rows ? *reinterpret_cast<const float4*>(row + col) : float4{};
}

/// Thread map: a block a token. Reads its row once, or gate's and up's, 16 bytes a thread, keeps it in shared
/// memory until its largest magnitude is known, and writes its halves once: a warp a segment, a lane 8
/// columns.
template <bool kGated>
__global__ void __launch_bounds__(kHalfThreads) halves_kernel(const __grid_constant__ HalvesArgs args) {
  extern __shared__ float4 row[];  // (n_rows / 4)
  __shared__ float largest[kHalfWarps];
  const GateArgs& rows = args.rows;
  device::let_next_start();
  device::wait_for_inputs();
  const int64_t token = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const auto* gate = reinterpret_cast<const float4*>(rows.gate.data + token * rows.gate.stride);
  const auto* up = kGated ? reinterpret_cast<const float4*>(rows.up.data + token * rows.up.stride) : nullptr;
  const float gate_factor = factor_of(rows.gate, token);
  const float up_factor = kGated ? factor_of(rows.up, token) : 1.0F;
  const auto gated = [&](float g, float u) {
    return kGated ? device::activate(rows.kind, g * gate_factor) * (u * up_factor) : g * gate_factor;
  };
  float amax = 0;
  bool finite = true;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < rows.gate.n_rows / 4; i += kHalfThreads) {
    const float4 g = gate[i];
    const float4 u = kGated ? up[i] : float4{};
    const float4 v = {gated(g.x, u.x), gated(g.y, u.y), gated(g.z, u.z), gated(g.w, u.w)};
    row[i] = v;
    for (const float x : {v.x, v.y, v.z, v.w}) {
      finite &= fabsf(x) < INFINITY;
      amax = fmaxf(amax, fabsf(x));
    }
  }
  if (!finite && args.not_finite != nullptr) *args.not_finite = 1;
  const device::HalfScale scale = device::block_half_scale(amax, largest);
  std::byte* out = args.out + token * args.token_bytes;
  for (int64_t segment = warp; segment < args.n_segments; segment += kHalfWarps) {
    const int64_t col = segment * kSegmentCols + 8 * lane - args.lead;
    const float4 a = shared_columns(reinterpret_cast<const float*>(row), col, rows.gate.n_rows);
    const float4 b = shared_columns(reinterpret_cast<const float*>(row), col + 4, rows.gate.n_rows);
    const float x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    device::store_halves(x, scale.inverse, out + segment * ActLayout::kF16Bytes, lane);
  }
  if (threadIdx.x == 0) *reinterpret_cast<float*>(out + args.n_segments * ActLayout::kF16Bytes) = scale.scale;
}

void launch_rows(const void* kernel, const RawRows& rows, void* args, cudaStream_t stream) {
  if (rows.n_tokens == 0 || rows.n_rows == 0) return;
  LaunchShape shape{rows.n_tokens, kThreads};
  shape.n_rows = ceil_div(rows.n_rows, kPiece);
  require(shape.n_rows <= 65535, "rows: elements of a token", rows.n_rows);
  launch(kernel, shape, args, stream);
}

}  // namespace

void finish_rows(const RawRows& rows, const float* bias, cudaStream_t stream) {
  FinishArgs args{rows, bias};
  launch_rows(reinterpret_cast<const void*>(finish_kernel), rows, &args, stream);
}

void gate_rows(Epilogue kind, const RawRows& gate, const RawRows& up, cudaStream_t stream) {
  require(kind != Epilogue::none && gate.n_rows == up.n_rows && gate.n_tokens == up.n_tokens, "gate: shapes",
          gate.n_rows, up.n_rows);
  GateArgs args{gate, up, kind};
  launch_rows(reinterpret_cast<const void*>(gate_kernel), gate, &args, stream);
}

bool writes_halves(int64_t n_rows, const CudaActivations& out) {
  constexpr int64_t kOwn = 1024;  // bytes that the kernel itself takes, and the system
  if (out.form() != ActForm::f16 || out.cols().size() != n_rows) return false;
  if (n_rows % 4 != 0 || out.cols().begin % 4 != 0) return false;
  int device = 0;
  int most = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return n_rows * static_cast<int64_t>(sizeof(float)) + kOwn <= most;
}

namespace {

void launch_halves(const void* kernel, const GateArgs& rows, const CudaActivations& out, int64_t first_token,
                   uint32_t* not_finite, cudaStream_t stream) {
  const RawRows& gate = rows.gate;
  require(writes_halves(gate.n_rows, out) && gate.stride % 4 == 0 &&
              first_token + gate.n_tokens <= out.max_tokens(),
          "halves: shape", gate.n_rows, gate.stride);
  if (gate.n_tokens == 0 || gate.n_rows == 0) return;
  HalvesArgs args{rows,
                  out.data() + first_token * out.token_bytes(),
                  out.token_bytes(),
                  segments_of(out.cols()).size(),
                  out.cols().begin % kSegmentCols,
                  not_finite};
  const auto shared_bytes = gate.n_rows * static_cast<int64_t>(sizeof(float));
  launch(kernel, {gate.n_tokens, kHalfThreads, shared_bytes}, &args, stream);
}

}  // namespace

void gate_halves(Epilogue kind, const RawRows& gate, const RawRows& up, const CudaActivations& out,
                 int64_t first_token, uint32_t* not_finite, cudaStream_t stream) {
  require(kind != Epilogue::none && gate.n_rows == up.n_rows && gate.n_tokens == up.n_tokens &&
              up.stride % 4 == 0,
          "gate: shapes", gate.n_rows, up.n_rows);
  launch_halves(reinterpret_cast<const void*>(halves_kernel<true>), {gate, up, kind}, out, first_token,
                not_finite, stream);
}

void halve_rows(const RawRows& rows, const CudaActivations& out, int64_t first_token, uint32_t* not_finite,
                cudaStream_t stream) {
  launch_halves(reinterpret_cast<const void*>(halves_kernel<false>), {rows, {}, Epilogue::none}, out,
                first_token, not_finite, stream);
}

}  // namespace tandem::cuda
