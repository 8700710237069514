// The pairs of formats that one GEMV launch may hold. The same list stands in ops/CMakeLists.txt, which makes
// a unit of each.
#pragma once

#include "ops/cuda/format_kernels.h"
#include "ops/quant/all.h"

namespace tandem::cuda {

/// Calls `call` with each pair's kernels.
template <class Call>
void for_each_mix(Call&& call) {
  call(mixed_kernels<Q4K, Q6K>());
  call(mixed_kernels<Q4K, Q5K>());
  call(mixed_kernels<Q5K, Q6K>());
  call(mixed_kernels<Q3K, Q4K>());
  call(mixed_kernels<Q3K, Q5K>());
  call(mixed_kernels<Q2K, Q3K>());
  call(mixed_kernels<Q2K, Q4K>());
}

}  // namespace tandem::cuda
