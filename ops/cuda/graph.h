// A recorded kind of step. The first run is direct, so that what is made on first use is made outside of a
// recording; the second is recorded as a CUDA graph, and every later one replays it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

#include "ops/cuda/memory.h"

namespace tandem::cuda {

class Recording {
 public:
  Recording() = default;
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  ~Recording();

  /// Runs the step in order with `stream`. `work` launches it into the stream and says how many exchanges
  /// it had; returns that number, also where the step was replayed.
  uint32_t run(const Stream& stream, const std::function<uint32_t()>& work);

 private:
  void record(const Stream& stream, const std::function<uint32_t()>& work);

  cudaGraphExec_t graph_ = nullptr;
  bool ran_ = false;
  uint32_t n_exchanges_ = 0;
};

}  // namespace tandem::cuda
