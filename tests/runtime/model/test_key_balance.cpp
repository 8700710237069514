// Norms of queries and keys, balanced: every score stays what it is, pairs that turn keep one factor, and
// both norms end up alike.
#include "runtime/model/key_balance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/tiny_model.h"

namespace tandem::test {
namespace {

constexpr size_t kHead = 20;

struct Norms {
  std::vector<float> q = std::vector<float>(kHead);
  std::vector<float> k = std::vector<float>(kHead);
};

/// From 2^-20 to 2^20.
Norms unlike(uint64_t seed) {
  TestRandom random(seed);
  Norms norms;
  for (std::vector<float>* norm : {&norms.q, &norms.k}) {
    for (float& x : *norm) x = random.normal() * std::exp2(40 * static_cast<float>(random.uniform()) - 20);
  }
  return norms;
}

/// Elements that must have the same factor.
std::vector<std::vector<size_t>> together(RopeStyle style, size_t n_rot) {
  std::vector<std::vector<size_t>> out;
  for (size_t p = 0; p < n_rot / 2; ++p) {
    if (style == RopeStyle::adjacent) out.push_back({2 * p, 2 * p + 1});
    if (style == RopeStyle::halves) out.push_back({p, p + n_rot / 2});
  }
  for (size_t i = n_rot; i < kHead; ++i) out.push_back({i});
  return out;
}

TEST(KeyBalance, ScoresStayAndSizesMeet) {
  for (const RopeStyle style : {RopeStyle::adjacent, RopeStyle::halves}) {
    for (const size_t n_rot : {size_t{20}, size_t{12}, size_t{0}}) {
      for (uint64_t seed = 0; seed < 50; ++seed) {
        const Norms before = unlike(seed);
        Norms after = before;
        balance_keys(after.q, after.k, style, static_cast<int64_t>(n_rot));
        for (const std::vector<size_t>& elements : together(style, n_rot)) {
          float q = 0;
          float k = 0;
          const float factor = after.q[elements[0]] / before.q[elements[0]];
          int exponent = 0;
          EXPECT_EQ(std::frexp(factor, &exponent), 0.5f);
          for (const size_t i : elements) {
            EXPECT_EQ(after.q[i], before.q[i] * factor);
            EXPECT_EQ(after.k[i], before.k[i] / factor);
            q = std::hypot(q, after.q[i]);
            k = std::hypot(k, after.k[i]);
          }
          EXPECT_LE(std::fabs(std::log2(q / k)), 1.0001f);
        }
      }
    }
  }
}

TEST(KeyBalance, WhatANormMakesZeroStays) {
  Norms before = unlike(1);
  before.q[0] = before.q[10] = 0;
  before.k[1] = before.k[11] = 0;
  before.k[2] = 0;  // but not its partner
  Norms after = before;
  balance_keys(after.q, after.k, RopeStyle::halves, kHead);
  for (const size_t i : {0, 10, 1, 11}) {
    EXPECT_EQ(after.q[i], before.q[i]);
    EXPECT_EQ(after.k[i], before.k[i]);
  }
  EXPECT_EQ(after.k[2], 0.0f);
  EXPECT_NE(after.q[2], before.q[2]);
  EXPECT_EQ(after.q[2] / before.q[2], after.q[12] / before.q[12]);
}

}  // namespace
}  // namespace tandem::test
