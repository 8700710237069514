// Fork and join over a fixed set of threads, with the caller as one of them: what shares a kernel's tasks out
// inside a rank. Used by every verb of the CPU backend; one pool a rank, run() from one thread at a time.
// Must never allocate, lock or call the system on the hot path: workers spin for a moment after each run and
// only then sleep on a futex. Which thread does which task is not defined, so a task's result must not depend
// on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <type_traits>
#include <vector>

namespace tandem {

class ThreadPool {
 public:
  /// n_threads >= 1 counts the caller. `cpus` is empty (no binding), or names the CPU of every thread,
  /// cpus[0] being the caller's: the calling thread is bound too. `spin_us`: how long an idle thread spins
  /// before it sleeps; 0 where there are more threads than cores. Throws Error (unavailable) where a CPU
  /// can't be bound or no thread can be made.
  explicit ThreadPool(int n_threads, std::span<const int> cpus = {}, int spin_us = 100);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const { return n_threads_; }

  /// Calls fn(task, thread) once for every task of [0, n_tasks), thread in [0, n_threads()), and returns when
  /// all are done; what the tasks wrote is then visible to the caller. No two tasks with the same `thread`
  /// run at a time, so scratch memory can be indexed by it. Tasks are started in ascending order: put the
  /// longest first. fn must not throw and must not call run() of the same pool.
  template <class F>
  void run(int64_t n_tasks, F&& fn) {
    if (n_threads_ == 1 || n_tasks <= 1) {
      for (int64_t task = 0; task < n_tasks; ++task) fn(task, 0);
      return;
    }
    using Fn = std::remove_reference_t<F>;
    const Call call = [](void* context, int64_t task, int thread) {
      (*static_cast<Fn*>(context))(task, thread);
    };
    fork_join(n_tasks, call, const_cast<void*>(static_cast<const void*>(std::addressof(fn))));
  }

 private:
  using Call = void (*)(void* context, int64_t task, int thread);

  void fork_join(int64_t n_tasks, Call call, void* context);
  void work(int thread);
  bool do_tasks(int thread);  // true where it did any
  void stop();

  // The generation (upper 32 bits) and the tasks not yet claimed (lower 32). A task is claimed by
  // decrementing it; the generation keeps a slow thread from claiming with a stale value. While a claimed
  // task is not counted in done_, job_ stays as it is, so it is read after the claim only.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  std::atomic<uint32_t> caller_sleeps_{0};
  alignas(64) std::atomic<uint32_t> wake_epoch_{0};
  std::atomic<uint32_t> n_sleeping_{0};
  std::atomic<bool> stop_{false};
  struct Job {
    Call call = nullptr;
    void* context = nullptr;
    int64_t n_tasks = 0;
  };
  alignas(64) Job job_;
  int n_threads_ = 1;
  int spin_us_ = 0;
  std::vector<std::thread> workers_;
};

}  // namespace tandem
