#include "tests/comm/communicator_cases.h"

#include <gtest/gtest.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <random>
#include <thread>

#include "comm/wait.h"

namespace tandem::test {
namespace {

/// Value i of rank r's contribution to exchange k: differs in all three, and sums of 64 of them stay exact.
int64_t value_of(int64_t k, int64_t r, int64_t i) {
  return (k * 7919 + r * 104'729 + i * 31) % 1'000'003 - 500'000;
}

int64_t* fill(Communicator& comm, int64_t k, size_t n) {
  auto* mine = reinterpret_cast<int64_t*>(comm.contribution(n * sizeof(int64_t)));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(mine) % 64, 0U);
  for (size_t i = 0; i < n; ++i) mine[i] = value_of(k, comm.rank(), static_cast<int64_t>(i));
  return mine;
}

/// Number of values in `all` that are not what exchange k should have brought.
size_t count_wrong(Communicator& comm, std::span<const std::byte* const> all, int64_t k, size_t n) {
  size_t n_wrong = all.size() == static_cast<size_t>(comm.size()) ? 0 : 1;
  for (size_t r = 0; r < all.size(); ++r) {
    const auto* theirs = reinterpret_cast<const int64_t*>(all[r]);
    for (size_t i = 0; i < n; ++i)
      n_wrong += theirs[i] != value_of(k, static_cast<int64_t>(r), static_cast<int64_t>(i));
  }
  return n_wrong;
}

void random_delay(std::mt19937& random) {
  const auto kind = random() % 64;
  if (kind == 0) usleep(static_cast<useconds_t>(random() % 300));
  if (kind == 1) std::this_thread::yield();
  if (kind == 2) {
    for (int i = 0; i < 200; ++i) cpu_relax();
  }
}

}  // namespace

void check_exchange_sums(Communicator& comm) {
  constexpr size_t kValues = 1000;
  for (int64_t k = 0; k < 20; ++k) {
    fill(comm, k, kValues);
    const auto all = comm.publish();
    ASSERT_EQ(count_wrong(comm, all, k, kValues), 0U) << "exchange " << k;
    // The counting notices a wrong exchange: otherwise the line above would prove nothing.
    ASSERT_GT(count_wrong(comm, all, k + 1, kValues), kValues / 2);
    int64_t sum = 0;
    int64_t expected = 0;
    for (int r = 0; r < comm.size(); ++r) {
      const auto* theirs = reinterpret_cast<const int64_t*>(all[static_cast<size_t>(r)]);
      sum = std::accumulate(theirs, theirs + kValues, sum);
      for (size_t i = 0; i < kValues; ++i) expected += value_of(k, r, static_cast<int64_t>(i));
    }
    ASSERT_EQ(sum, expected);
  }
}

void check_exchange_reads_stay_valid(Communicator& comm) {
  // What exchange k brought is still whole after everyone filled its contribution to k + 1, until publish().
  constexpr size_t kValues = 300;
  std::span<const std::byte* const> before;
  for (int64_t k = 0; k < 200; ++k) {
    fill(comm, k, kValues);
    if (comm.rank() == static_cast<int>(k) % comm.size()) usleep(200);
    if (k > 0) {
      ASSERT_EQ(count_wrong(comm, before, k - 1, kValues), 0U) << "after filling " << k;
    }
    before = comm.publish();
    ASSERT_EQ(count_wrong(comm, before, k, kValues), 0U) << "exchange " << k;
  }
}

void check_exchange_grows(Communicator& comm) {
  int64_t k = 0;
  std::span<const std::byte* const> before;
  size_t n_before = 0;
  for (const size_t n :
       {size_t{1}, size_t{10}, size_t{40'000}, size_t{3}, size_t{300'000}, size_t{300'001}}) {
    comm.contribution(n * 8);  // taken twice, the second time larger: the first is forgotten
    fill(comm, k, n + 1);
    ASSERT_EQ(n_before == 0 ? 0 : count_wrong(comm, before, k - 1, n_before), 0U) << "after growing to " << n;
    before = comm.publish();
    n_before = n + 1;
    ASSERT_EQ(count_wrong(comm, before, k, n + 1), 0U) << n << " values";
    ++k;
  }
}

void check_mixed_storm(Communicator& comm, int n_rounds) {
  std::mt19937 shared(17);                                     // the same on every rank: what is called
  std::mt19937 own(static_cast<unsigned>(comm.rank()) + 100);  // when
  for (int64_t k = 0; k < n_rounds; ++k) {
    random_delay(own);
    const size_t n = 1 + shared() % (shared() % 100 == 0 ? 20'000 : 300);
    const auto kind = shared() % 10;
    const int root = static_cast<int>(shared() % static_cast<unsigned>(comm.size()));
    if (kind < 6) {
      fill(comm, k, n);
      random_delay(own);
      ASSERT_EQ(count_wrong(comm, comm.publish(), k, n), 0U) << "exchange in round " << k;
    } else if (kind < 8) {
      std::vector<int64_t> text(n, -1);
      for (size_t i = 0; comm.rank() == root && i < n; ++i)
        text[i] = value_of(k, root, static_cast<int64_t>(i));
      comm.broadcast(std::as_writable_bytes(std::span(text)), root);
      for (size_t i = 0; i < n; ++i)
        ASSERT_EQ(text[i], value_of(k, root, static_cast<int64_t>(i))) << k << " at " << i;
    } else if (kind == 8) {
      ASSERT_EQ(comm.all_agree(comm.rank() != root), comm.size() == 0) << k;
    } else {
      comm.node_barrier();
    }
  }
}

void check_broadcast(Communicator& comm) {
  for (const size_t n : {0, 1, 4096, 65'536, 65'537, 1'000'001}) {
    for (int root = 0; root < comm.size(); ++root) {
      std::vector<unsigned char> text(n, 255);
      for (size_t i = 0; comm.rank() == root && i < n; ++i)
        text[i] = static_cast<unsigned char>((i * 7 + n + root) % 251);
      comm.broadcast(std::as_writable_bytes(std::span(text)), root);
      size_t n_wrong = 0;
      for (size_t i = 0; i < n; ++i) n_wrong += text[i] != (i * 7 + n + root) % 251;
      ASSERT_EQ(n_wrong, 0U) << n << " bytes from rank " << root;
    }
  }
}

void check_votes(Communicator& comm) {
  EXPECT_TRUE(comm.all_agree(true));
  EXPECT_FALSE(comm.all_agree(false));
  for (int r = 0; r < comm.size(); ++r) {
    EXPECT_FALSE(comm.all_agree(comm.rank() != r)) << "rank " << r << " says no";
    EXPECT_TRUE(comm.all_agree(true)) << "after rank " << r << " said no";
  }
}

void check_gather_text(Communicator& comm) {
  const auto text_of = [](int r) {
    return std::string(static_cast<size_t>(r * 40'000), 'x') + std::to_string(r);
  };
  const std::vector<std::string> all = comm.gather_text(text_of(comm.rank()));
  ASSERT_EQ(all.size(), static_cast<size_t>(comm.size()));
  for (int r = 0; r < comm.size(); ++r) EXPECT_EQ(all[static_cast<size_t>(r)], text_of(r));
  const std::vector<std::string> none = comm.gather_text("");
  for (const std::string& text : none) EXPECT_EQ(text, "");
}

void check_node_buffer(Communicator& comm) {
  const size_t per_rank = 70'001;
  const size_t n_bytes = per_rank * static_cast<size_t>(comm.node_size());
  for (int round = 0; round < 3; ++round) {
    const auto buffer = comm.node_buffer(n_bytes);
    const std::span<std::byte> bytes = buffer->bytes();
    ASSERT_EQ(bytes.size(), n_bytes);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % 4096, 0U);
    ASSERT_EQ(std::count(bytes.begin(), bytes.end(), std::byte{0}), static_cast<long>(n_bytes));
    comm.node_barrier();
    const auto mine = static_cast<size_t>(comm.node_rank());
    for (size_t i = 0; i < per_rank; ++i)
      bytes[mine * per_rank + i] = static_cast<std::byte>(1 + mine + i % 100);
    comm.node_barrier();
    size_t n_wrong = 0;
    for (size_t i = 0; i < n_bytes; ++i)
      n_wrong += bytes[i] != static_cast<std::byte>(1 + i / per_rank + i % per_rank % 100);
    EXPECT_EQ(n_wrong, 0U);
    comm.node_barrier();
  }
}

void check_idle_wait(Communicator& comm) {
  // Rank 0 stays away for a second; the waiting ranks spend less than half of it on a core.
  const auto cpu_ns = [] {
    timespec used{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return used.tv_sec * 1'000'000'000L + used.tv_nsec;
  };
  comm.barrier();
  const long before_ns = cpu_ns();
  if (comm.rank() == 0) usleep(1'000'000);
  comm.barrier();
  EXPECT_LT(cpu_ns() - before_ns, 500'000'000L);
}

}  // namespace tandem::test
