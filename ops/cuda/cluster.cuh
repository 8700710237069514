// Thread block clusters (Hopper): blocks that run at the same time and reach each other's shared memory. What
// is here does nothing before Hopper: kernels that use it are launched there only (launch.h).
#pragma once

#include <cstdint>

#include "ops/cuda/async_copy.cuh"

namespace tandem::cuda::device {

__device__ inline uint32_t cluster_rank() {
  uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}

/// This block has come so far; what it wrote before is seen behind the others' cluster_wait().
__device__ inline void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
/// Until all blocks of the cluster have arrived.
__device__ inline void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/// *p = value in block `rank` of the cluster; p: in shared memory, at the same place in every block.
__device__ inline void store_in_block(float* p, uint32_t rank, float value) {
#if __CUDA_ARCH__ >= 900
  uint32_t other;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(other) : "r"(shared_address(p)), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(other), "f"(value) : "memory");
#endif
}

}  // namespace tandem::cuda::device
