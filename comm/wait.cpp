#include "comm/wait.h"

#include <sched.h>
#include <time.h>

#include <algorithm>

namespace tandem {
namespace {

constexpr long kSpinNs = 200'000;            // with a core of its own, a rank spins as long as this
constexpr long kPreemptedNs = 50'000;        // between two looks of a spinning rank: its core was taken away
constexpr int kCrowdedWaits = 256;           // after that it does not spin for so many long waits
constexpr long kYieldNs = 5'000'000;         // then it yields until here; longer waits are idleness
constexpr long kLongestSleepNs = 2'000'000;  // an idle rank wakes 500 times a second: below 1 % of a core

long now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000L + now.tv_nsec;
}

}  // namespace

Backoff::Backoff(SpinPolicy& policy)
    : policy_(policy),
      spins_(policy.allowed && policy.n_crowded == 0),
      start_ns_(now_ns()),
      last_ns_(start_ns_) {
  if (policy_.n_crowded > 0) --policy_.n_crowded;
}

void Backoff::pause() {
  const long now = now_ns();
  const long waited_ns = now - start_ns_;
  if (spins_ && now - last_ns_ > kPreemptedNs) {
    // Somebody else ran on this core meanwhile. Spinning only uses up our share of it, maybe the peer's.
    policy_.n_crowded = kCrowdedWaits;
    spins_ = false;
  }
  last_ns_ = now;
  if (spins_ && waited_ns < kSpinNs) {
    for (int i = 0; i < 4; ++i) cpu_relax();
  } else if (waited_ns < kYieldNs) {
    spins_ = false;
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
