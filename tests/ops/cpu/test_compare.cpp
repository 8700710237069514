// The comparers reject wrong answers.
#include <gtest/gtest.h>

#include "tests/ops/cpu/compare.h"

namespace tandem::test {
namespace {

TEST(Compare, NmseSeesOnePerturbedElement) {
  Random random(1);
  std::vector<float> x = random.normals(1000);
  const std::vector<double> truth = as_doubles(x);
  EXPECT_EQ(nmse(x, truth), 0.0);
  x[500] += 1e-3F;
  EXPECT_GT(nmse(x, truth), 1e-10);
  EXPECT_LT(nmse(x, truth), 1e-8);
}

TEST(Compare, NmseRejectsWhatIsNotComparable) {
  const std::vector<double> truth = {1.0, 2.0};
  EXPECT_TRUE(std::isinf(nmse({1.0F}, truth)));
  EXPECT_TRUE(std::isinf(nmse({1.0F, std::nanf("")}, truth)));
  EXPECT_TRUE(std::isinf(nmse({0.0F, 0.0F}, {0.0, 0.0})));
}

TEST(Compare, BitsSeeTheSignOfZeroAndTheLastPlace) {
  const std::vector<float> a = {0.0F, 1.0F};
  EXPECT_TRUE(same_bits(a, a));
  EXPECT_FALSE(same_bits(a, std::vector<float>{-0.0F, 1.0F}));
  EXPECT_FALSE(same_bits(a, std::vector<float>{0.0F, std::nextafter(1.0F, 2.0F)}));
  EXPECT_FALSE(same_bits(a, std::vector<float>{0.0F}));
}

}  // namespace
}  // namespace tandem::test
