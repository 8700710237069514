// Merges what the blocks that shared a prompt tile's positions left (prompt_attention_kernel.cuh), in order.
//
// Thread map: a warp a (token, head), a lane four columns at a time. Bytes: the partial results once.
#include "ops/cuda/attention_device.cuh"
#include "ops/cuda/prompt_attention.h"

namespace tandem::cuda {
namespace {

__global__ __launch_bounds__(kMergeThreads) void merge_kernel(const __grid_constant__ PromptArgs args) {
  const AttentionArgs& a = args.attention;
  const PromptPart& part = args.parts[blockIdx.y];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row = static_cast<int>(blockIdx.x) * (kMergeThreads / 32) + device::warp_of_block();
  const int dim = a.cache.head_dim;
  device::let_next_start();
  device::wait_for_inputs();
  if (row >= part.n_tokens * a.groups.n_heads) return;
  const int64_t of = int64_t{part.first_token} * a.groups.n_heads + row;
  const float2* sums = a.partial_sums + of * args.n_splits;
  for (int begin = 0; begin < dim; begin += 4 * 32) {
    const int col = begin + 4 * lane;
    const float* partial = a.partials + of * args.n_splits * dim + col;
    device::Partial all;
    for (int split = 0; split < args.n_splits && col < dim; ++split) {
      const float2 by = sums[split];
      all.merge(*reinterpret_cast<const float4*>(partial + split * dim), by.x, by.y);
    }
    const float4 x = device::unmixed(a, all.result());
    device::report(a.not_finite, fabsf(x.x) < INFINITY && fabsf(x.y) < INFINITY && fabsf(x.z) < INFINITY &&
                                     fabsf(x.w) < INFINITY);
    if (col < dim) *reinterpret_cast<float4*>(a.rows + of * dim + col) = x;
  }
}

}  // namespace

const void* prompt_merge_kernel() {
  return reinterpret_cast<const void*>(merge_kernel);
}

}  // namespace tandem::cuda
