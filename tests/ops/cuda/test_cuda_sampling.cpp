// ops/cuda/sampling on a GPU against the host's sampler, token by token: every chain of
// tests/support/sampling_cases.h, several rows at once, on one rank and on several that share the vocabulary
// (as many threads and streams on this GPU) with packets in windows and with an all-gather. CudaSamplingPeers
// needs kernels that run side by side: leave it out under tools that serialise them.
#include "ops/cuda/sampling.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "ops/cuda/sampling_windows.h"
#include "runtime/engine/device_chain.h"
#include "tests/ops/cuda/gpu_support.h"
#include "tests/support/sampling_cases.h"

namespace tandem::cuda {
namespace {

using test::SamplingCase;

constexpr int64_t kVocab = 5003;
constexpr int64_t kContext = 4096;

/// A kernel that is loaded when first launched may have to wait for those that run, which may wait for it.
const bool kLoadsAtOnce = setenv("CUDA_MODULE_LOADING", "EAGER", 1) == 0;

enum class Way { windows, all_gather };

/// What ranks that are threads share.
struct Shared {
  Shared(int n, int64_t n_vocab) : n_ranks(n), barrier(n), mine(static_cast<size_t>(n)) {
    for (int r = 0; r < n; ++r) {
      memory.emplace_back(static_cast<size_t>(2 * n * sampling_slot_bytes(n_vocab)));
      check(cudaMemset(memory.back().data(), 0, memory.back().bytes()));
      windows.push_back(memory.back().data());
    }
    check(cudaDeviceSynchronize());
  }
  int n_ranks;
  std::barrier<> barrier;
  std::vector<const std::byte*> mine;
  std::vector<DeviceBuffer<std::byte>> memory;
  std::vector<std::byte*> windows;
};

class ThreadCollective final : public DeviceCollective {
 public:
  ThreadCollective(Shared& shared, int rank, Way way) : shared_(shared), rank_(rank), way_(way) {}
  std::string_view name() const override { return "threads"; }
  bool capturable() const override { return way_ == Way::windows; }
  void all_reduce(float*, int64_t, cudaStream_t) override { FAIL() << "nothing is summed"; }
  void all_gather(const std::byte* mine, std::byte* all, size_t n_bytes, cudaStream_t stream) override {
    check(cudaStreamSynchronize(stream));
    shared_.mine[static_cast<size_t>(rank_)] = mine;
    shared_.barrier.arrive_and_wait();
    for (const std::byte* part : shared_.mine) {
      check(cudaMemcpyAsync(all, part, n_bytes, cudaMemcpyDeviceToDevice, stream));
      all += n_bytes;
    }
    check(cudaStreamSynchronize(stream));
    shared_.barrier.arrive_and_wait();
  }
  std::span<std::byte* const> windows() const override {
    return way_ == Way::windows ? std::span<std::byte* const>(shared_.windows)
                                : std::span<std::byte* const>();
  }
  size_t window_bytes() const override { return shared_.memory[0].bytes(); }

 private:
  Shared& shared_;
  int rank_;
  Way way_;
};

/// One rank's sampler with a step of as many one-token sequences as there are cases.
class Rank {
 public:
  Rank(int rank, const std::vector<int64_t>& cuts, DeviceCollective* collective, int64_t max_rows)
      : rank_(rank),
        collective_(collective),
        n_vocab_(cuts.back()),
        n_ranks_(static_cast<int>(cuts.size()) - 1) {
    SamplingShape shape;
    for (size_t r = 0; r + 1 < cuts.size(); ++r) shape.vocab.push_back({cuts[r], cuts[r + 1]});
    shape.n_slots = 300;
    vocab_ = shape.vocab[static_cast<size_t>(rank)];
    sampler_.emplace(shape, rank, collective, max_rows);
  }

  std::vector<int32_t> run(std::span<const SamplingCase> cases) {
    prepare(cases);
    return go(static_cast<int64_t>(cases.size()));
  }

  /// What a step needs in device memory; slot of case i: 7 i mod 300. No rank's kernels may wait meanwhile.
  void prepare(std::span<const SamplingCase> cases) {
    std::vector<int32_t> counting;
    std::vector<int32_t> slots;
    std::vector<int32_t> positions;
    std::vector<float> rows;
    from_all_ = false;
    for (size_t i = 0; i < cases.size(); ++i) {
      const std::optional<DeviceChain> slot = device_chain(cases[i].params, n_ranks_, kContext);
      EXPECT_TRUE(slot.has_value());
      counting.push_back(static_cast<int32_t>(i));
      slots.push_back(static_cast<int32_t>(7 * i % 300));
      positions.push_back(static_cast<int32_t>(cases[i].position) - 1);
      from_all_ |= slot->chain.road == sampling::Road::everything;
      rows.insert(rows.end(), cases[i].logits.begin() + vocab_.begin, cases[i].logits.begin() + vocab_.end);
      sampler_->admit(slots.back(), slot->chain, slot->bias, cases[i].history, stream_.get());
    }
    rows_ = to_device(rows);
    counting_ = to_device(counting);
    slots_ = to_device(slots);
    positions_ = to_device(positions);
    numbers_ = to_device(std::vector<uint32_t>{next_number_, sampler_->host_offset()});
    stream_.synchronize();
  }

  /// The tokens of the cases.
  std::vector<int32_t> go(int64_t n_all) {
    StepView step;
    step.positions = positions_.data();
    step.outputs = counting_.data();
    step.output_slots = slots_.data();
    uint32_t n_exchanges = 0;
    for (int64_t first = 0; first < n_all; first += sampler_->pass_rows()) {
      const int64_t n = std::min(sampler_->pass_rows(), n_all - first);
      for (int64_t row = 0; row < n && !vocab_.empty(); ++row) {
        check(cudaMemcpyAsync(
            sampler_->logits() + row * sampler_->stride(), rows_.data() + (first + row) * vocab_.size(),
            static_cast<size_t>(vocab_.size()) * sizeof(float), cudaMemcpyDeviceToDevice, stream_.get()));
      }
      // What begins early holds room that the other ranks' kernels, on the same GPU, may need to answer.
      const bool early = collective_ == nullptr;
      DeviceSampler::Pass pass{&step, numbers_.data() + 1, first, n, from_all_, early, {}};
      pass.next_exchange = [&] { return windows(n_exchanges++); };
      sampler_->choose(pass, stream_.get());
    }
    next_number_ += n_exchanges;
    sampler_->launched(n_all, stream_.get());
    return sampler_->collect();
  }

  DeviceSampler& sampler() { return *sampler_; }
  const Stream& stream() const { return stream_; }

 private:
  PeerWindows windows(uint32_t number) const {
    PeerWindows peers;
    const auto all = collective_->windows();
    std::copy(all.begin(), all.end(), peers.windows);
    peers.n_ranks = static_cast<int32_t>(all.size());
    peers.rank = rank_;
    peers.slot_bytes = sampling_slot_bytes(n_vocab_);
    peers.number_base = numbers_.data();
    peers.number = number;
    return peers;
  }

  int rank_;
  DeviceCollective* collective_;
  int64_t n_vocab_;
  int n_ranks_;
  Range vocab_;
  std::optional<DeviceSampler> sampler_;
  Stream stream_;
  DeviceBuffer<float> rows_;  // (cases, this rank's vocabulary)
  DeviceBuffer<int32_t> counting_, slots_, positions_;
  DeviceBuffer<uint32_t> numbers_;
  uint32_t next_number_ = 1;
  bool from_all_ = false;
};

struct Batch {
  std::vector<SamplingCase> cases;
  std::vector<int32_t> truth;
};

/// The cases that candidates decide, 40 a step (two passes), then all in order, 11 a step.
std::vector<Batch> batches(int n_ranks) {
  std::vector<Batch> out;
  const auto add = [&](const SamplingCase& c, int32_t token, size_t most) {
    if (out.empty() || out.back().cases.size() >= most) out.emplace_back();
    out.back().cases.push_back(c);
    out.back().truth.push_back(token);
  };
  const std::vector<SamplingCase> cases = test::sampling_cases(kVocab);
  std::vector<int32_t> truth;
  for (const SamplingCase& c : cases) truth.push_back(test::host_token(c));
  for (size_t i = 0; i < cases.size(); ++i) {
    if (device_chain(cases[i].params, n_ranks, kContext)->chain.road != sampling::Road::everything)
      add(cases[i], truth[i], 40);
  }
  out.emplace_back();
  for (size_t i = 0; i < cases.size(); ++i) add(cases[i], truth[i], 11);
  return out;
}

void expect_truth(const Batch& batch, const std::vector<int32_t>& tokens) {
  ASSERT_EQ(tokens.size(), batch.truth.size());
  for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(tokens[i], batch.truth[i]) << batch.cases[i].name;
}

/// Rank `late` begins each batch behind the others: they must not get so far ahead that they write over what
/// it still has to read.
void check_ranks(const std::vector<int64_t>& cuts, Way way, int late = -1) {
  const auto n_ranks = static_cast<int>(cuts.size()) - 1;
  ASSERT_TRUE(kLoadsAtOnce);
  const std::vector<Batch> all = batches(n_ranks);
  Shared shared(n_ranks, kVocab);
  std::vector<std::vector<std::vector<int32_t>>> tokens(static_cast<size_t>(n_ranks));
  std::vector<std::thread> threads;
  for (int r = 0; r < n_ranks; ++r) {
    threads.emplace_back([&, r] {
      ThreadCollective collective(shared, r, way);
      Rank rank(r, cuts, &collective, 64);
      for (const Batch& batch : all) {
        shared.barrier.arrive_and_wait();
        rank.prepare(batch.cases);
        shared.barrier.arrive_and_wait();  // nothing is allocated while kernels wait for each other
        if (r == late) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        tokens[static_cast<size_t>(r)].push_back(rank.go(static_cast<int64_t>(batch.cases.size())));
      }
      shared.barrier.arrive_and_wait();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& of_rank : tokens) {
    for (size_t b = 0; b < all.size(); ++b) expect_truth(all[b], of_rank[b]);
  }
}

class CudaSampling : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device";
  }
};
using CudaSamplingPeers = CudaSampling;

TEST_F(CudaSampling, DrawsTheHostsTokens) {
  Rank rank(0, {0, kVocab}, nullptr, 64);
  for (const Batch& batch : batches(1)) expect_truth(batch, rank.run(batch.cases));
}

/// What tools that watch every access to memory have the time for.
TEST_F(CudaSampling, AFewCasesOfEachRoad) {
  Rank rank(0, {0, kVocab}, nullptr, 64);
  const std::vector<SamplingCase> cases = test::sampling_cases(kVocab);
  for (const bool everything : {false, true}) {
    Batch few;
    for (size_t i = 0; i < cases.size() && few.cases.size() < 4; i += 5) {
      const bool all = device_chain(cases[i].params, 1, kContext)->chain.road == sampling::Road::everything;
      if (all != everything) continue;
      few.cases.push_back(cases[i]);
      few.truth.push_back(test::host_token(cases[i]));
    }
    ASSERT_FALSE(few.cases.empty());
    expect_truth(few, rank.run(few.cases));
  }
}

TEST_F(CudaSampling, TheComparisonRejectsAWrongNumber) {
  Rank rank(0, {0, kVocab}, nullptr, 64);
  Batch batch = batches(1)[1];
  for (SamplingCase& c : batch.cases) c.params.seed += 1;
  EXPECT_NE(rank.run(batch.cases), batch.truth);
}

TEST_F(CudaSampling, RanksGatherCandidates) {
  check_ranks({0, 2512, kVocab}, Way::all_gather);
  check_ranks({0, 0, 16, kVocab}, Way::all_gather);
}

TEST_F(CudaSamplingPeers, RanksSendPackets) {
  check_ranks({0, 2512, kVocab}, Way::windows);
  check_ranks({0, 0, 16, 4000, kVocab}, Way::windows);
}

TEST_F(CudaSamplingPeers, ALateRankStillFindsItsPackets) {
  for (const int late : {0, 1, 2}) check_ranks({0, 0, 16, kVocab}, Way::windows, late);
}

TEST_F(CudaSampling, TokensBecomeKnownAndJoinTheHistory) {
  Rank rank(0, {0, kVocab}, nullptr, 64);
  DeviceSampler& sampler = rank.sampler();
  const cudaStream_t stream = rank.stream().get();
  // Slots 0 and 7 choose tokens.
  std::vector<SamplingCase> first = {{"0", test::normal_logits(kVocab, 7, 3.0F), {}, {}, 1},
                                     {"7", test::normal_logits(kVocab, 8, 3.0F), {}, {}, 1}};
  const std::vector<int32_t> latest = rank.run(first);
  EXPECT_EQ(latest, (std::vector<int32_t>{test::host_token(first[0]), test::host_token(first[1])}));
  SamplingCase c{"latest", test::normal_logits(kVocab, 9, 1.0F), {}, {1, 2, 3}, 3};
  c.params.temperature = 0;
  c.params.presence_penalty = 100.0F;
  c.params.repeat_last_n = -1;
  const std::optional<DeviceChain> slot = device_chain(c.params, 1, kContext);
  sampler.admit(0, slot->chain, slot->bias, c.history, stream);
  // Slot 0 at positions 3, 4, slot 7 at position 9, and slot 0 again.
  const auto tokens = to_device(std::vector<int32_t>{30, 40, kLatestOfSlot, kLatestOfSlot});
  const auto positions = to_device(std::vector<int32_t>{3, 4, 9, 5});
  const auto sequences = to_device(std::vector<int32_t>{0, 0, 1, 2});
  const auto slots = to_device(std::vector<int32_t>{0, 7, 0});
  StepView step;
  step.tokens = tokens.data();
  step.positions = positions.data();
  step.sequences = sequences.data();
  step.slot_of = slots.data();
  sampler.resolve(step, 4, stream);
  rank.stream().synchronize();
  EXPECT_EQ(to_host(tokens.data(), 4), (std::vector<int32_t>{30, 40, latest[1], latest[0]}));
  // Each of the six tokens of slot 0 is punished: the best of the others comes out.
  c.history = {1, 2, 3, 30, 40, latest[0]};
  c.position = 6;
  for (const int32_t token : c.history)
    c.logits[static_cast<size_t>(token)] = 50.0F + static_cast<float>(token);
  const auto outputs = to_device(std::vector<int32_t>{3});
  const auto output_slots = to_device(std::vector<int32_t>{0});
  const auto offset = to_device(std::vector<uint32_t>{sampler.host_offset()});
  check(
      cudaMemcpy(sampler.logits(), c.logits.data(), c.logits.size() * sizeof(float), cudaMemcpyHostToDevice));
  check(cudaDeviceSynchronize());
  step.outputs = outputs.data();
  step.output_slots = output_slots.data();
  sampler.choose({&step, offset.data(), 0, 1, false, true, {}}, stream);
  sampler.launched(1, stream);
  EXPECT_EQ(sampler.collect(), std::vector<int32_t>{test::host_token(c)});
  // What was chosen is the slot's latest now.
  const auto next = to_device(std::vector<int32_t>{kLatestOfSlot});
  const auto zero = to_device(std::vector<int32_t>{0});
  step.tokens = next.data();
  step.sequences = zero.data();
  sampler.resolve(step, 1, stream);
  rank.stream().synchronize();
  EXPECT_EQ(to_host(next.data(), 1), std::vector<int32_t>{test::host_token(c)});
}

/// Not a test of speed: prints what a pass over a large vocabulary takes.
TEST_F(CudaSampling, TellsItsTimes) {
  constexpr int64_t kLarge = 128256;
  constexpr int kRepeats = 50;
  Rank rank(0, {0, kLarge}, nullptr, 64);
  const std::vector<float> logits = test::normal_logits(kLarge, 1, 2.5F);
  const auto time = [&](const char* name, const SamplingParams& params) {
    const std::optional<DeviceChain> slot = device_chain(params, 1, kContext);
    const cudaStream_t stream = rank.stream().get();
    DeviceSampler& sampler = rank.sampler();
    sampler.admit(0, slot->chain, slot->bias, {}, stream);
    check(cudaMemcpyAsync(sampler.logits(), logits.data(), logits.size() * sizeof(float),
                          cudaMemcpyHostToDevice, stream));
    const auto numbers = to_device(std::vector<int32_t>{0, 0, 0});
    StepView step;
    step.positions = step.outputs = step.output_slots = numbers.data();
    const auto pass = [&] {
      const bool from_all = slot->chain.road == sampling::Road::everything;
      sampler.choose({&step, reinterpret_cast<const uint32_t*>(numbers.data()), 0, 1, from_all, true, {}},
                     stream);
    };
    pass();
    const Event begin;
    const Event end;
    begin.record(stream);
    for (int i = 0; i < kRepeats; ++i) pass();
    end.record(stream);
    rank.stream().synchronize();
    printf("%-28s %6.1f us\n", name, static_cast<double>(Event::elapsed_us(begin, end)) / kRepeats);
  };
  SamplingParams p;
  p.temperature = 0;
  time("greedy", p);
  p.temperature = 0.8F;
  time("top-k 40, top-p, min-p", p);
  p.top_k = 0;
  time("top-p 0.95 of everything", p);
  p.top_p = 1;
  p.min_p = 0;
  time("untruncated", p);
  p.top_k = 256;
  time("top-k 256", p);
}

}  // namespace
}  // namespace tandem::cuda
