// The local communicators: one rank, and threads. Under TSan this is the proof that the shared words order
// the data.
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "tests/comm/communicator_cases.h"

namespace tandem::test {
namespace {

class ThreadRanks : public testing::TestWithParam<int> {
 protected:
  void on_all_ranks(const std::function<void(Communicator&)>& work) const {
    auto comms = make_thread_communicators(GetParam());
    std::vector<std::thread> threads;
    for (auto& comm : comms) threads.emplace_back([&work, &comm] { work(*comm); });
    for (std::thread& thread : threads) thread.join();
  }
};

TEST_P(ThreadRanks, places) {
  const auto comms = make_thread_communicators(GetParam());
  ASSERT_EQ(comms.size(), static_cast<size_t>(GetParam()));
  for (int r = 0; r < GetParam(); ++r) {
    const Communicator& comm = *comms[static_cast<size_t>(r)];
    EXPECT_EQ(comm.rank(), r);
    EXPECT_EQ(comm.size(), GetParam());
    EXPECT_EQ(comm.node_rank(), r);
    EXPECT_EQ(comm.node_size(), GetParam());
    EXPECT_EQ(comm.n_nodes(), 1);
  }
}

TEST_P(ThreadRanks, exchange_sums) {
  on_all_ranks(check_exchange_sums);
}
TEST_P(ThreadRanks, exchange_reads_stay_valid) {
  on_all_ranks(check_exchange_reads_stay_valid);
}
TEST_P(ThreadRanks, exchange_grows) {
  on_all_ranks(check_exchange_grows);
}
TEST_P(ThreadRanks, mixed_storm) {
  on_all_ranks([](Communicator& comm) { check_mixed_storm(comm, 2000); });
}
TEST_P(ThreadRanks, broadcast) {
  on_all_ranks(check_broadcast);
}
TEST_P(ThreadRanks, votes) {
  on_all_ranks(check_votes);
}
TEST_P(ThreadRanks, gather_text) {
  on_all_ranks(check_gather_text);
}
TEST_P(ThreadRanks, node_buffer) {
  on_all_ranks(check_node_buffer);
}
TEST_P(ThreadRanks, idle_wait) {
  on_all_ranks(check_idle_wait);
}

INSTANTIATE_TEST_SUITE_P(Ranks, ThreadRanks, testing::Values(1, 2, 3, 4, 7));

TEST(SingleCommunicator, does_all) {
  const auto comm = make_single_communicator();
  EXPECT_EQ(comm->size(), 1);
  check_exchange_sums(*comm);
  check_exchange_reads_stay_valid(*comm);
  check_exchange_grows(*comm);
  check_mixed_storm(*comm, 500);
  check_broadcast(*comm);
  check_votes(*comm);
  check_gather_text(*comm);
  check_node_buffer(*comm);
}

TEST(ExchangeDeathTest, publish_needs_a_contribution) {
  const auto comm = make_single_communicator();
  EXPECT_EXIT(comm->publish(), testing::ExitedWithCode(70), "publish\\(\\) without contribution");
}

}  // namespace
}  // namespace tandem::test
