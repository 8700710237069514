// ops/core/sampling_chain.h, which GPUs sample by, walked by one thread and held against the host's sampler:
// the same token for every chain, row and cut of the vocabulary; and its arithmetic against the CPU kernels'
// bits.
#include "runtime/engine/device_chain.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "ops/core/error.h"
#include "tests/support/sampling_cases.h"
#include "tests/support/solo_team.h"

namespace tandem::test {
namespace {

using sampling::Key;
using sampling::Road;
using sampling::Segment;

constexpr int64_t kVocab = 5003;
constexpr int32_t kSlice = 512;

/// One rank's half: its logits after bias and penalties, and its candidates.
struct Shard {
  std::vector<float> logits;
  std::vector<Key> candidates;
  Segment segment;
};

Shard walk_shard(const SamplingCase& c, const DeviceChain& slot, Range vocab) {
  Shard shard;
  shard.logits.assign(c.logits.begin() + vocab.begin, c.logits.begin() + vocab.end);
  const auto first = static_cast<int32_t>(vocab.begin);
  shard.segment = {shard.logits.data(), vocab.size(), first};
  std::vector<int32_t> counts(shard.logits.size());
  std::vector<int32_t> ring(sampling::kHistoryTokens, -1);
  const size_t n_history = c.history.size();
  for (size_t i = 0; i < n_history; ++i) ring[i % ring.size()] = c.history[i];
  Key best = sampling::kNoKey;
  for (auto begin = first; begin < vocab.end; begin += kSlice) {
    const auto end = std::min(begin + kSlice, static_cast<int32_t>(vocab.end));
    sampling::adjust(SoloTeam{}, slot.chain, slot.bias.data(), ring.data(), static_cast<int64_t>(n_history),
                     begin, end, first, shard.logits.data(), counts.data());
    const Segment slice{shard.logits.data() + (begin - first), end - begin, begin};
    best = std::max(best, sampling::best_of(SoloTeam{}, {&slice, 1}, slot.chain, c.position));
  }
  for (const int32_t count : counts) EXPECT_EQ(count, 0);
  if (slot.chain.road != Road::candidates) {
    shard.candidates.push_back(best);
    return shard;
  }
  auto work = std::make_unique<sampling::Workspace>();
  const int n =
      sampling::find_top(SoloTeam{}, *work, {&shard.segment, 1}, sampling::score_of(best), slot.chain.top_k);
  shard.candidates.assign(work->pool, work->pool + n);
  EXPECT_TRUE(std::is_sorted(shard.candidates.rbegin(), shard.candidates.rend()));
  shard.candidates.resize(static_cast<size_t>(slot.chain.top_k), sampling::kNoKey);
  return shard;
}

int32_t chain_token(const SamplingCase& c, const std::vector<int64_t>& cuts, Road* road = nullptr) {
  const auto n_ranks = static_cast<int>(cuts.size()) - 1;
  const std::optional<DeviceChain> slot = device_chain(c.params, n_ranks, 4096);
  if (!slot) {
    ADD_FAILURE() << "no room";
    return -2;
  }
  if (road != nullptr) *road = slot->chain.road;
  std::vector<Shard> shards;
  std::vector<Segment> segments;
  for (size_t r = 0; r + 1 < cuts.size(); ++r) {
    shards.push_back(walk_shard(c, *slot, {cuts[r], cuts[r + 1]}));
    segments.push_back(shards.back().segment);
  }
  auto work = std::make_unique<sampling::Workspace>();
  if (slot->chain.road == Road::everything)
    return sampling::choose_from_all(SoloTeam{}, *work, slot->chain, c.position, {segments.data(), n_ranks});
  int n = 0;
  for (const Shard& shard : shards) {
    for (const Key key : shard.candidates) work->pool[n++] = key;
  }
  const int32_t token = sampling::choose_among(SoloTeam{}, *work, slot->chain, c.position, n);
  EXPECT_EQ(sampling::choose_from_all(SoloTeam{}, *work, slot->chain, c.position, {segments.data(), n_ranks}),
            token)
      << "the long road differs: " << c.name;
  return token;
}

const std::vector<std::vector<int64_t>> kCuts = {
    {0, kVocab}, {0, 2512, kVocab}, {0, 0, 16, kVocab}, {0, 1200, 2400, 2416, 3600, kVocab}};

TEST(DeviceChain, DrawsTheHostsToken) {
  std::set<int32_t> tokens;
  std::set<Road> roads;
  const std::vector<SamplingCase> cases = sampling_cases(kVocab);
  for (const SamplingCase& c : cases) {
    const int32_t truth = host_token(c);
    tokens.insert(truth);
    for (const auto& cuts : kCuts) {
      Road road{};
      EXPECT_EQ(chain_token(c, cuts, &road), truth) << c.name << ", ranks: " << cuts.size() - 1;
      roads.insert(road);
    }
  }
  EXPECT_GT(tokens.size(), cases.size() / 4);  // the cases differ
  EXPECT_EQ(roads.size(), 4U);
}

TEST(DeviceChain, TheComparisonRejectsAWrongNumber) {
  int n_wrong = 0;
  for (SamplingCase c : sampling_cases(kVocab)) {
    if (c.params.greedy() || c.params.top_k == 1 || c.name.starts_with("wide")) continue;
    const int32_t truth = host_token(c);
    c.position += 1;  // other noise
    n_wrong += chain_token(c, kCuts[0]) != truth ? 1 : 0;
  }
  EXPECT_GT(n_wrong, 100);
}

TEST(DeviceChain, ArithmeticHasTheKernelsBits) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 200'000; ++i) {
    const auto id = static_cast<int32_t>(random() % 300'000);
    const uint64_t seed = random();
    const uint64_t position = i % 2 == 0 ? random() : random() % 100'000;
    ASSERT_EQ(sampling::noise_of<SoloTeam>(seed, position, id), gumbel_noise(seed, position, id)) << i;
    const float max = std::ldexp(static_cast<float>(random() % 2000) - 1000.0f, -5);
    const float logit = max - std::ldexp(static_cast<float>(random() % 10000), -8);
    ASSERT_EQ(sampling::weight_of<SoloTeam>(logit, max), exp_fixed(logit, max, 1.0f)) << logit << " " << max;
  }
  EXPECT_EQ(sampling::weight_of<SoloTeam>(-HUGE_VALF, 3.0f), 0);
}

TEST(DeviceChain, KeysOrderAsCandidates) {
  const std::vector<float> scores = {-3e38f, -1.0f, -1e-40f, -0.0f, 0.0f, 1e-40f, 2.0f, 3e38f};
  for (const float a : scores) {
    for (const float b : scores) {
      for (const int32_t id : {0, 1, 200'000}) {
        const Candidate x{a, id};
        const Candidate y{b, 1};
        EXPECT_EQ(before(x, y), sampling::key_of(a, id) > sampling::key_of(b, 1)) << a << " " << b;
        EXPECT_EQ(sampling::score_of(sampling::key_of(a, id)), a);
        EXPECT_EQ(sampling::id_of(sampling::key_of(a, id)), id);
      }
    }
  }
}

TEST(DeviceChain, WhatHasNoRoomIsLeftToTheHost) {
  SamplingParams p;
  p.repeat_penalty = 1.1f;
  p.repeat_last_n = -1;
  EXPECT_TRUE(device_chain(p, 2, 4096).has_value());
  EXPECT_FALSE(device_chain(p, 2, 4097).has_value());
  p.repeat_last_n = 64;
  EXPECT_TRUE(device_chain(p, 2, 100'000).has_value());
  p.bias.resize(static_cast<size_t>(sampling::kMostBias));
  EXPECT_TRUE(device_chain(p, 2, 4096).has_value());
  p.bias.resize(p.bias.size() + 1);
  EXPECT_FALSE(device_chain(p, 2, 4096).has_value());
}

}  // namespace
}  // namespace tandem::test
