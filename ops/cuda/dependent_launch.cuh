// The kernel's side of programmatic dependent launch (ops/cuda/launch.h); nothing before Hopper.
#pragma once

namespace tandem::cuda::device {

/// Until the kernels before this one in the stream have ended and their writes are seen. Before it, only
/// weights may be read and nothing written.
__device__ inline void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The next kernel's blocks may start where there is room.
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace tandem::cuda::device
