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
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = device::warp_of_block();
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
  const int dim = args.cache.head_dim;
  const bool is_query = row < n_heads;
  const bool is_key = !is_query && row < n_heads + n_kv;
  const int kv_head = (row - n_heads) % n_kv;
  device::WarpRotation<kRegs> rotation;
  if (is_query || is_key) rotation.load(args, token, lane);
  device::WarpRow<kRegs> head;
  const auto source = is_query ? device::query_source(args, token, row)
                      : is_key ? device::key_source(args, token, kv_head)
                               : device::value_source(args, token, kv_head);
  head.load(source.row, dim, lane);
  device::change_head(args, source, rotation, rows[warp], dim, lane, head);
  if (is_query) {
    head.store(args.q + token * args.q_stride + int64_t{row} * dim, dim, lane);
    device::report(args.not_finite, head.finite());
  } else {
    std::byte* plane = is_key ? args.cache.keys(page, kv_head) : args.cache.values(page, kv_head);
    device::report(args.not_finite,
                   device::store_cached(head, args.cache.type, plane, position % kPageTokens, dim, lane));
  }
}

}  // namespace

const void* append_kernel() {
  return reinterpret_cast<const void*>(append_heads_kernel);
}

}  // namespace tandem::cuda
