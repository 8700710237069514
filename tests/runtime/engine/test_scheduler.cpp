// The scheduler's rules one by one, on small schedules that can be followed by hand.
#include <gtest/gtest.h>

#include <algorithm>

#include "ops/core/error.h"
#include "tests/runtime/engine/scheduler_world.h"

namespace tandem::test {
namespace {

/// A scheduler, the world that runs its plans, and what its requests got.
class Bench {
 public:
  struct Answer {
    std::vector<int32_t> tokens;
    std::vector<uint64_t> steps;  // that brought them
    std::optional<FinishReason> reason;
    int64_t n_cached = -1;
    RequestId id = 0;
  };

  explicit Bench(const SchedulerLimits& limits) : limits_(limits), scheduler_(limits), world_(limits) {}

  /// `seed` chooses the tokens: two prompts of one seed begin alike.
  std::shared_ptr<Answer> ask(int64_t n_prompt, int64_t max_new, uint64_t seed, int64_t session = 0) {
    return ask_text(text(n_prompt, seed), max_new, session);
  }
  std::shared_ptr<Answer> ask_text(std::vector<int32_t> prompt, int64_t max_new, int64_t session = 0) {
    auto answer = std::make_shared<Answer>();
    GenerationRequest request;
    request.prompt = std::move(prompt);
    request.max_new_tokens = max_new;
    request.session = session;
    request.sampling.seed = Facts{static_cast<int64_t>(request.prompt.size()), session != 0}.seed();
    request.on_start = [answer](int64_t n) { answer->n_cached = n; };
    request.on_token = [this, answer](int32_t token) {
      answer->tokens.push_back(token);
      answer->steps.push_back(world_.n_launched());
      return true;
    };
    request.on_finish = [answer](FinishReason reason) { answer->reason = reason; };
    answer->id = scheduler_.submit(std::move(request));
    return answer;
  }
  std::vector<int32_t> text(int64_t n, uint64_t seed) const {
    TestRandom random(seed);
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < n; ++i)
      tokens.push_back(static_cast<int32_t>(random.next() % static_cast<uint64_t>(limits_.n_vocab)));
    return tokens;
  }
  bool step() {
    const bool worked = world_.step(scheduler_);
    scheduler_.check();
    return worked;
  }
  void run() {
    while (step()) {
    }
  }
  /// Tokens of each sequence of the last plan.
  std::vector<size_t> parts() const {
    std::vector<size_t> out;
    for (const PlanSequence& part : world_.last_plan().sequences) out.push_back(part.tokens.size());
    return out;
  }
  /// How many of those are of prompts.
  std::vector<int64_t> prompt_tokens() const {
    std::vector<int64_t> out;
    for (const PlanSequence& part : world_.last_plan().sequences) out.push_back(part.n_prompt);
    return out;
  }
  Scheduler& scheduler() { return scheduler_; }
  SchedulerWorld& world() { return world_; }

 private:
  SchedulerLimits limits_;
  Scheduler scheduler_;
  SchedulerWorld world_;
};

SchedulerLimits small_limits() {
  SchedulerLimits limits;
  limits.n_pages = 32;
  limits.page_tokens = 4;
  limits.step_tokens = 40;
  limits.prompt_tokens = 32;
  limits.context_tokens = 128;
  limits.max_sequences = 8;
  limits.n_vocab = 1000;
  return limits;
}

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
