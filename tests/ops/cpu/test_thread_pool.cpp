#include "ops/cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <vector>

#include "ops/core/error.h"

namespace tandem {
namespace {

class ThreadPoolTest : public testing::TestWithParam<std::pair<int, int>> {};  // threads, spin_us

TEST_P(ThreadPoolTest, DoesEveryTaskOnceAndShowsItsWrites) {
  const int n_threads = GetParam().first;
  ThreadPool pool(n_threads, {}, GetParam().second);
  EXPECT_EQ(pool.n_threads(), n_threads);
  for (const int64_t n_tasks : {0, 1, 2, 3, 7, 64, 1000}) {
    std::vector<int> done(static_cast<size_t>(n_tasks), 0);  // plain ints: a data race shows under TSan
    std::atomic<bool> in_range = true;
    pool.run(n_tasks, [&](int64_t task, int thread) {
      if (thread < 0 || thread >= n_threads) in_range = false;
      done[static_cast<size_t>(task)] += 1;
    });
    EXPECT_EQ(done, std::vector<int>(static_cast<size_t>(n_tasks), 1));
    EXPECT_TRUE(in_range);
  }
}

TEST_P(ThreadPoolTest, NoTwoTasksShareAThreadNumber) {
  const auto [n_threads, spin_us] = GetParam();
  ThreadPool pool(n_threads, {}, spin_us);
  std::vector<int64_t> scratch(static_cast<size_t>(n_threads) * 64, 0);
  for (int round = 0; round < 50; ++round) {
    pool.run(40, [&](int64_t task, int thread) { scratch[static_cast<size_t>(thread) * 64] += task; });
  }
  EXPECT_EQ(std::accumulate(scratch.begin(), scratch.end(), int64_t{0}), 50 * 40 * 39 / 2);
}

TEST_P(ThreadPoolTest, ManyShortRunsInARow) {
  const auto [n_threads, spin_us] = GetParam();
  ThreadPool pool(n_threads, {}, spin_us);
  int64_t total = 0;
  std::vector<int64_t> parts(8, 0);
  for (int round = 0; round < 2000; ++round) {
    pool.run(2 + round % 7, [&](int64_t task, int) { parts[static_cast<size_t>(task)] += round; });
    total += static_cast<int64_t>(round) * (2 + round % 7);
    if (round % 500 == 499)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));  // let the workers fall asleep
  }
  EXPECT_EQ(std::accumulate(parts.begin(), parts.end(), int64_t{0}), total);
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadPoolTest,
                         testing::Values(std::pair{1, 100}, std::pair{2, 100}, std::pair{2, 0},
                                         std::pair{3, 20}, std::pair{5, 0}));

TEST(ThreadPool, BindsEveryThread) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  int cpu = 0;
  while (!CPU_ISSET(static_cast<size_t>(cpu), &before)) ++cpu;
  {
    const std::vector<int> cpus(2, cpu);
    ThreadPool pool(2, cpus, 0);
    std::atomic<int> elsewhere = 0;
    pool.run(20, [&](int64_t, int) {
      if (sched_getcpu() != cpu) ++elsewhere;
    });
    EXPECT_EQ(elsewhere, 0);
  }
  sched_setaffinity(0, sizeof(before), &before);
}

TEST(ThreadPool, AnImpossibleCpuIsTheEnvironmentsFault) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  for (const int cpu : {-1, 1 << 20, CPU_SETSIZE - 1}) {
    const std::vector<int> cpus = {0, cpu};
    EXPECT_THROW(ThreadPool(2, cpus), Error) << cpu;
  }
  sched_setaffinity(0, sizeof(before), &before);
}

}  // namespace
}  // namespace tandem
