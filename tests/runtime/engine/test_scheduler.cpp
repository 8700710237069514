// The scheduler's rules one by one, on small schedules that can be followed by hand.
#include <gtest/gtest.h>

#include <algorithm>

#include "ops/core/error.h"
#include "tests/runtime/engine/scheduler_bench.h"

namespace tandem::test {
namespace {

using Parts = std::vector<size_t>;

TEST(Scheduler, APromptInPartsThenOneTokenAStep) {
  Bench bench(small_limits());
  const auto answer = bench.ask(70, 3, 1);
  for (const Parts& parts : {Parts{32}, Parts{32}, Parts{6}, Parts{1}, Parts{1}}) {
    ASSERT_TRUE(bench.step());
    EXPECT_EQ(bench.parts(), parts);
  }
  EXPECT_FALSE(bench.step());
  EXPECT_EQ(answer->tokens.size(), 3u);
  EXPECT_EQ(answer->reason, FinishReason::length);
  EXPECT_EQ(bench.scheduler().stats().n_pages_used, 0);
}

TEST(Scheduler, ALongPromptHoldsUpNeitherDecodesNorShortPrompts) {
  SchedulerLimits limits = small_limits();
  limits.n_pages = 100;
  limits.context_tokens = 320;
  Bench bench(limits);
  const auto first = bench.ask(5, 30, 1);
  bench.step();
  const auto endless = bench.ask(300, 1, 2);
  bench.step();
  EXPECT_EQ(bench.parts(), (Parts{1, 32}));
  const auto brief = bench.ask(10, 4, 3);
  bench.step();
  EXPECT_EQ(bench.parts(), (Parts{1, 22, 10}));
  EXPECT_EQ(brief->tokens.size(), 1u);
  bench.run();
  for (const auto& answer : {first, brief}) {
    for (size_t i = 1; i < answer->steps.size(); ++i) EXPECT_EQ(answer->steps[i], answer->steps[i - 1] + 1);
  }
  EXPECT_LE(endless->steps[0], 12u);
  EXPECT_EQ(endless->tokens.size(), 1u);
}

TEST(Scheduler, TheOldestPromptGetsHalf) {
  SchedulerLimits limits = small_limits();
  limits.n_pages = 100;
  Bench bench(limits);
  bench.ask(100, 1, 1);
  bench.ask(90, 1, 2);
  bench.ask(80, 1, 3);
  bench.step();
  EXPECT_EQ(bench.parts(), (Parts{16, 16}));  // the third has less left than the second
  EXPECT_EQ(bench.world().last_plan().sequences[1].slot, bench.world().last_plan().admissions[1].slot);
  bench.run();
}

TEST(Scheduler, NoCrumbsOfPrompts) {
  SchedulerLimits limits = small_limits();
  limits.n_pages = 100;
  limits.prompt_tokens = 20;
  Bench bench(limits);
  bench.ask(100, 1, 1);
  bench.ask(90, 1, 2);
  bench.step();
  EXPECT_EQ(bench.parts(), Parts{20});  // 10 tokens of the second would be a crumb
  bench.run();
}

TEST(Scheduler, DecodesLeaveRoomForPromptsAndTakeTurns) {
  SchedulerLimits limits = small_limits();
  limits.step_tokens = 8;
  limits.prompt_tokens = 8;
  limits.n_pages = 200;
  Bench bench(limits);
  std::vector<std::shared_ptr<Bench::Answer>> answers;
  for (uint64_t i = 0; i < 7; ++i) answers.push_back(bench.ask(1, 60, 10 + i));
  for (int i = 0; i < 5; ++i) bench.step();
  const auto late = bench.ask(20, 1, 3);
  for (int i = 0; i < 11; ++i) bench.step();
  EXPECT_EQ(late->tokens.size(), 1u);  // two tokens a step
  for (const auto& answer : answers) EXPECT_GE(answer->tokens.size(), 12u);
  bench.run();
}

TEST(Scheduler, TheYoungestGivesItsPagesBackAndLosesNothing) {
  SchedulerLimits limits = small_limits();
  limits.n_pages = 10;
  limits.share_prefixes = false;
  for (const int lookahead : {0, 1}) {
    limits.lookahead = lookahead;
    Bench bench(limits);
    const auto older = bench.ask(10, 25, 1);
    const auto younger = bench.ask(10, 20, 2);
    bench.run();
    EXPECT_EQ(older->tokens.size(), 25u);
    EXPECT_EQ(younger->tokens.size(), 20u);
    EXPECT_EQ(bench.scheduler().stats().n_preemptions, 1);
    for (size_t i = 1; i < older->steps.size(); ++i) {  // at most the wait for the pages that come back
      EXPECT_LE(older->steps[i], older->steps[i - 1] + 1 + static_cast<uint64_t>(lookahead)) << i;
    }
    EXPECT_GT(younger->steps.back(), older->steps.back());
    Bench alone(limits);
    const auto truth = alone.ask(10, 20, 2);
    alone.run();
    EXPECT_EQ(younger->tokens, truth->tokens);
  }
}

TEST(Scheduler, SamplesOfOnePromptComputeItOnce) {
  Bench bench(small_limits());
  std::vector<std::shared_ptr<Bench::Answer>> answers;
  for (int i = 0; i < 4; ++i) answers.push_back(bench.ask(30, 5, 1));
  bench.step();
  EXPECT_EQ(bench.parts(), Parts{30});
  bench.step();
  EXPECT_EQ(bench.parts(), (Parts{1, 2, 2, 2}));
  // 7 full pages are shared, and each has one of its own.
  EXPECT_EQ(bench.scheduler().stats().n_pages_used, 7 + 4);
  bench.run();
  for (int i = 1; i < 4; ++i) {
    EXPECT_EQ(answers[static_cast<size_t>(i)]->n_cached, 28);
    EXPECT_EQ(answers[static_cast<size_t>(i)]->tokens, answers[0]->tokens);
  }
  EXPECT_EQ(bench.scheduler().stats().n_pages_used, 0);
  const auto again = bench.ask(30, 5, 1);
  bench.run();
  EXPECT_EQ(again->n_cached, 28);
  EXPECT_EQ(again->tokens, answers[0]->tokens);
}

TEST(Scheduler, AnotherPromptPassesThoseThatWaitForAPrefix) {
  SchedulerLimits limits = small_limits();
  Bench bench(limits);
  bench.ask(60, 1, 1);
  const auto same = bench.ask(60, 1, 1);
  const auto other = bench.ask(9, 1, 2);
  bench.step();
  EXPECT_EQ(bench.parts(), (Parts{23, 9}));
  EXPECT_EQ(other->tokens.size(), 1u);
  bench.run();
  EXPECT_GE(same->n_cached, 20);
}

TEST(Scheduler, TheLongestUnusedPrefixIsForgottenFirst) {
  SchedulerLimits limits = small_limits();
  limits.n_pages = 12;
  limits.context_tokens = 40;
  Bench bench(limits);
  for (const uint64_t seed : {1, 2, 1, 3}) {  // 4 pages each, of which 3 are full
    bench.ask(14, 2, seed);
    bench.run();
  }
  // 3 of 12 pages are free: a fourth prefix takes those and one of the second's.
  bench.ask(14, 2, 4);
  bench.run();
  const auto first = bench.ask(14, 2, 1);
  bench.run();
  EXPECT_EQ(first->n_cached, 12);
  const auto second = bench.ask(14, 2, 2);
  bench.run();
  EXPECT_EQ(second->n_cached, 8);  // its last page is gone
}

TEST(Scheduler, WithoutSharingNothingIsFound) {
  SchedulerLimits limits = small_limits();
  limits.share_prefixes = false;
  Bench bench(limits);
  bench.ask(30, 5, 1);
  const auto second = bench.ask(30, 5, 1);
  bench.run();
  EXPECT_EQ(second->n_cached, 0);
  EXPECT_EQ(bench.scheduler().stats().n_pages_findable, 0);
  EXPECT_EQ(bench.scheduler().stats().n_spared_tokens, 0);
}

TEST(Scheduler, ASessionGoesOnWhereItEnded) {
  for (const bool share : {false, true}) {
    SchedulerLimits limits = small_limits();
    limits.share_prefixes = share;
    Bench bench(limits);
    const auto first = bench.ask(10, 5, 1, 7);
    bench.run();
    std::vector<int32_t> more = bench.text(10, 1);
    more.insert(more.end(), first->tokens.begin(), first->tokens.end());
    more.push_back(3);
    const auto second = bench.ask_text(more, 5, 7);
    bench.run();
    EXPECT_EQ(second->n_cached, 14);  // the last new token was never computed
    // It turns out otherwise in the middle: a page that others may find isn't written again.
    more.resize(11);
    more.push_back(4);
    more.push_back(4);
    const auto third = bench.ask_text(more, 5, 7);
    bench.run();
    EXPECT_EQ(third->n_cached, share ? 8 : 11);
    Bench alone(limits);
    const auto truth = alone.ask_text(more, 5);
    alone.run();
    EXPECT_EQ(third->tokens, truth->tokens);
  }
}

TEST(Scheduler, KeptSessionsAreGivenUpForOthers) {
  SchedulerLimits limits = small_limits();
  limits.n_pages = 8;
  limits.context_tokens = 32;
  Bench bench(limits);
  bench.ask(10, 2, 1, 1);
  bench.ask(10, 2, 2, 2);
  bench.run();
  EXPECT_EQ(bench.scheduler().stats().n_pages_used, 6);
  const auto big = bench.ask(30, 1, 3);
  bench.run();
  EXPECT_EQ(big->tokens.size(), 1u);
  EXPECT_EQ(bench.scheduler().stats().n_pages_used, 0);
}

TEST(Scheduler, AnEndIsSeenLateAndNothingBehindItIsHandedOut) {
  SchedulerLimits limits = small_limits();
  limits.lookahead = 1;
  Bench bench(limits);
  GenerationRequest request;
  request.prompt = {1, 2, 3};
  request.sampling.seed = Facts{3}.seed();
  std::vector<int32_t> tokens;
  std::optional<FinishReason> reason;
  request.on_token = [&](int32_t token) {
    tokens.push_back(token);
    return tokens.size() < 4;
  };
  request.on_finish = [&](FinishReason why) { reason = why; };
  bench.scheduler().submit(std::move(request));
  bench.step();
  EXPECT_TRUE(tokens.empty());  // the first step's result isn't asked for yet
  bench.step();
  EXPECT_EQ(tokens.size(), 1u);
  EXPECT_EQ(bench.world().last_plan().sequences[0].tokens, std::vector<int32_t>{kLatestToken});
  bench.step();
  bench.step();
  bench.step();
  EXPECT_EQ(reason, FinishReason::stopped);
  EXPECT_TRUE(bench.scheduler().busy());  // a step is in flight
  EXPECT_TRUE(bench.step());
  EXPECT_TRUE(bench.world().last_plan().sequences.empty());
  EXPECT_FALSE(bench.scheduler().busy());
  EXPECT_EQ(tokens.size(), 4u);
}

TEST(Scheduler, NoStepIsWastedWhereTheLengthIsKnown) {
  SchedulerLimits limits = small_limits();
  limits.lookahead = 2;
  Bench bench(limits);
  bench.ask(5, 4, 1);
  bench.run();
  EXPECT_EQ(bench.world().n_launched(), 4u);
}

TEST(Scheduler, CancellingAnswersOnce) {
  Bench bench(small_limits());
  const auto running = bench.ask(5, 50, 1);
  const auto waiting = bench.ask(5, 50, 2);
  EXPECT_TRUE(bench.scheduler().cancel(waiting->id));
  EXPECT_EQ(waiting->reason, FinishReason::stopped);
  EXPECT_FALSE(bench.scheduler().cancel(waiting->id));
  bench.step();
  bench.step();
  bench.scheduler().cancel_all();
  EXPECT_EQ(running->reason, FinishReason::stopped);
  EXPECT_EQ(running->tokens.size(), 2u);
  EXPECT_FALSE(bench.step());
  EXPECT_EQ(bench.scheduler().stats().n_pages_used, 0);
  EXPECT_FALSE(bench.scheduler().cancel(12345));
}

TEST(Scheduler, WhatCanNeverBeDoneIsRefusedAtOnce) {
  SchedulerLimits limits = small_limits();
  limits.n_pages = 4;
  limits.context_tokens = 20;
  limits.max_waiting = 2;
  Bench bench(limits);
  const auto code_of = [&](int64_t n_prompt, int64_t max_new) {
    try {
      bench.ask(n_prompt, max_new, 1);
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::ok;
  };
  EXPECT_EQ(code_of(0, 1), ExitCode::usage);
  EXPECT_EQ(code_of(21, 1), ExitCode::usage);
  EXPECT_EQ(code_of(17, 1), ExitCode::unavailable);  // 5 pages of 4
  EXPECT_EQ(code_of(10, -1), ExitCode::unavailable);
  EXPECT_EQ(code_of(10, 8), ExitCode::unavailable);
  EXPECT_EQ(code_of(10, 7), ExitCode::ok);  // the last new token needs no place
  EXPECT_EQ(code_of(16, 1), ExitCode::ok);
  EXPECT_EQ(code_of(5, 1), ExitCode::unavailable);  // too many wait
  EXPECT_THROW(bench.ask_text({1, 1000}, 1), Error);
  EXPECT_THROW(bench.ask_text({-1}, 1), Error);
  bench.run();
  EXPECT_EQ(code_of(5, 1), ExitCode::ok);
  bench.run();
}

TEST(Scheduler, CallbacksMaySubmitAndCancel) {
  Bench bench(small_limits());
  const auto victim = bench.ask(6, 50, 2);
  std::shared_ptr<Bench::Answer> next;
  GenerationRequest request;
  request.prompt = {1, 2};
  request.sampling.seed = Facts{2}.seed();
  request.max_new_tokens = 3;
  request.on_start = [&](int64_t) { bench.scheduler().cancel(victim->id); };
  request.on_finish = [&](FinishReason) { next = bench.ask(4, 2, 3); };
  bench.scheduler().submit(std::move(request));
  bench.run();
  EXPECT_EQ(victim->reason, FinishReason::stopped);
  ASSERT_TRUE(next);
  EXPECT_EQ(next->tokens.size(), 2u);
}

TEST(PagePool, DealsAPageAgainWhenTheStepsBeforeItsReleaseAreDone) {
  PagePool pool(1, 2);
  const int32_t page = pool.take();
  EXPECT_EQ(page, 0);
  EXPECT_EQ(pool.take(), -1);
  pool.note_launch();
  pool.release(page);
  EXPECT_EQ(pool.n_available(), 0);
  EXPECT_EQ(pool.n_unsettled(), 1);
  EXPECT_EQ(pool.take(), -1);
  pool.note_collect();
  EXPECT_EQ(pool.take(), page);
  pool.check();
}

TEST(PagePool, FindsWholePrefixesOnly) {
  PagePool pool(4, 2);
  const int32_t a = pool.take();
  const int32_t b = pool.take();
  const int32_t c = pool.take();
  const std::vector<int32_t> first = {1, 2};
  const std::vector<int32_t> second = {3, 4};
  EXPECT_TRUE(pool.publish(a, kNoPrefix, first));
  EXPECT_TRUE(pool.publish(b, pool.prefix(a), second));
  EXPECT_FALSE(pool.publish(c, kNoPrefix, first));  // a has it
  EXPECT_EQ(pool.find(kNoPrefix, first), a);
  EXPECT_EQ(pool.find(kNoPrefix, second), -1);  // not behind nothing
  EXPECT_EQ(pool.find(pool.prefix(a), second), b);
  pool.release(b);
  pool.release(a);
  pool.release(c);
  EXPECT_EQ(pool.find(pool.prefix(a), second), b);
  pool.share(b);
  pool.release(b);
  for (int i = 0; i < 3; ++i) pool.take();  // the free ones, then the longest unused
  EXPECT_EQ(pool.find(kNoPrefix, first), -1);
  pool.check();
}

TEST(PagePoolDeathTest, BooksThatDontAgreeAreABug) {
  PagePool pool(2, 1);
  const int32_t page = pool.take();
  EXPECT_DEATH(pool.share(page), "content may change");
  pool.release(page);
  EXPECT_DEATH(pool.release(page), "nobody uses");
}

}  // namespace
}  // namespace tandem::test
