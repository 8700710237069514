#include "ops/cuda/rows.h"

#include "ops/core/check.h"
#include "ops/core/range.h"
#include "ops/cuda/dependent_launch.cuh"
#include "ops/cuda/gemv_device.cuh"
#include "ops/cuda/launch.h"

namespace tandem::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kElements = 4;  ///< a thread
constexpr int64_t kPiece = int64_t{kThreads} * kElements;

struct FinishArgs {
  RawRows rows;
  const float* bias;
};
struct GateArgs {
  RawRows gate;
  RawRows up;
  Epilogue kind;
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

}  // namespace tandem::cuda
