// The CPU backend: the verbs of ops/verbs.h as loops over ops/cpu's kernels, shared out to a rank's threads.
// Made by runtime/engine's start-up; used by runtime/model/forward. Its results are the same bits at any
// thread count, instruction set, batch and split.
#pragma once

#include <memory>
#include <vector>

#include "ops/verbs.h"

namespace tandem {

struct CpuBackendOptions {
  int n_threads = 1;
  std::vector<int> cpus;  ///< CPU of each thread, or empty: not bound
  int spin_us = 100;      ///< how long idle threads spin before they sleep
};

/// `exchange` must outlive the backend; partial sums are 64-bit fixed point (ops/core/fixed_point.h).
std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options, PartialExchange& exchange);

}  // namespace tandem
