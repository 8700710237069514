// Copies from device to shared memory that threads don't wait for (cp.async). Ampere and later; nothing
// before.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tandem::cuda::device {

/// Of what lies in shared memory.
__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// 16 bytes, past the L1; `to`: in shared memory.
__device__ inline void copy_ahead(uint32_t to, const std::byte* from) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#endif
}
/// The same; zeros where not `real`.
__device__ inline void copy_ahead(uint32_t to, const std::byte* from, bool real) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(real ? 16 : 0)
               : "memory");
#endif
}
__device__ inline void end_of_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Until all but the last `kLeft` groups of this thread's copies have arrived.
template <int kLeft>
__device__ inline void await_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

/// Until all of this thread's copies have arrived.
__device__ inline void await_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace tandem::cuda::device
