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

/// The state of one long wait: spins (where that is allowed), yields, then sleeps ever longer.
class Backoff {
 public:
  explicit Backoff(bool may_spin) : may_spin_(may_spin) {}
  /// Passes a little time; call it between two looks at the word.
  void pause();

 private:
  bool may_spin_;
  bool started_ = false;
  long start_ns_ = 0;
};

/// Returns when `ready()` is true. `may_spin`: there is a core for every busy thread of the node.
template <class Ready>
inline void wait_until(bool may_spin, Ready ready) {
  constexpr int kHotLooks = 2000;  // some 50 us: the imbalance of a decode step's ranks is less than that
  for (int look = 0; look < (may_spin ? kHotLooks : 1); ++look) {
    if (ready()) return;
    cpu_relax();
  }
  Backoff backoff(may_spin);
  while (!ready()) backoff.pause();
}

/// Cores that this process may run on, by its affinity mask; at least 1.
int usable_cores();

}  // namespace tandem
