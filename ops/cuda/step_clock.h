// How long the device works on steps, and how long it has none: by events in its stream before a step's first
// kernel, when the step's variables have been copied, and behind its last one. What the device waits in the
// middle of a step, for the host that launches it, is the step's. The CUDA backend owns one and calls it for
// every step; costs two events a step, and waits only for steps long done.
#pragma once

#include <array>
#include <cstdint>

#include "ops/cuda/memory.h"
#include "ops/verbs.h"

namespace tandem::cuda {

class StepClock {
 public:
  /// A step's first kernel comes next in `stream`. A step that was begun and not ended does not count.
  void begin(cudaStream_t stream);
  /// Its last one is in `stream`.
  void end(cudaStream_t stream);
  /// More was put behind the last step, and belongs to it.
  void prolong(cudaStream_t stream);

  /// Of the steps since the last call, from the first one's begin to the last one's end. Waits for them.
  DeviceTime take();

 private:
  /// One step's events.
  struct Mark {
    Event begin;
    Event end;
  };
  static constexpr uint64_t kMarks = 8;  // more than are in flight, so that begin() doesn't wait

  Mark& mark(uint64_t step) { return marks_[step % kMarks]; }
  void count_oldest();

  std::array<Mark, kMarks> marks_;
  uint64_t n_ended_ = 0;
  uint64_t n_counted_ = 0;
  DeviceTime time_;
};

}  // namespace tandem::cuda
