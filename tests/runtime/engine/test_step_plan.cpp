// A plan survives its journey byte for byte.
#include "runtime/engine/step_plan.h"

#include <gtest/gtest.h>

namespace tandem::test {
namespace {

StepPlan full_plan() {
  StepPlan plan;
  plan.step = 77;
  plan.n_collect = 2;
  PlanAdmission admission;
  admission.slot = 3;
  admission.sampling.temperature = 0.25f;
  admission.sampling.seed = 0xfedcba9876543210u;
  admission.sampling.bias = {{5, -1.5f}, {9, 2.0f}};
  admission.history = {1, 2, 3};
  plan.admissions = {admission};
  plan.sequences = {{3, 3, {4, 5}, {0, 8}, true, -1, 1}, {1, 0, {9}, {2}, false, 0}};
  return plan;
}

TEST(StepPlan, SurvivesItsJourney) {
  const std::vector<std::byte> bytes = full_plan().serialize();
  const StepPlan plan = StepPlan::deserialize(bytes);
  EXPECT_EQ(plan.serialize(), bytes);
  EXPECT_EQ(plan.step, 77u);
  EXPECT_EQ(plan.n_collect, 2);
  EXPECT_EQ(plan.n_tokens(), 3);
  EXPECT_EQ(plan.admissions[0].sampling.seed, 0xfedcba9876543210u);
  EXPECT_EQ(plan.admissions[0].sampling.bias[1].token, 9);
  EXPECT_EQ(plan.sequences[0].pages, (std::vector<int32_t>{0, 8}));
  EXPECT_TRUE(plan.sequences[0].sample);
  EXPECT_EQ(plan.sequences[0].n_prompt, 1);
  EXPECT_EQ(plan.sequences[1].logits_from, 0);
  EXPECT_EQ(plan.sequences[1].n_prompt, 0);
}

TEST(StepPlanDeathTest, ACutPlanIsABug) {
  std::vector<std::byte> bytes = full_plan().serialize();
  bytes.pop_back();
  EXPECT_DEATH(StepPlan::deserialize(bytes), "cut short");
  bytes = full_plan().serialize();
  bytes.push_back(std::byte{0});
  EXPECT_DEATH(StepPlan::deserialize(bytes), "left over");
}

}  // namespace
}  // namespace tandem::test
