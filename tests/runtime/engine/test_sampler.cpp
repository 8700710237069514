// The sampler against a plain double-precision reading of the same chain, at every rank count and cut of the
// vocabulary.
#include "runtime/engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <thread>

#include "ops/core/error.h"

namespace tandem::test {
namespace {

constexpr int64_t kVocab = 3000;

std::vector<float> random_logits(uint64_t seed, float spread) {
  std::vector<float> logits(kVocab);
  uint64_t state = seed * 2654435761u + 12345;
  for (float& logit : logits) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    logit = spread * (static_cast<float>(state >> 40) / static_cast<float>(1 << 24) - 0.5f);
  }
  return logits;
}

/// Samples one row with the vocabulary cut at `cuts` among as many ranks; checks that all ranks agree.
int32_t sample_over(const std::vector<float>& logits, const SamplingParams& params,
                    const std::vector<int64_t>& cuts, uint64_t position,
                    const std::vector<int32_t>& history = {}) {
  const auto n_ranks = static_cast<int>(cuts.size()) - 1;
  auto communicators = make_thread_communicators(n_ranks);
  std::vector<int32_t> tokens(static_cast<size_t>(n_ranks));
  int64_t largest = 0;
  for (int r = 0; r < n_ranks; ++r)
    largest = std::max(largest, cuts[static_cast<size_t>(r) + 1] - cuts[static_cast<size_t>(r)]);
  std::vector<std::thread> threads;
  for (int r = 0; r < n_ranks; ++r) {
    threads.emplace_back([&, r] {
      const Range vocab{cuts[static_cast<size_t>(r)], cuts[static_cast<size_t>(r) + 1]};
      const std::vector<float> shard(logits.begin() + vocab.begin, logits.begin() + vocab.end);
      Sampler sampler(*communicators[static_cast<size_t>(r)], vocab, largest);
      const SampleRow row{shard, &params, history, position};
      tokens[static_cast<size_t>(r)] = sampler.sample({&row, 1})[0];
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int32_t token : tokens) EXPECT_EQ(token, tokens[0]);
  return tokens[0];
}

/// The tokens that the chain leaves, and their probabilities.
std::map<int32_t, double> reference_distribution(std::vector<float> logits, const SamplingParams& p) {
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  if (p.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(p.top_k)));
  const auto weight = [&](int32_t id, double t) {
    return std::exp(
        (static_cast<double>(logits[static_cast<size_t>(id)]) - logits[static_cast<size_t>(order[0])]) / t);
  };
  double total = 0.0;
  for (const int32_t id : order) total += weight(id, 1.0);
  double sum = 0.0;
  size_t n = 0;
  while (n < order.size() && (n == 0 || sum < static_cast<double>(p.top_p) * total))
    sum += weight(order[n++], 1.0);
  if (p.top_p < 1.0f) order.resize(n);
  std::erase_if(order,
                [&](int32_t id) { return weight(id, 1.0) < static_cast<double>(p.min_p) * (1.0 - 1e-6); });
  std::map<int32_t, double> out;
  total = 0.0;
  for (const int32_t id : order) total += weight(id, p.temperature);
  for (const int32_t id : order) out[id] = weight(id, p.temperature) / total;
  return out;
}

const std::vector<std::vector<int64_t>> kCuts = {
    {0, kVocab}, {0, 1500, kVocab}, {0, 0, 16, kVocab}, {0, 700, 1400, 2999, kVocab}};

/// Draws many tokens and compares their frequencies with the reference by Pearson's statistic.
void expect_distribution(const std::vector<float>& logits, const SamplingParams& p) {
  const std::map<int32_t, double> expected = reference_distribution(logits, p);
  constexpr int kDraws = 4000;
  std::map<int32_t, int> counts;
  for (int i = 0; i < kDraws; ++i) ++counts[sample_over(logits, p, kCuts[0], static_cast<uint64_t>(i))];
  double statistic = 0.0;
  double rest_expected = 0.0;
  double rest_seen = 0.0;
  int degrees = 0;
  for (const auto& [id, count] : counts) ASSERT_TRUE(expected.contains(id)) << id;
  for (const auto& [id, probability] : expected) {
    const double e = probability * kDraws;
    const double seen = counts.contains(id) ? counts[id] : 0;
    if (e < 5.0) {
      rest_expected += e;
      rest_seen += seen;
      continue;
    }
    statistic += (seen - e) * (seen - e) / e;
    ++degrees;
  }
  if (rest_expected >= 5.0)
    statistic += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
  // The statistic's mean is its degrees of freedom, its deviation sqrt(2·degrees): five of those are never
  // met by chance.
  EXPECT_LT(statistic, degrees + 5.0 * std::sqrt(2.0 * degrees + 1.0));
}

TEST(Sampler, DrawsFromTheChainsDistribution) {
  SamplingParams p;
  p.top_k = 40;
  p.top_p = 1.0f;
  p.min_p = 0.0f;
  p.temperature = 1.0f;
  expect_distribution(random_logits(1, 12.0f), p);
  p.top_p = 0.9f;
  p.min_p = 0.05f;
  p.temperature = 0.7f;
  expect_distribution(random_logits(2, 12.0f), p);
  p.top_k = 0;  // the nucleus over the whole vocabulary
  expect_distribution(random_logits(3, 40.0f), p);
  p.top_p = 1.0f;  // min-p alone
  expect_distribution(random_logits(4, 20.0f), p);
}

TEST(Sampler, EveryCutPicksTheSameToken) {
  std::vector<SamplingParams> all;
  for (const int32_t top_k : {0, 1, 5, 40, 1024, 2000}) {
    for (const float top_p : {1.0f, 0.95f, 0.3f}) {
      for (const float min_p : {0.0f, 0.1f}) {
        SamplingParams p;
        p.top_k = top_k;
        p.top_p = top_p;
        p.min_p = min_p;
        p.temperature = 1.3f;
        p.seed = 99;
        all.push_back(p);
      }
    }
  }
  SamplingParams greedy;
  greedy.temperature = 0.0f;
  all.push_back(greedy);
  std::set<int32_t> seen;
  for (size_t i = 0; i < all.size(); ++i) {
    // A flat row makes the nucleus exceed the candidates, a steep one does not.
    const std::vector<float> logits = random_logits(i, i % 2 == 0 ? 1.0f : 30.0f);
    const int32_t truth = sample_over(logits, all[i], kCuts[0], i);
    seen.insert(truth);
    for (const auto& cuts : kCuts) EXPECT_EQ(sample_over(logits, all[i], cuts, i), truth) << i;
  }
  EXPECT_GT(seen.size(), all.size() / 2);  // the cases differ
}

TEST(Sampler, SeedAndPositionDecide) {
  SamplingParams p;
  p.temperature = 2.0f;
  const std::vector<float> logits = random_logits(5, 2.0f);
  std::set<int32_t> by_position;
  std::set<int32_t> by_seed;
  for (uint64_t i = 0; i < 40; ++i) {
    p.seed = 1;
    by_position.insert(sample_over(logits, p, kCuts[0], i));
    p.seed = i;
    by_seed.insert(sample_over(logits, p, kCuts[0], 0));
  }
  EXPECT_GT(by_position.size(), 10u);
  EXPECT_GT(by_seed.size(), 10u);
}

TEST(Sampler, BiasAndPenalties) {
  std::vector<float> logits(kVocab, 0.0f);
  logits[10] = 5.0f;
  logits[2000] = 4.0f;
  logits[30] = -1.0f;
  SamplingParams p;
  p.temperature = 0.0f;
  const std::vector<int32_t> history = {10, 10, 7};
  for (const auto& cuts : kCuts) {
    SamplingParams q = p;
    EXPECT_EQ(sample_over(logits, q, cuts, 0, history), 10);
    q.repeat_penalty = 2.0f;  // 5 / 2 < 4
    EXPECT_EQ(sample_over(logits, q, cuts, 0, history), 2000);
    q = p;
    q.frequency_penalty = 0.6f;  // 5 − 2 · 0.6 < 4
    EXPECT_EQ(sample_over(logits, q, cuts, 0, history), 2000);
    q.repeat_last_n = 1;  // sees token 7 only
    EXPECT_EQ(sample_over(logits, q, cuts, 0, history), 10);
    q = p;
    q.presence_penalty = 1.1f;
    EXPECT_EQ(sample_over(logits, q, cuts, 0, history), 2000);
    q = p;
    q.bias = {{30, 6.5f}};
    EXPECT_EQ(sample_over(logits, q, cuts, 0, history), 30);
    q.bias = {{10, -std::numeric_limits<float>::infinity()}};
    EXPECT_EQ(sample_over(logits, q, cuts, 0, history), 2000);
  }
}

/// Logprobs of two rows, the first of which asks for `n` of the likeliest, the second for none.
ChoiceLogprobs logprobs_over(const std::vector<float>& logits, int32_t n, int32_t token,
                             const std::vector<int64_t>& cuts) {
  const auto n_ranks = cuts.size() - 1;
  auto communicators = make_thread_communicators(static_cast<int>(n_ranks));
  std::vector<ChoiceLogprobs> found(n_ranks);
  SamplingParams asks;
  asks.n_logprobs = n;
  const SamplingParams silent;
  std::vector<std::thread> threads;
  for (size_t r = 0; r < n_ranks; ++r) {
    threads.emplace_back([&, r] {
      const std::vector<float> shard(logits.begin() + cuts[r], logits.begin() + cuts[r + 1]);
      Sampler sampler(*communicators[r], {cuts[r], cuts[r + 1]}, kVocab);
      const std::vector<SampleRow> rows = {{shard, &asks, {}, 0}, {shard, &silent, {}, 0}};
      const std::vector<int32_t> tokens = {token, token};
      const auto both = sampler.logprobs(rows, tokens);
      EXPECT_TRUE(both[1].top.empty());
      found[r] = both[0];
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const ChoiceLogprobs& other : found) {
    EXPECT_EQ(other.chosen, found[0].chosen);
    EXPECT_EQ(other.top.size(), found[0].top.size());
  }
  return found[0];
}

/// True where `got` is the log of the softmax in double precision, in order.
bool is_log_softmax(const ChoiceLogprobs& got, const std::vector<float>& logits, int32_t token, size_t n) {
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  std::vector<std::pair<double, int32_t>> all;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isfinite(logits[i])) {
      all.emplace_back(std::log(sum) - static_cast<double>(logits[i]), static_cast<int32_t>(i));
    }
  }
  std::sort(all.begin(), all.end());
  bool good =
      std::abs(got.chosen - (static_cast<double>(logits[static_cast<size_t>(token)]) - std::log(sum))) < 2e-6;
  good = good && got.top.size() == std::min(n, all.size());
  for (size_t i = 0; i < got.top.size() && good; ++i) {
    good = got.top[i].token == all[i].second && std::abs(got.top[i].logprob + all[i].first) < 2e-6;
  }
  return good;
}

TEST(Sampler, LogprobsAreTheLogSoftmaxAtEveryCut) {
  for (const float spread : {1.0f, 12.0f, 60.0f}) {
    std::vector<float> logits = random_logits(17, spread);
    logits[40] = logits[2500] = logits[41];  // ties across ranks
    logits[7] = -std::numeric_limits<float>::infinity();
    for (const int32_t n : {0, 1, 5, 20, 700}) {
      for (const int32_t token : {0, 41, 2999}) {
        const ChoiceLogprobs truth = logprobs_over(logits, n, token, kCuts[0]);
        EXPECT_TRUE(is_log_softmax(truth, logits, token, static_cast<size_t>(n))) << spread << " " << n;
        for (const auto& cuts : kCuts) {
          const ChoiceLogprobs cut = logprobs_over(logits, n, token, cuts);
          EXPECT_EQ(cut.chosen, truth.chosen);
          ASSERT_EQ(cut.top.size(), truth.top.size());
          for (size_t i = 0; i < cut.top.size(); ++i) {
            EXPECT_EQ(cut.top[i].token, truth.top[i].token);
            EXPECT_EQ(cut.top[i].logprob, truth.top[i].logprob);
          }
        }
      }
    }
  }
}

TEST(Sampler, TheCheckOfLogprobsRejectsWrongOnes) {
  const std::vector<float> logits = random_logits(18, 12.0f);
  const ChoiceLogprobs truth = logprobs_over(logits, 5, 3, kCuts[0]);
  ASSERT_TRUE(is_log_softmax(truth, logits, 3, 5));
  ChoiceLogprobs wrong = truth;
  wrong.chosen += 1e-5;
  EXPECT_FALSE(is_log_softmax(wrong, logits, 3, 5));
  wrong = truth;
  std::swap(wrong.top[1], wrong.top[2]);
  EXPECT_FALSE(is_log_softmax(wrong, logits, 3, 5));
  wrong = truth;
  wrong.top[4].logprob -= 1e-5;
  EXPECT_FALSE(is_log_softmax(wrong, logits, 3, 5));
  EXPECT_FALSE(is_log_softmax(truth, random_logits(19, 12.0f), 3, 5));
}

TEST(Sampler, RefusesWhenNothingIsLeft) {
  const std::vector<float> logits(kVocab, -std::numeric_limits<float>::infinity());
  const SamplingParams p;
  auto communicators = make_thread_communicators(1);
  Sampler sampler(*communicators[0], {0, kVocab}, kVocab);
  const SampleRow row{logits, &p, {}, 0};
  EXPECT_THROW(sampler.sample({&row, 1}), Error);
}

}  // namespace
}  // namespace tandem::test
