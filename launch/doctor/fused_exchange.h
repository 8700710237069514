// The peer exchange as decoding uses it, alone: one kernel that sends a rank's partial rows into all windows,
// awaits the others', adds them, joins the residual, norms and quantises; many of them in one CUDA graph.
// Used by launch/doctor/gpu_probe.cpp and bench/bench_cuda_allreduce.cpp.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "comm/communicator.h"
#include "comm/cuda/peer_memory.h"
#include "ops/cuda/activations.h"
#include "ops/cuda/memory.h"

namespace tandem::cuda {

/// Numbers the exchanges that are made through one set of windows: every user of them counts on.
class ExchangeCounter {
 public:
  uint32_t take(uint32_t n) {
    next_ += n;
    return next_ - n;
  }

 private:
  uint32_t next_ = 1;
};

class FusedExchange {
 public:
  /// Collective. Rows of `n_cols` floats of `n_tokens` tokens (more than a kernel takes at once follow in
  /// further kernels, as in a step). `memory`: windows of exchange_window_bytes(ranks, n_cols) at least.
  /// `early`: by programmatic dependent launch, as steps are recorded.
  FusedExchange(Communicator& comm, const PeerMemory& memory, ExchangeCounter& counter, int64_t n_cols,
                int64_t n_tokens, bool early);
  ~FusedExchange();
  FusedExchange(const FusedExchange&) = delete;
  FusedExchange& operator=(const FusedExchange&) = delete;

  /// Collective. Microseconds of one exchange: a graph of 50 of them, by events, on this rank.
  double run_us();

  /// Collective. The median of `n_times` runs, the same on every rank (rank 0's).
  double median_us(int n_times);

 private:
  void record();

  Communicator& comm_;
  const PeerMemory& memory_;
  ExchangeCounter& counter_;
  int64_t n_cols_;
  int64_t n_tokens_;
  bool early_;
  uint32_t n_numbers_ = 0;  // that one replay takes
  Stream stream_;
  DeviceBuffer<float> rows_;  // (n_tokens, n_cols) each: partial, residual; then the norm's weight (n_cols)
  DeviceBuffer<uint32_t> number_base_;
  CudaActivations out_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace tandem::cuda
