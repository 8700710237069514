#include "ops/cpu/thread_pool.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <string>
#include <system_error>

#include "ops/core/check.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "a futex word is the atomic itself");

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
  // Returns at a wake, at once where the word differs, and on signals; every caller looks again.
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word, int n_waiters) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, n_waiters, nullptr, nullptr, 0);
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins until `ready` or for `spin_us`. True where ready.
template <class Ready>
bool spin_until(int spin_us, Ready ready) {
  if (ready()) return true;
  if (spin_us <= 0) return false;
  const auto limit = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us);
  do {
    for (int i = 0; i < 32; ++i) {
      relax();
      if (ready()) return true;
    }
  } while (std::chrono::steady_clock::now() < limit);
  return false;
}

void bind_this_thread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  const bool in_range = cpu >= 0 && cpu < CPU_SETSIZE;
  if (in_range) CPU_SET(static_cast<size_t>(cpu), &set);
  if (!in_range || sched_setaffinity(0, sizeof(set), &set) != 0) {
    throw Error(ExitCode::unavailable,
                "cannot bind a thread to CPU " + std::to_string(cpu) + ": " +
                    (in_range ? std::strerror(errno) : "no such CPU"),
                "run with fewer threads, or let the launcher bind");
  }
}

constexpr uint64_t kOneGeneration = uint64_t{1} << 32;
constexpr uint64_t unclaimed(uint64_t ticket) {
  return ticket & (kOneGeneration - 1);
}

}  // namespace

ThreadPool::ThreadPool(int n_threads, std::span<const int> cpus, int spin_us)
    : n_threads_(n_threads), spin_us_(spin_us) {
  require(n_threads >= 1, "a thread pool has at least the caller", n_threads);
  require(cpus.empty() || cpus.size() == static_cast<size_t>(n_threads), "one CPU a thread", cpus.size(),
          n_threads);
  // Threads inherit their maker's binding: each is made while the caller is bound to the new thread's CPU, so
  // that a refusal shows here, where it can be thrown.
  try {
    for (int i = 1; i < n_threads; ++i) {
      if (!cpus.empty()) bind_this_thread(cpus[static_cast<size_t>(i)]);
      workers_.emplace_back([this, i] { work(i); });
    }
    if (!cpus.empty()) bind_this_thread(cpus[0]);
  } catch (const std::system_error& e) {
    stop();
    throw Error(ExitCode::unavailable, "cannot start " + std::to_string(n_threads) + " threads: " + e.what(),
                "ask for fewer with -t");
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  stop_.store(true, std::memory_order_seq_cst);
  wake_epoch_.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(wake_epoch_, std::numeric_limits<int>::max());
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::fork_join(int64_t n_tasks, Call call, void* context) {
  require(n_tasks < static_cast<int64_t>(kOneGeneration), "too many tasks", n_tasks);
  job_ = {call, context, n_tasks};
  done_.store(0, std::memory_order_relaxed);
  const uint64_t generation =
      (ticket_.load(std::memory_order_relaxed) & ~(kOneGeneration - 1)) + kOneGeneration;
  // Either a thread that goes to sleep sees these tasks, or it is counted in n_sleeping_ before this reads
  // it.
  ticket_.store(generation | static_cast<uint64_t>(n_tasks), std::memory_order_seq_cst);
  if (n_sleeping_.load(std::memory_order_seq_cst) != 0) {
    wake_epoch_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(wake_epoch_, static_cast<int>(std::min<int64_t>(n_tasks - 1, n_threads_ - 1)));
  }
  do_tasks(0);
  const auto all_done = [&] {
    return done_.load(std::memory_order_acquire) == static_cast<uint32_t>(n_tasks);
  };
  if (spin_until(spin_us_, all_done)) return;
  caller_sleeps_.store(1, std::memory_order_seq_cst);
  for (uint32_t done = done_.load(std::memory_order_seq_cst); done != static_cast<uint32_t>(n_tasks);
       done = done_.load(std::memory_order_seq_cst)) {
    futex_wait(done_, done);
  }
  caller_sleeps_.store(0, std::memory_order_relaxed);
}

bool ThreadPool::do_tasks(int thread) {
  uint32_t n_done = 0;
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (unclaimed(ticket) != 0) {
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
      continue;
    }
    const Job job = job_;
    job.call(job.context, job.n_tasks - static_cast<int64_t>(unclaimed(ticket)), thread);
    ++n_done;
    // A task is counted before the next is claimed: with the count at n_tasks nobody is inside a task.
    done_.fetch_add(1, std::memory_order_seq_cst);
    if (caller_sleeps_.load(std::memory_order_seq_cst) != 0) futex_wake(done_, 1);
    ticket = ticket_.load(std::memory_order_acquire);
  }
  return n_done != 0;
}

void ThreadPool::work(int thread) {
  const auto called = [&] {
    return unclaimed(ticket_.load(std::memory_order_acquire)) != 0 || stop_.load(std::memory_order_relaxed);
  };
  while (!stop_.load(std::memory_order_acquire)) {
    if (do_tasks(thread)) continue;
    if (spin_until(spin_us_, called)) continue;
    n_sleeping_.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t epoch = wake_epoch_.load(std::memory_order_seq_cst);
    if (unclaimed(ticket_.load(std::memory_order_seq_cst)) == 0 && !stop_.load(std::memory_order_seq_cst)) {
      futex_wait(wake_epoch_, epoch);
    }
    n_sleeping_.fetch_sub(1, std::memory_order_seq_cst);
  }
}

}  // namespace tandem
