// Sampling helpers against ops/ref, on every instruction set and however the vocabulary is cut.
#include "ops/cpu/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "ops/ref/sampling.h"
#include "tests/ops/cpu/compare.h"

namespace tandem {
namespace {

using test::Random;

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr uint64_t kSeed = 0x0123456789abcdefU;

/// Logits on a coarse grid, so that equal ones are common; some forbidden.
std::vector<float> logits_with_ties(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> x = random.normals(n, 3.0F);
  for (float& a : x) a = std::round(a * 2.0F) / 2.0F;
  for (size_t i = 0; i < n; i += 17) x[i] = kNone;
  return x;
}

TEST(FindBest, LowestIdAmongEqualsOnAnyCut) {
  for (const size_t n : {1U, 15U, 16U, 17U, 1000U, 5003U}) {
    const std::vector<float> x = logits_with_ties(n, n);
    const std::vector<int32_t> truth = ref::top_k(x, 1);
    for (const Isa isa : supported_isas()) {
      const Candidate whole = find_best(x.data(), static_cast<int64_t>(n), 0, isa);
      if (truth.empty()) {
        EXPECT_EQ(whole, (Candidate{kNone, -1}));
        continue;
      }
      EXPECT_EQ(whole, (Candidate{x[static_cast<size_t>(truth[0])], truth[0]}));
      const size_t cut = n / 3;
      const Candidate a = find_best(x.data(), static_cast<int64_t>(cut), 0, isa);
      const Candidate b =
          find_best(x.data() + cut, static_cast<int64_t>(n - cut), static_cast<int32_t>(cut), isa);
      EXPECT_EQ(whole, before(a, b) ? a : b);
    }
  }
}

TEST(FindBest, NothingToFind) {
  const std::vector<float> x(40, kNone);
  for (const Isa isa : supported_isas()) {
    EXPECT_EQ(find_best(x.data(), 40, 0, isa), (Candidate{kNone, -1}));
    EXPECT_EQ(find_best(x.data(), 0, 0, isa), (Candidate{kNone, -1}));
  }
}

TEST(SumExp, IsExactUnderAnyCutAndNearTheTruth) {
  const std::vector<float> x = logits_with_ties(5003, 3);
  const float max = *std::max_element(x.begin(), x.end());
  const double truth = ref::sum_exp(x, max, 1.0 / 0.7F) * 0x1p40;
  const float inverse = 1.0F / 0.7F;
  for (const Isa isa : supported_isas()) {
    const int64_t whole = sum_exp_fixed(x.data(), 5003, max, inverse, isa);
    EXPECT_EQ(whole, sum_exp_fixed(x.data(), 5003, max, inverse, Isa::generic));
    EXPECT_NEAR(static_cast<double>(whole) / truth, 1.0, 1e-6);
    int64_t pieces = 0;
    for (int64_t i = 0; i < 5003; i += 77) {
      pieces += sum_exp_fixed(x.data() + i, std::min<int64_t>(77, 5003 - i), max, inverse, isa);
    }
    EXPECT_EQ(pieces, whole);
    int64_t singles = 0;
    for (const float a : x) singles += exp_fixed(a, max, inverse, isa);
    EXPECT_EQ(singles, whole);
    EXPECT_EQ(exp_fixed(max, max, inverse, isa), int64_t{1} << kExpSumBits);
    EXPECT_EQ(exp_fixed(kNone, max, inverse, isa), 0);
  }
}

TEST(TopK, MatchesTheTruth) {
  for (const size_t n : {1U, 33U, 1000U, 20011U}) {
    for (const int k : {0, 1, 2, 40, 1024}) {
      for (const bool ascending : {false, true}) {
        std::vector<float> x = logits_with_ties(n, 5 * n);
        if (ascending) std::sort(x.begin(), x.end());
        const std::vector<int32_t> truth = ref::top_k(x, k);
        for (const Isa isa : supported_isas()) {
          std::vector<Candidate> found(static_cast<size_t>(k));
          const int count = find_top_k(x.data(), static_cast<int64_t>(n), 1000, k, found.data(), isa);
          ASSERT_EQ(static_cast<size_t>(count), truth.size());
          for (size_t i = 0; i < truth.size(); ++i) {
            ASSERT_EQ(found[i], (Candidate{x[static_cast<size_t>(truth[i])], 1000 + truth[i]})) << i;
          }
        }
      }
    }
  }
}

// The known answers that come with the generator's paper (Random123, kat_vectors).
TEST(Philox, KnownAnswers) {
  const auto expect = [](PhiloxWords counter, uint32_t k0, uint32_t k1, PhiloxWords answer) {
    const PhiloxWords words = philox4x32(counter, k0, k1);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(words.w[i], answer.w[i]) << i;
  };
  expect({{0, 0, 0, 0}}, 0, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  expect({{~0U, ~0U, ~0U, ~0U}}, ~0U, ~0U, {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  expect({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0,
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
}

TEST(Gumbel, IsTheDocumentedFunctionOfThePhiloxWord) {
  for (const uint64_t position : {uint64_t{0}, uint64_t{7}, uint64_t{1} << 40}) {
    for (int32_t id = 0; id < 3000; ++id) {
      const PhiloxWords words = philox4x32({{static_cast<uint32_t>(id) / 4, static_cast<uint32_t>(position),
                                             static_cast<uint32_t>(position >> 32), 0}},
                                           static_cast<uint32_t>(kSeed), static_cast<uint32_t>(kSeed >> 32));
      const double truth = ref::gumbel(words.w[id % 4]);
      const float noise = gumbel_noise(kSeed, position, id);
      ASSERT_NEAR(noise, truth, 2e-6 * (1.0 + std::abs(truth))) << id;
      for (const Isa isa : supported_isas()) ASSERT_EQ(noise, gumbel_noise(kSeed, position, id, isa)) << id;
    }
  }
}

TEST(Gumbel, HasTheDistributionsMeanAndSpread) {
  constexpr int kCount = 100000;
  double sum = 0.0;
  double squares = 0.0;
  for (int32_t id = 0; id < kCount; ++id) {
    const double g = gumbel_noise(kSeed, 3, id);
    sum += g;
    squares += g * g;
  }
  const double mean = sum / kCount;
  EXPECT_NEAR(mean, 0.5772, 0.015);                           // Euler's constant; 3.7 standard errors
  EXPECT_NEAR(squares / kCount - mean * mean, 1.6449, 0.05);  // pi²/6
}

TEST(Draw, IsTheBestOfLogitsPlusNoiseOnAnyCut) {
  const std::vector<float> x = logits_with_ties(1003, 21);
  for (uint64_t position = 0; position < 20; ++position) {
    const GumbelArgs args{1.0F / 0.8F, position % 2 == 0 ? kNone : 1.0F, kSeed, position};
    Candidate truth{kNone, -1};
    std::vector<Candidate> list;
    for (int32_t id = 0; id < 1003; ++id) {
      const float logit = x[static_cast<size_t>(id)];
      if (logit < args.min_logit || logit == kNone) continue;
      const Candidate c{std::fma(logit, args.inverse_temperature, gumbel_noise(kSeed, position, id)), id};
      if (truth.id < 0 || before(c, truth)) truth = c;
      list.insert(list.begin(), {logit, id});
    }
    for (const Isa isa : supported_isas()) {
      EXPECT_EQ(draw(x.data(), 1003, 0, args, isa), truth);
      EXPECT_EQ(draw(list, args, isa), truth);
      for (const int32_t cut : {1, 2, 3, 500}) {
        const Candidate a = draw(x.data(), cut, 0, args, isa);
        const Candidate b = draw(x.data() + cut, 1003 - cut, cut, args, isa);
        EXPECT_EQ(before(a, b) ? a : b, truth) << cut;
      }
    }
  }
}

TEST(Draw, FollowsTheSoftmax) {
  const std::vector<float> x = {0.0F, 1.0F, 2.0F, kNone, -1.0F};
  const double normaliser = ref::sum_exp(x, 0.0, 1.0);
  std::map<int32_t, int> counts;
  constexpr int kDraws = 20000;
  for (uint64_t position = 0; position < kDraws; ++position) {
    ++counts[draw(x.data(), 5, 0, {1.0F, kNone, kSeed, position}).id];
  }
  double chi_squared = 0.0;
  for (int32_t id = 0; id < 5; ++id) {
    const double expected = kDraws * std::exp(static_cast<double>(x[static_cast<size_t>(id)])) / normaliser;
    if (expected > 0.0) chi_squared += std::pow(counts[id] - expected, 2) / expected;
  }
  EXPECT_EQ(counts.count(3), 0U);
  EXPECT_LT(chi_squared, 16.3);  // 3 degrees of freedom, p = 0.001; the seed is fixed
  EXPECT_GT(chi_squared, 0.0);
}

}  // namespace
}  // namespace tandem
