#include "launch/doctor/read_sweep.h"

#include "ops/cuda/launch.h"

namespace tandem::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocksPerMultiprocessor = 4;
constexpr int kLoads = 8;  // in flight for each thread

struct ReadArgs {
  const uint4* data = nullptr;  // (n)
  int64_t n = 0;
  uint32_t* sink = nullptr;
};

/// Thread map: 16 bytes a thread and load, kLoads loads in flight, striding over the whole buffer.
__global__ __launch_bounds__(kThreads) void read_all_kernel(const __grid_constant__ ReadArgs args) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  uint32_t sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < args.n; i += stride * kLoads) {
    uint4 v[kLoads];
    for (int k = 0; k < kLoads; ++k)
      v[k] = i + k * stride < args.n ? __ldcs(args.data + i + k * stride) : uint4{};
    for (int k = 0; k < kLoads; ++k) sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  if (sum == 0x9e3779b9U) *args.sink = sum;
}

}  // namespace

void read_all(const void* data, size_t n_bytes, int n_multiprocessors, uint32_t* sink, cudaStream_t stream) {
  ReadArgs args{.data = static_cast<const uint4*>(data),
                .n = static_cast<int64_t>(n_bytes / sizeof(uint4)),
                .sink = sink};
  launch(reinterpret_cast<const void*>(read_all_kernel),
         {.n_blocks = int64_t{n_multiprocessors} * kBlocksPerMultiprocessor, .threads = kThreads}, &args,
         stream);
}

}  // namespace tandem::cuda
