// The kernels' side of arrivals.h.
#pragma once

#include "ops/cuda/arrivals.h"

namespace tandem::cuda::device {

/// Until the piece of that number is there: what this thread, and behind a barrier its block, reads then.
__device__ inline void await_arrival(const uint32_t* flag, uint32_t number) {
  uint32_t seen = 0;
  do {
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
  } while (!has_arrived(seen, number));
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
}

}  // namespace tandem::cuda::device
