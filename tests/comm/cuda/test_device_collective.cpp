// Every way of summing over ranks on devices: the sums' bits, streams, sizes, graphs, what is refused, and
// ends. Each rank takes the device of its place on the node; ranks may share one (NCCL is skipped then).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "comm/cuda/agreement.h"
#include "comm/cuda/collectives.h"
#include "comm/cuda/host_collective.h"
#include "comm/cuda/nccl_collective.h"
#include "comm/cuda/peer_check.h"
#include "comm/cuda/peer_memory.h"
#include "ops/core/error.h"
#include "ops/cuda/memory.h"
#include "tests/comm/cuda/rank_shares.h"
#include "tests/support/mpi_world.h"

namespace tandem::cuda {
namespace {

using test::mpi_world;

constexpr size_t kWindowBytes = size_t{1} << 20;
constexpr int64_t kMost = 300'000;

class DeviceCollectiveTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!choose_device(comm_)) GTEST_SKIP() << "no CUDA device";
  }
  Communicator& comm_ = mpi_world();
};

std::vector<float> sums(int n_ranks, int64_t n, int round) {
  std::vector<float> values(static_cast<size_t>(n), 0.0F);
  for (int r = 0; r < n_ranks; ++r) {
    for (int64_t i = 0; i < n; ++i) values[static_cast<size_t>(i)] += share(r, i, round);
  }
  return values;
}

/// Every rank's bytes in rank order, on every rank, one gather behind the other.
void check_gathers(DeviceCollective& collective, Communicator& comm) {
  const Stream stream;
  const auto n_ranks = static_cast<size_t>(comm.size());
  int round = 0;
  for (const int64_t n : {int64_t{1}, int64_t{512}, int64_t{70'000}, int64_t{3}}) {
    const std::vector<float> mine = shares(comm.rank(), n, round);
    const size_t n_bytes = static_cast<size_t>(n) * sizeof(float);
    const DeviceBuffer<float> from(static_cast<size_t>(n));
    const DeviceBuffer<float> to(n_ranks * static_cast<size_t>(n));
    check(cudaMemcpyAsync(from.data(), mine.data(), n_bytes, cudaMemcpyHostToDevice, stream.get()));
    collective.all_gather(reinterpret_cast<const std::byte*>(from.data()),
                          reinterpret_cast<std::byte*>(to.data()), n_bytes, stream.get());
    std::vector<float> got(to.size());
    check(cudaMemcpyAsync(got.data(), to.data(), to.bytes(), cudaMemcpyDeviceToHost, stream.get()));
    stream.synchronize();
    std::vector<float> expected;
    for (int r = 0; r < comm.size(); ++r) {
      const std::vector<float> part = shares(r, n, round);
      expected.insert(expected.end(), part.begin(), part.end());
    }
    EXPECT_EQ(count_wrong(got, expected), 0) << collective.name() << ", gathered, n = " << n;
    ++round;
  }
}

/// Sizes around tiles and pieces, two streams, no waiting between the calls of a stream.
void check_sums(DeviceCollective& collective, Communicator& comm) {
  const Stream streams[2];
  DeviceBuffer<float> data(kMost);
  std::vector<float> got(kMost);
  int round = 0;
  for (const int64_t n : {int64_t{1}, int64_t{3}, int64_t{8192}, int64_t{8193}, kMost, int64_t{64}}) {
    const Stream& stream = streams[round % 2];
    const std::vector<float> mine = shares(comm.rank(), n, round);
    const size_t n_bytes = static_cast<size_t>(n) * sizeof(float);
    check(cudaMemcpyAsync(data.data(), mine.data(), n_bytes, cudaMemcpyHostToDevice, stream.get()));
    collective.all_reduce(data.data(), n, stream.get());
    check(cudaMemcpyAsync(got.data(), data.data(), n_bytes, cudaMemcpyDeviceToHost, stream.get()));
    stream.synchronize();
    collective.check_health();
    got.resize(static_cast<size_t>(n));
    EXPECT_EQ(count_wrong(got, sums(comm.size(), n, round)), 0) << collective.name() << ", n = " << n;
    got.resize(kMost);
    ++round;
  }
  check_gathers(collective, comm);
}

/// Many calls one behind the other: what a call leaves behind must not reach the next one's sums.
void check_chain(DeviceCollective& collective, Communicator& comm) {
  constexpr int kCalls = 50;
  constexpr int64_t kColumns = 4096;
  const Stream stream;
  std::vector<DeviceBuffer<float>> rows;
  for (int i = 0; i < kCalls; ++i) {
    rows.emplace_back(static_cast<size_t>(kColumns));
    const std::vector<float> row = shares(comm.rank(), kColumns, i);
    check(cudaMemcpy(rows.back().data(), row.data(), rows.back().bytes(), cudaMemcpyHostToDevice));
  }
  for (const DeviceBuffer<float>& row : rows) collective.all_reduce(row.data(), kColumns, stream.get());
  stream.synchronize();
  std::vector<float> got(static_cast<size_t>(kColumns));
  for (int i = 0; i < kCalls; ++i) {
    const DeviceBuffer<float>& row = rows[static_cast<size_t>(i)];
    check(cudaMemcpy(got.data(), row.data(), row.bytes(), cudaMemcpyDeviceToHost));
    EXPECT_EQ(count_wrong(got, sums(comm.size(), kColumns, i)), 0) << "call " << i;
  }
}

TEST(DeviceCollectiveCompare, rejects_a_wrong_answer) {
  std::vector<float> got = sums(3, 100, 1);
  const std::vector<float> expected = got;
  EXPECT_EQ(count_wrong(got, expected), 0);
  got[57] += 0.125F;
  EXPECT_EQ(count_wrong(got, expected), 1);
  EXPECT_GT(count_wrong(shares(0, 100, 1), expected), 90);  // one rank's share is not the sum
}

TEST(PeerPattern, tells_writer_owner_and_place) {
  EXPECT_NE(pattern_word(0, 1, 5), pattern_word(1, 0, 5));
  EXPECT_NE(pattern_word(0, 1, 5), pattern_word(0, 2, 5));
  EXPECT_NE(pattern_word(0, 1, 5), pattern_word(0, 1, 6));
  EXPECT_EQ(writer_of(0, 1000, 3), 0);
  EXPECT_EQ(writer_of(999, 1000, 3), 2);
}

TEST_F(DeviceCollectiveTest, automatic) {
  const CollectiveChoice choice = make_collective(CommKind::automatic, comm_, {kWindowBytes});
  if (comm_.rank() == 0) printf("%s\n", choice.reason.c_str());
  for (const std::string& reason : comm_.gather_text(choice.reason)) EXPECT_EQ(reason, choice.reason);
  check_sums(*choice.collective, comm_);
}

TEST_F(DeviceCollectiveTest, through_the_host) {
  const auto collective = make_host_collective(comm_, HostRoad::staged);
  EXPECT_FALSE(collective->capturable());
  check_sums(*collective, comm_);
  check_chain(*collective, comm_);
}

TEST_F(DeviceCollectiveTest, by_mpi_as_it_can) {
  const auto collective = make_host_collective(comm_);
  check_sums(*collective, comm_);
  check_chain(*collective, comm_);
}

TEST_F(DeviceCollectiveTest, by_nccl) {
  std::string why_not;
  const auto collective = make_nccl_collective(comm_, why_not);
  if (!collective) {
    for (const std::string& why : comm_.gather_text(why_not)) EXPECT_EQ(why, why_not);
    if (comm_.size() > 1) {
      EXPECT_THROW(make_collective(CommKind::nccl, comm_, {kWindowBytes}), Error);
    }
    GTEST_SKIP() << why_not;
  }
  check_sums(*collective, comm_);
  check_chain(*collective, comm_);
  EXPECT_GT(measure_all_reduce_us(*collective, comm_, 4096, 20), 0);  // in a graph
}

/// Numbers whose sum's last bits depend on the order of adding.
std::vector<float> uneven(int rank, int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  uint64_t state = 977 + static_cast<uint64_t>(rank);
  for (float& value : values) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    value = std::ldexp(static_cast<float>(static_cast<int32_t>(state >> 32)), -20 - rank % 3 * 5);
  }
  return values;
}

std::vector<float> ranked_sum(int n_ranks, int64_t n, bool backwards = false) {
  std::vector<float> sum(static_cast<size_t>(n), 0.0F);
  for (int i = 0; i < n_ranks; ++i) {
    const std::vector<float> part = uneven(backwards ? n_ranks - 1 - i : i, n);
    for (size_t k = 0; k < sum.size(); ++k) sum[k] += part[k];
  }
  return sum;
}

TEST(UnevenShares, show_the_order_of_adding) {
  EXPECT_GT(count_wrong(ranked_sum(3, 1000), ranked_sum(3, 1000, true)), 100);
}

/// By every road that is asked to add in rank order: the bits of adding in rank order.
void check_ranked(DeviceCollective& collective, Communicator& comm) {
  constexpr int64_t kColumns = (int64_t{1} << 20) + 77;  // more than one piece
  const Stream stream;
  const std::vector<float> mine = uneven(comm.rank(), kColumns);
  DeviceBuffer<float> data(mine.size());
  check(cudaMemcpyAsync(data.data(), mine.data(), data.bytes(), cudaMemcpyHostToDevice, stream.get()));
  collective.all_reduce(data.data(), kColumns, stream.get());
  std::vector<float> got(mine.size());
  check(cudaMemcpyAsync(got.data(), data.data(), data.bytes(), cudaMemcpyDeviceToHost, stream.get()));
  stream.synchronize();
  EXPECT_EQ(count_wrong(got, ranked_sum(comm.size(), kColumns)), 0) << collective.name();
}

TEST_F(DeviceCollectiveTest, ranked_sums_have_the_same_bits_by_every_road) {
  for (const CommKind kind : {CommKind::automatic, CommKind::nccl, CommKind::mpi}) {
    std::string why_not;
    if (kind == CommKind::nccl && !make_nccl_collective(comm_, why_not)) continue;
    if (comm_.size() > 1) {
      check_ranked(*make_collective(kind, comm_, {kWindowBytes}, SumOrder::ranked).collective, comm_);
    }
  }
}

TEST_F(DeviceCollectiveTest, by_nccl_gathered) {
  std::string why_not;
  const auto collective = make_nccl_collective(comm_, why_not, NcclRoad::gathered);
  if (!collective) GTEST_SKIP() << why_not;
  check_sums(*collective, comm_);
  check_chain(*collective, comm_);
  check_ranked(*collective, comm_);
  EXPECT_GT(measure_all_reduce_us(*collective, comm_, 4096, 20), 0);  // in a graph
}

TEST_F(DeviceCollectiveTest, windows_reach_everybody) {
  std::string why_not;
  const auto memory = PeerMemory::make(comm_, kWindowBytes, why_not);
  if (!memory) {
    if (comm_.size() > 1) {
      EXPECT_THROW(make_collective(CommKind::peer, comm_, {kWindowBytes}), Error);
    }
    GTEST_SKIP() << why_not;
  }
  ASSERT_EQ(memory->windows().size(), static_cast<size_t>(comm_.size()));
  const auto rank = static_cast<size_t>(comm_.rank());
  std::vector<uint64_t> words(kWindowBytes / 8);
  check(cudaMemcpy(words.data(), memory->windows()[rank], kWindowBytes, cudaMemcpyDeviceToHost));
  EXPECT_EQ(words, std::vector<uint64_t>(words.size(), 0)) << "a new window is not zero";
  comm_.barrier();
  const size_t mine = 64 + rank;  // not the words that the proof used
  for (size_t r = 0; r < memory->windows().size(); ++r) {
    const uint64_t word = 1000 * (rank + 1) + r;
    check(cudaMemcpy(memory->windows()[r] + 8 * mine, &word, sizeof word, cudaMemcpyHostToDevice));
  }
  check(cudaDeviceSynchronize());
  comm_.barrier();
  check(cudaMemcpy(words.data(), memory->windows()[rank], kWindowBytes, cudaMemcpyDeviceToHost));
  for (size_t r = 0; r < memory->windows().size(); ++r)
    EXPECT_EQ(words[64 + r], 1000 * (r + 1) + rank) << "from rank " << r;
  comm_.barrier();
}

TEST_F(DeviceCollectiveTest, the_proof_sees_a_wrong_word) {
  DeviceBuffer<uint64_t> window(4096);
  DeviceBuffer<unsigned long long> n_wrong(1);
  PeerWindows alone{.data = {window.data()}, .n_words = 4096, .n_ranks = 1, .rank = 0};
  const Stream stream;
  const auto count = [&] {
    unsigned long long n = 0;
    check(cudaMemset(n_wrong.data(), 0, sizeof n));
    check(cudaDeviceSynchronize());
    check_patterns(alone, n_wrong.data(), stream.get());
    stream.synchronize();
    check(cudaMemcpy(&n, n_wrong.data(), sizeof n, cudaMemcpyDeviceToHost));
    return n;
  };
  write_patterns(alone, stream.get());
  stream.synchronize();
  EXPECT_EQ(count(), 0U);
  const uint64_t wrong = 0;
  check(cudaMemcpy(window.data() + 77, &wrong, sizeof wrong, cudaMemcpyHostToDevice));
  EXPECT_EQ(count(), 1U);
}

TEST_F(DeviceCollectiveTest, a_peer_that_is_silent_is_named) {
  DeviceBuffer<uint64_t> windows(2 * 4096);
  DeviceBuffer<int> late(1);
  check(cudaMemset(windows.data(), 0, windows.bytes()));
  check(cudaMemset(late.data(), 0, late.bytes()));
  check(cudaDeviceSynchronize());
  const Stream stream;
  const PeerWindows two{
      .data = {windows.data(), windows.data() + 4096}, .n_words = 4096, .n_ranks = 2, .rank = 0};
  greet_peers(two, 3, 50, late.data(), stream.get());
  stream.synchronize();
  int silent = 0;
  check(cudaMemcpy(&silent, late.data(), sizeof silent, cudaMemcpyDeviceToHost));
  EXPECT_EQ(silent, 2);  // 1 + rank 1, whose kernel was never started
}

TEST_F(DeviceCollectiveTest, ends_again_and_again) {
  for (int i = 0; i < 5; ++i) {
    const CollectiveChoice choice = make_collective(CommKind::automatic, comm_, {kWindowBytes});
    check_chain(*choice.collective, comm_);
  }
}

TEST(FirstFault, names_the_rank) {
  Communicator& comm = mpi_world();
  const int last = comm.size() - 1;
  const std::string fault = first_fault(comm, comm.rank() == last ? "no memory" : "");
  EXPECT_EQ(fault, "rank " + std::to_string(last) + ": no memory");
  EXPECT_EQ(first_fault(comm, ""), "");
}

TEST(NcclInfoTest, has_a_version_or_a_reason) {
  const NcclInfo& info = nccl_info();
  if (info.found) {
    EXPECT_EQ(info.text.rfind("2.", 0), 0U) << info.text;
  } else {
    EXPECT_NE(info.text.find("NCCL"), std::string::npos) << info.text;
  }
}

TEST(CommKindNames, are_read) {
  EXPECT_EQ(parse_comm_kind("auto"), CommKind::automatic);
  EXPECT_EQ(parse_comm_kind("nccl"), CommKind::nccl);
  EXPECT_THROW(parse_comm_kind("tcp"), Error);
}

}  // namespace
}  // namespace tandem::cuda
