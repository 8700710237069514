// A block of threads as a team of ops/core/sampling_chain.h. Host passes of the compiler see functions
// without bodies: the chain is one text for both sides.
#pragma once

#include <cstdint>

#include "ops/core/sampling_chain.h"

namespace tandem::cuda::device {

class BlockTeam {
 public:
  /// scratch: (32) in shared memory, for this team alone.
  __host__ __device__ explicit BlockTeam(int64_t* scratch) : scratch_(scratch) {}

  __host__ __device__ static int rank() {
#ifdef __CUDA_ARCH__
    return static_cast<int>(threadIdx.x);
#else
    return 0;
#endif
  }
  __host__ __device__ static int size() {
#ifdef __CUDA_ARCH__
    return static_cast<int>(blockDim.x);
#else
    return 1;
#endif
  }
  __host__ __device__ static void sync() {
#ifdef __CUDA_ARCH__
    __syncthreads();
#endif
  }
  __host__ __device__ static int32_t add(int32_t* p, int32_t v) {
#ifdef __CUDA_ARCH__
    return atomicAdd(p, v);
#else
    return *p + v;
#endif
  }
  __host__ __device__ static void add(int64_t* p, int64_t v) {
#ifdef __CUDA_ARCH__
    atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(v));
#endif
  }
  __host__ __device__ static int32_t take(int32_t* p) {
#ifdef __CUDA_ARCH__
    return atomicExch(p, 0);
#else
    return *p;
#endif
  }
  __host__ __device__ sampling::Key best(sampling::Key key) const {
#ifdef __CUDA_ARCH__
    for (int distance = 16; distance > 0; distance /= 2) key = larger(key, shuffled(key, distance));
    __syncthreads();  // scratch is free
    if (threadIdx.x % 32 == 0) scratch_[threadIdx.x / 32] = static_cast<int64_t>(key);
    __syncthreads();
    key = threadIdx.x % 32 < blockDim.x / 32 ? static_cast<sampling::Key>(scratch_[threadIdx.x % 32])
                                             : sampling::kNoKey;
    for (int distance = 16; distance > 0; distance /= 2) key = larger(key, shuffled(key, distance));
#endif
    return key;
  }
  __host__ __device__ int64_t sum(int64_t v) const {
#ifdef __CUDA_ARCH__
    for (int distance = 16; distance > 0; distance /= 2) v += __shfl_xor_sync(~0U, v, distance);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch_[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < blockDim.x / 32 ? scratch_[threadIdx.x % 32] : 0;
    for (int distance = 16; distance > 0; distance /= 2) v += __shfl_xor_sync(~0U, v, distance);
#endif
    return v;
  }
  __host__ __device__ int64_t before(int64_t v) const {
#ifdef __CUDA_ARCH__
    const int lane = static_cast<int>(threadIdx.x % 32);
    int64_t up_to = v;
    for (int distance = 1; distance < 32; distance *= 2) {
      const int64_t lower = __shfl_up_sync(~0U, up_to, static_cast<unsigned>(distance));
      if (lane >= distance) up_to += lower;
    }
    __syncthreads();
    if (lane == 31) scratch_[threadIdx.x / 32] = up_to;
    __syncthreads();
    int64_t lower_warps = 0;
    for (int warp = 0; warp < static_cast<int>(threadIdx.x / 32); ++warp) lower_warps += scratch_[warp];
    return lower_warps + up_to - v;
#else
    return v;
#endif
  }
  __host__ __device__ static float fma(float a, float b, float c) {
#ifdef __CUDA_ARCH__
    return __fmaf_rn(a, b, c);
#else
    return a * b + c;
#endif
  }
  __host__ __device__ static float mul(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
  }
  __host__ __device__ static float add(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
  }
  __host__ __device__ static float div(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fdiv_rn(a, b);
#else
    return a / b;
#endif
  }

 private:
#ifdef __CUDA_ARCH__
  __device__ static sampling::Key larger(sampling::Key a, sampling::Key b) {
    return a > b ? a : b;
  }
  __device__ static sampling::Key shuffled(sampling::Key key, int distance) {
    return __shfl_xor_sync(~0U, static_cast<unsigned long long>(key), distance);
  }
#endif

  int64_t* scratch_;
};

}  // namespace tandem::cuda::device
