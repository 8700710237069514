#include "comm/wait.h"

#include <sched.h>
#include <time.h>

#include <algorithm>

namespace tandem {
namespace {

constexpr long kSpinNs = 200'000;            // with a core of its own, a rank spins as long as this
constexpr long kYieldNs = 5'000'000;         // then it yields until here; longer waits are idleness
constexpr long kLongestSleepNs = 2'000'000;  // an idle rank wakes 500 times a second: below 1 % of a core

long now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000L + now.tv_nsec;
}

}  // namespace

void Backoff::pause() {
  if (!started_) {
    started_ = true;
    start_ns_ = now_ns();
  }
  const long waited_ns = now_ns() - start_ns_;
  if (may_spin_ && waited_ns < kSpinNs) {
    for (int i = 0; i < 16; ++i) cpu_relax();
  } else if (waited_ns < kYieldNs) {
    sched_yield();
  } else {
    // A sixty-fourth of the time waited so far: sleeping lengthens a wait by 2 % at most, however long it is.
    const long sleep_ns = std::min(waited_ns / 64, kLongestSleepNs);
    const timespec nap{.tv_sec = 0, .tv_nsec = sleep_ns};
    nanosleep(&nap, nullptr);
  }
}

int usable_cores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return 1;
  return std::max(1, CPU_COUNT(&mask));
}

}  // namespace tandem
