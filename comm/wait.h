// How a rank waits for a word in shared memory: first hot, then giving its core away, at last asleep. Used by
// comm/node_channel only. Never throws and never gives up: that a wait ends is the watchdog's business.
#pragma once

#include <atomic>

namespace tandem {

/// Tells the core that this is a spin loop.
inline void cpu_relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

/// Whether a rank may spin, and whether that does it any good now. One a thread; not shared.
struct SpinPolicy {
  bool allowed = true;  ///< there is a core for every busy thread of the node
  int n_crowded =
      0;  ///< so many of the next long waits yield at once: the last one lost its core while it spun
};

/// The state of one long wait: spins (where that is allowed), yields, then sleeps ever longer.
class Backoff {
 public:
  explicit Backoff(SpinPolicy& policy);
  /// Passes a little time; call it between two looks at the word.
  void pause();

 private:
  SpinPolicy& policy_;
  bool spins_;
  long start_ns_;
  long last_ns_;
};

/// Looks before a wait counts as long: some microseconds, by which the ranks of a decode step differ anyway.
inline constexpr int kHotLooks = 256;

/// Returns when `ready()` is true.
template <class Ready>
inline void wait_until(SpinPolicy& policy, Ready ready) {
  const int n_looks = policy.allowed && policy.n_crowded == 0 ? kHotLooks : 1;
  for (int look = 0; look < n_looks; ++look) {
    if (ready()) return;
    cpu_relax();
  }
  Backoff backoff(policy);
  while (!ready()) backoff.pause();
}

/// Cores that this process may run on, by its affinity mask; at least 1.
int usable_cores();

}  // namespace tandem
