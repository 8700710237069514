#include "ops/cuda/router.h"

#include "ops/core/check.h"
#include "ops/core/range.h"
#include "ops/cuda/dependent_launch.cuh"
#include "ops/cuda/gemv_device.cuh"
#include "ops/cuda/launch.h"

namespace tandem::cuda {
namespace {

struct RouteArgs {
  const float* logits;  // (n_tokens, n_experts)
  int32_t n_experts;
  int32_t n_used;
  int32_t* experts;  // (n_tokens, n_used)
  float* weights;    // (n_tokens, n_used)
  uint32_t* not_finite;
};

/// Thread map: a warp a token; lane l holds the logits l, l + 32, ….
__global__ void route_kernel(const __grid_constant__ RouteArgs args) {
  constexpr int kMine = kMaxRouterExperts / 32;
  device::let_next_start();
  device::wait_for_inputs();
  const int64_t token = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x);
  float value[kMine];
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int expert = 32 * i + lane;
    const bool there = expert < args.n_experts;
    value[i] = there ? args.logits[token * args.n_experts + expert] : -INFINITY;
    finite &= !there || fabsf(value[i]) < INFINITY;
  }
  if (!finite && args.not_finite != nullptr) *args.not_finite = 1;
  float highest = 0;
  float sum = 0;
  for (int k = 0; k < args.n_used; ++k) {
    float best = -INFINITY;
    int index = kMaxRouterExperts;
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      if (value[i] > best) {
        best = value[i];
        index = 32 * i + lane;
      }
    }
    for (int distance = 16; distance > 0; distance /= 2) {
      const float other = __shfl_xor_sync(~0U, best, distance);
      const int other_index = __shfl_xor_sync(~0U, index, distance);
      if (other > best || (other == best && other_index < index)) {
        best = other;
        index = other_index;
      }
    }
    if (index >= args.n_experts) index = 0;  // nothing is finite: the step fails, but not by a wild read
    if (k == 0) highest = best;
    const float weight = expf(best - highest);
    sum += weight;
    if (lane == 0) {
      args.experts[token * args.n_used + k] = index;
      args.weights[token * args.n_used + k] = weight;
    }
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      if (32 * i + lane == index) value[i] = -INFINITY;
    }
  }
  __syncwarp();
  if (lane < args.n_used) args.weights[token * args.n_used + lane] /= sum;
}

struct GateArgs {
  Epilogue kind;
  float* gate;
  const float* up;
  int64_t n;
};

/// Thread map: a thread an element.
__global__ void gate_kernel(const __grid_constant__ GateArgs args) {
  device::let_next_start();
  device::wait_for_inputs();
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i < args.n) args.gate[i] = device::activate(args.kind, args.gate[i]) * args.up[i];
}

}  // namespace

void route(const float* logits, int32_t n_experts, int32_t n_used, int64_t n_tokens, int32_t* experts,
           float* weights, uint32_t* not_finite, bool early, cudaStream_t stream) {
  require(
      n_experts > 0 && n_experts <= kMaxRouterExperts && n_used > 0 && n_used <= 32 && n_used <= n_experts,
      "route: experts", n_experts, n_used);
  if (n_tokens == 0) return;
  RouteArgs args{logits, n_experts, n_used, experts, weights, not_finite};
  launch(reinterpret_cast<const void*>(route_kernel), {n_tokens, 32, 0, early}, &args, stream);
}

void apply_gate(Gate kind, float* gate, const float* up, int64_t n, bool early, cudaStream_t stream) {
  if (n == 0) return;
  constexpr int kThreads = 256;
  GateArgs args{kind == Gate::swiglu ? Epilogue::swiglu : Epilogue::geglu, gate, up, n};
  launch(reinterpret_cast<const void*>(gate_kernel), {ceil_div(n, kThreads), kThreads, 0, early}, &args,
         stream);
}

}  // namespace tandem::cuda
