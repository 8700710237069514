#include "ops/cuda/experts.h"

#include "ops/core/check.h"
#include "ops/core/range.h"
#include "ops/cuda/dependent_launch.cuh"
#include "ops/cuda/launch.h"

namespace tandem::cuda {
namespace {

constexpr int kSortThreads = 1024;
constexpr int kSortWarps = kSortThreads / 32;
constexpr int kThreads = 256;

struct SortArgs {
  const int32_t* chosen;  // (n)
  int32_t n;
  int32_t n_experts;
  int32_t* order;   // (n)
  int32_t* place;   // (n)
  int32_t* begins;  // (n_experts + 1), in host memory
};

/// Thread map: one block; a warp an expert at a time, a lane an entry. Counts, then places: entries of an
/// expert keep their order, whatever the timing.
__global__ void __launch_bounds__(kSortThreads) sort_kernel(const __grid_constant__ SortArgs args) {
  __shared__ int32_t begins[kMaxRouterExperts + 1];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const auto for_entries = [&](int expert, auto&& f) {
    int32_t n_before = 0;
    for (int32_t i = 0; i < args.n; i += 32) {
      const bool mine = i + lane < args.n && args.chosen[i + lane] == expert;
      const unsigned all = __ballot_sync(~0U, mine);
      if (mine) f(i + lane, n_before + __popc(all & ((1U << lane) - 1)));
      n_before += __popc(all);
    }
    return n_before;
  };
  for (int expert = warp; expert < args.n_experts; expert += kSortWarps) {
    const int32_t n = for_entries(expert, [](int32_t, int32_t) {});
    if (lane == 0) begins[expert + 1] = n;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    begins[0] = 0;
    for (int expert = 0; expert < args.n_experts; ++expert) begins[expert + 1] += begins[expert];
    for (int expert = 0; expert <= args.n_experts; ++expert) args.begins[expert] = begins[expert];
  }
  __syncthreads();
  for (int expert = warp; expert < args.n_experts; expert += kSortWarps) {
    for_entries(expert, [&](int32_t entry, int32_t number) {
      args.order[begins[expert] + number] = entry;
      args.place[entry] = begins[expert] + number;
    });
  }
}

struct GatherArgs {
  const std::byte* from;
  std::byte* to;
  int64_t token_bytes;
  const int32_t* order;
  int32_t n_used;
};

/// Thread map: a block a row.
__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ GatherArgs args) {
  const int64_t token = args.order[blockIdx.x] / args.n_used;
  const auto* from = reinterpret_cast<const uint4*>(args.from + token * args.token_bytes);
  auto* to = reinterpret_cast<uint4*>(args.to + blockIdx.x * args.token_bytes);
  for (int64_t i = threadIdx.x; i < args.token_bytes / 16; i += kThreads) to[i] = from[i];
}

struct CombineArgs {
  const float* rows;
  const float* weights;
  const int32_t* place;
  float* out;
  int64_t n_cols;
  int32_t n_used;
};

/// Thread map: a block a token's kThreads columns.
__global__ void __launch_bounds__(kThreads) combine_kernel(const __grid_constant__ CombineArgs args) {
  const int64_t token = blockIdx.x;
  const int64_t col = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (col >= args.n_cols) return;
  float sum = 0;
  for (int32_t k = 0; k < args.n_used; ++k) {
    const int64_t entry = token * args.n_used + k;
    sum += args.weights[entry] * args.rows[args.place[entry] * args.n_cols + col];
  }
  args.out[token * args.n_cols + col] = sum;
}

}  // namespace

ExpertOrder::ExpertOrder(int64_t max_entries)
    : order_(static_cast<size_t>(max_entries)),
      place_(static_cast<size_t>(max_entries)),
      begins_(kMaxRouterExperts + 1) {}

void ExpertOrder::sort(const int32_t* chosen, int64_t n_entries, int32_t n_experts, cudaStream_t stream) {
  require(n_entries <= static_cast<int64_t>(order_.size()) && n_experts <= kMaxRouterExperts,
          "experts: entries", n_entries, n_experts);
  n_entries_ = n_entries;
  SortArgs args{chosen,        static_cast<int32_t>(n_entries), n_experts, order_.data(), place_.data(),
                begins_.data()};
  launch(reinterpret_cast<const void*>(sort_kernel), {1, kSortThreads}, &args, stream);
  check(cudaStreamSynchronize(stream));
}

void ExpertOrder::gather(const CudaActivations& from, CudaActivations& to, int64_t n_used,
                         cudaStream_t stream) const {
  require(from.form() == to.form() && from.cols() == to.cols() && n_entries_ <= to.max_tokens(),
          "experts: gather", n_entries_, to.max_tokens());
  GatherArgs args{from.data(), to.data(), from.token_bytes(), order_.data(), static_cast<int32_t>(n_used)};
  if (n_entries_ > 0)
    launch(reinterpret_cast<const void*>(gather_kernel), {n_entries_, kThreads}, &args, stream);
}

void ExpertOrder::combine(const float* rows, const float* weights, int64_t n_used, int64_t n_cols, float* out,
                          cudaStream_t stream) const {
  CombineArgs args{rows, weights, place_.data(), out, n_cols, static_cast<int32_t>(n_used)};
  if (n_entries_ == 0) return;
  LaunchShape shape{n_entries_ / n_used, kThreads};
  shape.n_rows = ceil_div(n_cols, kThreads);
  launch(reinterpret_cast<const void*>(combine_kernel), shape, &args, stream);
}

}  // namespace tandem::cuda
