#include "comm/cuda/ordered_sum.h"

#include <algorithm>

#include "ops/cuda/status.h"

namespace tandem::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1024;

/// Thread map: a thread has the columns t, t + all threads, …; reads every part once, writes the sum once.
__global__ __launch_bounds__(kThreads) void add_parts_kernel(float* sum, const float* parts, int n_ranks,
                                                             int64_t n) {
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (int64_t i = first; i < n; i += int64_t{gridDim.x} * kThreads) {
    float total = 0;
    for (int r = 0; r < n_ranks; ++r) total += parts[r * n + i];
    sum[i] = total;
  }
}

}  // namespace

void add_parts(float* sum, const float* parts, int n_ranks, int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  const int64_t n_blocks = std::min((n + kThreads - 1) / kThreads, kMostBlocks);
  add_parts_kernel<<<static_cast<unsigned>(n_blocks), kThreads, 0, stream>>>(sum, parts, n_ranks, n);
  check(cudaGetLastError());
}

}  // namespace tandem::cuda
