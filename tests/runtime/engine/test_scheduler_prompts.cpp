// A prompt's tokens and generated ones: plans tell them apart, and pages of prompts alone may be shared.
#include <gtest/gtest.h>

#include "tests/runtime/engine/scheduler_bench.h"

namespace tandem::test {
namespace {

TEST(Scheduler, PlansTellPromptsFromWhatIsGenerated) {
  using PromptTokens = std::vector<int64_t>;
  Bench bench(small_limits());
  bench.ask(70, 3, 1);
  for (const PromptTokens& tokens : {PromptTokens{32}, PromptTokens{32}, PromptTokens{6}, PromptTokens{0}}) {
    bench.step();
    EXPECT_EQ(bench.prompt_tokens(), tokens);
  }
  bench.run();
  EvaluationRequest evaluation;
  evaluation.tokens = bench.text(40, 2);
  evaluation.first_position = 35;
  evaluation.on_logits = [](int64_t, std::span<const float>) {};
  bench.scheduler().submit(std::move(evaluation));
  for (const PromptTokens& tokens : {PromptTokens{32}, PromptTokens{8}}) {
    bench.step();
    EXPECT_EQ(bench.prompt_tokens(), tokens);
  }
}

TEST(Scheduler, WhatWasGeneratedIsNoPromptAfterAPreemption) {
  SchedulerLimits limits = small_limits();
  limits.n_pages = 10;
  limits.share_prefixes = false;
  Bench bench(limits);
  bench.ask(10, 25, 1);
  bench.ask(10, 20, 2);
  while (bench.scheduler().stats().n_active < 2) bench.step();
  while (bench.scheduler().stats().n_active == 2) bench.step();  // until the younger is preempted
  while (bench.world().last_plan().admissions.empty()) bench.step();
  const PlanSequence again = bench.world().last_plan().sequences.back();
  EXPECT_EQ(again.first_position, 0);
  EXPECT_GT(again.tokens.size(), 11u);
  EXPECT_EQ(again.n_prompt, 10);
  bench.run();
}

SchedulerLimits prompts_alone() {
  SchedulerLimits limits = small_limits();
  limits.share_generated = false;
  return limits;
}

std::vector<int32_t> joined(std::vector<int32_t> first, const std::vector<int32_t>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

TEST(Scheduler, PagesOfPromptsAloneAreShared) {
  Bench bench(prompts_alone());
  const auto first = bench.ask(10, 15, 1);
  bench.run();
  EXPECT_EQ(bench.scheduler().stats().n_pages_findable, 2);
  const auto longer = joined(bench.text(10, 1), first->tokens);
  const auto second = bench.ask_text(longer, 15);
  bench.run();
  EXPECT_EQ(second->n_cached, 8);  // the third page has an end of the prompt and a beginning of the answer
  EXPECT_EQ(bench.scheduler().stats().n_pages_findable, 6);
  const auto third = bench.ask_text(joined(longer, second->tokens), 1);
  bench.run();
  EXPECT_EQ(third->n_cached, 24);  // of the second's prompt
}

TEST(Scheduler, NobodyWaitsForAPageThatIsNotShared) {
  Bench bench(prompts_alone());
  const auto alone = bench.ask(10, 20, 1);
  bench.run();
  const auto first = bench.ask(10, 20, 1);
  for (int i = 0; i < 4; ++i) bench.step();
  ASSERT_EQ(first->tokens.size(), 4u);
  // The first one's next page is this one's, too, but for how it is computed.
  const auto second = bench.ask_text(joined(bench.text(10, 1), alone->tokens), 1);
  bench.step();
  EXPECT_EQ(second->n_cached, 8);
  bench.run();
}

TEST(Scheduler, APreemptedOneTakesNoAnswerFromAnothersPrompt) {
  SchedulerLimits limits = prompts_alone();
  limits.n_pages = 64;
  Bench truth(limits);
  const auto answer = truth.ask(10, 20, 2);
  truth.run();
  limits.n_pages = 17;
  Bench bench(limits);
  const auto reader = bench.ask_text(joined(bench.text(10, 2), answer->tokens), 34);
  const auto younger = bench.ask(10, 20, 2);
  while (bench.scheduler().stats().n_active < 2) bench.step();
  EXPECT_EQ(younger->n_cached, 8);
  while (bench.scheduler().stats().n_active == 2) bench.step();
  EXPECT_GT(younger->tokens.size(), 10u);
  const int64_t n_spared = bench.scheduler().stats().n_spared_tokens;
  bench.run();
  EXPECT_EQ(bench.scheduler().stats().n_spared_tokens, n_spared + 8);
  EXPECT_EQ(younger->tokens, answer->tokens);
  EXPECT_EQ(reader->tokens.size(), 34u);
}

TEST(Scheduler, AnAnswerThatASessionKeptIsNotSharedAsItsNextPrompt) {
  Bench bench(prompts_alone());
  const auto first = bench.ask(10, 15, 1, 7);
  bench.run();
  const auto longer = joined(joined(bench.text(10, 1), first->tokens), bench.text(12, 2));
  const auto second = bench.ask_text(longer, 1, 7);
  bench.run();
  EXPECT_EQ(second->n_cached, 24);
  const auto other = bench.ask_text(longer, 1);
  bench.run();
  EXPECT_EQ(other->n_cached, 8);
  // A session that goes on from its prompt is one of prompts again.
  const auto turned = joined(bench.text(10, 1), bench.text(12, 3));
  const auto third = bench.ask_text(turned, 1, 7);
  bench.run();
  EXPECT_EQ(third->n_cached, 10);
  const auto same = bench.ask_text(turned, 1);
  bench.run();
  EXPECT_EQ(same->n_cached, 20);
}

}  // namespace
}  // namespace tandem::test
