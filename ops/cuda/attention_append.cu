#include "ops/cuda/attention_device.cuh"
#include "ops/cuda/attention_kernels.h"

namespace tandem::cuda {
namespace {

constexpr int kRegs = kMaxHeadDim / 32;
constexpr int kWarps = kAppendThreads / 32;

/// Thread map: a warp a (token, row), the rows being the query heads, the keys and the values.
__global__ __launch_bounds__(kAppendThreads) void append_heads_kernel(
    const __grid_constant__ AttentionArgs args) {
  __shared__ float rows[kWarps][kMaxHeadDim];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int n_heads = args.groups.n_heads;
  const int n_kv = args.groups.n_kv_heads;
  const int n_rows = n_heads + 2 * n_kv;
  const int64_t item = int64_t{blockIdx.x} * kWarps + warp;
  device::let_next_start();
  device::wait_for_inputs();
  if (item >= args.n_tokens * n_rows) return;
  const int64_t token = item / n_rows;
  const auto row = static_cast<int>(item % n_rows);
  const int position = args.step.positions[token];
  const int64_t page =
      args.step.pages[args.step.sequences[token] * args.step.pages_stride + position / kPageTokens];
  const int slot = position % kPageTokens;
  device::WarpRow<kRegs> head;
  device::WarpRotation<kRegs> rotation;
  if (row < n_heads + n_kv) rotation.load(args, token, lane);
  if (row < n_heads) {
    device::load_query(args, token, row, rotation, rows[warp], lane, head);
    head.store(args.q + token * args.q_stride + int64_t{row} * args.cache.head_dim, args.cache.head_dim,
               lane);
  } else if (row < n_heads + n_kv) {
    device::append_key(args, token, row - n_heads, page, slot, rotation, rows[warp], lane, head);
  } else {
    device::append_value(args, token, row - n_heads - n_kv, page, slot, lane, head);
  }
}

}  // namespace

const void* append_kernel() {
  return reinterpret_cast<const void*>(append_heads_kernel);
}

}  // namespace tandem::cuda
