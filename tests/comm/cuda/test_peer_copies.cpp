// Two ranks' large sums by copies into each other's window (ops/cuda/peer_copies.h): every float arrives, in
// its slot and before it is read, also where one rank is late or reads slowly. Ranks may share a GPU.
#include "ops/cuda/peer_copies.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iterator>
#include <thread>

#include "comm/cuda/peer_memory.h"
#include "tests/comm/cuda/rank_shares.h"
#include "tests/support/mpi_world.h"

namespace tandem::cuda {
namespace {

using test::mpi_world;

constexpr int64_t kCols = 1024;
constexpr int64_t kTokens = 300;
constexpr int64_t kVocab = 1000;

TEST(BulkWindow, lies_behind_all_else) {
  const BulkWindow window = bulk_window(2, kCols, kVocab, kTokens);
  EXPECT_GE(window.offset, sampling_window_offset(2, kCols) + 2 * 2 * sampling_slot_bytes(kVocab));
  EXPECT_EQ(window.offset % 256, 0);
  EXPECT_EQ(window.slot_bytes, kTokens * kCols * 4);
  EXPECT_EQ(window.end(), window.offset + kBulkFlagBytes + 2 * window.slot_bytes);
}

TEST(BulkWindow, is_for_two_ranks_and_more_than_packets) {
  for (const int n_ranks : {1, 3, 8}) {
    const BulkWindow window = bulk_window(n_ranks, kCols, kVocab, kTokens);
    EXPECT_EQ(window.slot_bytes, 0);
    EXPECT_EQ(window.end(), window.offset);
  }
  EXPECT_EQ(bulk_window(2, kCols, kVocab, kExchangeTokens).slot_bytes, 0);
  EXPECT_GT(bulk_window(2, kCols, kVocab, kExchangeTokens + 1).slot_bytes, 0);
}

TEST(PeerCopies, carry_what_has_room) {
  const PeerCopies copies(bulk_window(2, kCols, kVocab, kTokens), 0);
  EXPECT_TRUE(copies.carries(kTokens * kCols));
  EXPECT_FALSE(copies.carries(kTokens * kCols + 1));
  EXPECT_FALSE(PeerCopies(bulk_window(3, kCols, kVocab, kTokens), 0).carries(1));
}

class PeerCopiesTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!choose_device(comm_)) GTEST_SKIP() << "no CUDA device";
    if (comm_.size() != 2) GTEST_SKIP() << "for two ranks";
    memory_ = PeerMemory::make(comm_, static_cast<size_t>(where_.end()), why_not_);
    if (!memory_) GTEST_SKIP() << why_not_;
  }
  Communicator& comm_ = mpi_world();
  BulkWindow where_ = bulk_window(2, kCols, kVocab, kTokens);
  std::string why_not_;
  std::unique_ptr<PeerMemory> memory_;
};

void doze(void* /*nothing*/) {
  std::this_thread::sleep_for(std::chrono::milliseconds(3));
}

/// A step's exchanges as the backend has them: products and sums in one stream, copies in another.
class Rank {
 public:
  Rank(const PeerMemory& memory, const BulkWindow& where, int rank)
      : memory_(memory), copies_(where, rank), partial_(kTokens * kCols) {
    copies_.open();
    check(cudaDeviceSynchronize());
  }

  /// One exchange of n_tokens rows in pieces of `step`, behind which the other's rows are put to `got`.
  void exchange(const DeviceBuffer<float>& rows, int64_t n_tokens, int64_t step, DeviceBuffer<float>& got,
                bool late, bool slow) {
    const size_t n_bytes = static_cast<size_t>(n_tokens * kCols) * sizeof(float);
    check(cudaStreamWaitEvent(work_.get(), done_.get()));  // the last rows are read
    if (late) check(cudaLaunchHostFunc(work_.get(), doze, nullptr));
    check(cudaMemcpyAsync(partial_.data(), rows.data(), n_bytes, cudaMemcpyDeviceToDevice, work_.get()));
    ready_.record(work_);
    check(cudaStreamWaitEvent(copying_.get(), ready_.get()));
    copies_.begin(memory_.windows());
    for (int64_t t = 0; t < n_tokens; t += step)
      copies_.send(partial_.data(), {t * kCols, std::min(n_tokens, t + step) * kCols}, copying_.get());
    done_.record(copying_);
    copies_.await(work_.get());
    if (slow) check(cudaLaunchHostFunc(work_.get(), doze, nullptr));
    check(cudaMemcpyAsync(got.data(), copies_.theirs(), n_bytes, cudaMemcpyDeviceToDevice, work_.get()));
  }
  void wait() {
    work_.synchronize();
    copying_.synchronize();
  }

 private:
  const PeerMemory& memory_;
  PeerCopies copies_;
  DeviceBuffer<float> partial_;  // (kTokens, kCols)
  Stream work_;
  Stream copying_{Stream::Priority::high};
  Event ready_;
  Event done_;
};

TEST(Arrivals, go_round) {
  constexpr uint32_t kMost = kArrivalNumbers;
  EXPECT_FALSE(has_arrived(0, 1));  // of a window that is new
  EXPECT_TRUE(has_arrived(1, 1));
  EXPECT_TRUE(has_arrived(8, 1));
  EXPECT_FALSE(has_arrived(kMost - 1, kMost));  // whose flag is 0
  EXPECT_TRUE(has_arrived(0, kMost));
  EXPECT_TRUE(has_arrived(3, kMost));
  EXPECT_FALSE(has_arrived(0, kMost + 1));
  EXPECT_TRUE(has_arrived(1, 5 * kMost + 1));
  EXPECT_FALSE(has_arrived(0, 5 * kMost + 1));
  EXPECT_TRUE(has_arrived(0, uint32_t{0}));  // where the count itself goes round
  EXPECT_FALSE(has_arrived(kMost - 1, uint32_t{0}));
}

TEST_F(PeerCopiesTest, bring_the_other_ranks_rows) {
  struct Case {
    int64_t n_tokens;
    int64_t step;
  };
  constexpr Case kCases[] = {{65, 65}, {300, 128}, {300, 300}, {1, 64}, {130, 64}};
  constexpr int kExchanges = 40;
  const int mine = comm_.rank();
  std::vector<DeviceBuffer<float>> rows;
  std::vector<DeviceBuffer<float>> got;
  for (int i = 0; i < kExchanges; ++i) {
    const int64_t n = kCases[i % std::size(kCases)].n_tokens * kCols;
    const std::vector<float> values = shares(mine, n, i);
    rows.emplace_back(values.size());
    got.emplace_back(values.size());
    check(cudaMemcpy(rows.back().data(), values.data(), rows.back().bytes(), cudaMemcpyHostToDevice));
  }
  check(cudaDeviceSynchronize());
  Rank rank(*memory_, where_, mine);
  comm_.barrier();
  for (int i = 0; i < kExchanges; ++i) {
    const auto at = static_cast<size_t>(i);
    const Case& c = kCases[at % std::size(kCases)];
    // Each rank is late with some products and slow with some sums while the other one goes on.
    rank.exchange(rows[at], c.n_tokens, c.step, got[at], i % 7 == 3 * mine + 1, i % 5 == mine + 1);
  }
  rank.wait();
  for (int i = 0; i < kExchanges; ++i) {
    std::vector<float> values(got[static_cast<size_t>(i)].size());
    check(cudaMemcpy(values.data(), got[static_cast<size_t>(i)].data(), values.size() * sizeof(float),
                     cudaMemcpyDeviceToHost));
    EXPECT_EQ(count_wrong(values, shares(1 - mine, static_cast<int64_t>(values.size()), i)), 0)
        << "exchange " << i;
  }
}

/// Thousands of pieces: the numbers go round, and a flag that came before its rows would show old ones.
TEST_F(PeerCopiesTest, numbers_go_round) {
  constexpr int kExchanges = 64;
  constexpr int64_t kStep = 4;  // 75 pieces each
  const int mine = comm_.rank();
  const std::vector<float> values = shares(mine, kTokens * kCols, 0);
  std::vector<DeviceBuffer<float>> rows;  // of even and of odd exchanges
  for (const float sign : {1.0F, -1.0F}) {
    std::vector<float> of(values);
    for (float& x : of) x *= sign;
    rows.emplace_back(of.size());
    check(cudaMemcpy(rows.back().data(), of.data(), rows.back().bytes(), cudaMemcpyHostToDevice));
  }
  const std::vector<float> theirs = shares(1 - mine, kTokens * kCols, 0);
  DeviceBuffer<float> got(theirs.size());
  Rank rank(*memory_, where_, mine);
  comm_.barrier();
  int64_t n_wrong = 0;
  for (int i = 0; i < kExchanges; ++i) {
    // A slot is used by every second exchange: in turns with one sign and the other.
    const bool minus = i / 2 % 2 != 0;
    rank.exchange(rows[minus ? 1 : 0], kTokens, kStep, got, false, false);
    if (i % 8 < 5) continue;
    rank.wait();
    std::vector<float> floats(got.size());
    check(cudaMemcpy(floats.data(), got.data(), got.bytes(), cudaMemcpyDeviceToHost));
    if (minus) std::transform(floats.begin(), floats.end(), floats.begin(), std::negate<>());
    n_wrong += count_wrong(floats, theirs);
  }
  rank.wait();
  EXPECT_EQ(n_wrong, 0);
}

}  // namespace
}  // namespace tandem::cuda
