#include "ops/cuda/step_clock.h"

#include <algorithm>

namespace tandem::cuda {

void StepClock::begin(cudaStream_t stream) {
  // The step before the oldest that isn't counted keeps its mark too: the gap begins at its end.
  while (n_ended_ - n_counted_ + 1 >= kMarks) count_oldest();
  mark(n_ended_).begin.record(stream);
}

void StepClock::end(cudaStream_t stream) {
  mark(n_ended_).end.record(stream);
  ++n_ended_;
}

void StepClock::prolong(cudaStream_t stream) {
  if (n_ended_ > n_counted_) mark(n_ended_ - 1).end.record(stream);
}

void StepClock::count_oldest() {
  constexpr double kMicroseconds = 1e-6;
  const Mark& step = mark(n_counted_);
  step.end.synchronize();
  if (time_.n_steps > 0) {
    const double idle_s = Event::elapsed_us(mark(n_counted_ - 1).end, step.begin) * kMicroseconds;
    time_.idle_s += idle_s;
    time_.longest_idle_s = std::max(time_.longest_idle_s, idle_s);
  }
  time_.busy_s += Event::elapsed_us(step.begin, step.end) * kMicroseconds;
  ++time_.n_steps;
  ++n_counted_;
}

DeviceTime StepClock::take() {
  while (n_counted_ < n_ended_) count_oldest();
  return std::exchange(time_, {});
}

}  // namespace tandem::cuda
