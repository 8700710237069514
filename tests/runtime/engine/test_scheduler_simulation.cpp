// Many thousands of random schedules: whatever comes when, every request is answered once with the right
// tokens, every step attends to its own sequence's past alone, nobody waits for ever, and no page is lost.
// And: the checks notice schedules that are wrong.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <optional>

#include "ops/core/error.h"
#include "ops/core/range.h"
#include "tests/runtime/engine/scheduler_world.h"

namespace tandem::test {
namespace {

/// Seeded choices.
class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_.next() % static_cast<uint64_t>(high - low + 1));
  }
  bool chance(double p) { return random_.uniform() < p; }

 private:
  TestRandom random_;
};

/// One request, what it must be answered, and what it was.
struct Asked {
  RequestId id = 0;
  bool evaluates = false;
  std::vector<int32_t> prompt;
  std::vector<int32_t> wanted;  // all that must come
  FinishReason reason = FinishReason::length;
  int64_t first_logits = 0;
  int64_t stop_behind = -1;    // tokens: on_token says false
  int64_t cancel_behind = -1;  // tokens: cancelled from on_token
  bool cancelled = false;

  std::vector<int32_t> tokens;
  std::vector<uint64_t> token_steps;
  int64_t n_logits = 0;
  int64_t n_starts = 0;
  std::optional<FinishReason> finished;
  uint64_t asked_at = 0;
  uint64_t finished_at = 0;
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : dice_(seed), limits_(draw_limits()), scheduler_(limits_), world_(limits_) {
    n_bases_ = dice_.between(1, 3);
    for (int64_t i = 0; i < n_bases_; ++i) bases_.push_back(draw_tokens(limits_.context_tokens));
    n_requests_ = dice_.between(1, 12);
    share_of_evaluations_ = dice_.chance(0.3) ? 0.4 : 0.0;
    sessions_ = dice_.chance(0.3);
    cancels_ = dice_.chance(0.3);
    submits_in_callbacks_ = dice_.chance(0.2);
  }

  /// Throws Fault where something is wrong.
  void run() {
    int64_t n_left = n_requests_;
    while (n_left > 0 || scheduler_.busy()) {
      while (n_left > 0 && (dice_.chance(0.3) || !scheduler_.busy())) {
        ask();
        --n_left;
      }
      if (cancels_ && dice_.chance(0.03) && !asked_.empty()) cancel(*asked_[pick()]);
      if (cancels_ && dice_.chance(0.002)) cancel_all();
      ++now_;
      world_.step(scheduler_);
      if (now_ % 4 == 0) scheduler_.check();
      if (now_ > 40'000) throw Fault("the schedule never ends");
    }
    finish();
  }

  SchedulerWorld& world() { return world_; }
  SchedulerStats stats() const { return scheduler_.stats(); }
  const SchedulerLimits& limits() const { return limits_; }
  /// Answers a request a second time, to see that it is noticed.
  void answer_twice() { note_finish(*asked_.at(0), FinishReason::length); }
  std::vector<std::unique_ptr<Asked>>& asked() { return asked_; }
  void check_answers() const {
    for (const auto& asked : asked_) check_answer(*asked);
  }

 private:
  SchedulerLimits draw_limits() {
    SchedulerLimits limits;
    limits.page_tokens = dice_.between(1, 6);
    limits.context_tokens = dice_.between(4, 48);
    limits.max_sequences = dice_.between(1, 6);
    const int64_t whole = ceil_div(limits.context_tokens, limits.page_tokens);
    limits.n_pages = dice_.chance(0.3)    ? whole * limits.max_sequences
                     : dice_.chance(0.15) ? dice_.between(1, whole)
                                          : dice_.between(whole, 2 * whole);
    limits.prompt_tokens = dice_.between(1, 40);
    limits.step_tokens =
        dice_.chance(0.5) ? limits.prompt_tokens + limits.max_sequences : dice_.between(1, 40);
    limits.prompt_tokens = std::min(limits.prompt_tokens, limits.step_tokens);
    limits.n_vocab = dice_.between(3, 60);
    limits.lookahead = static_cast<int>(dice_.between(0, 5) / 2);  // 0, 1 or 2
    limits.share_prefixes = dice_.chance(0.75);
    limits.share_generated = dice_.chance(0.5);
    return limits;
  }

  std::vector<int32_t> draw_tokens(int64_t n) {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < n; ++i)
      tokens.push_back(static_cast<int32_t>(dice_.between(0, limits_.n_vocab - 1)));
    return tokens;
  }

  size_t pick() { return static_cast<size_t>(dice_.between(0, static_cast<int64_t>(asked_.size()) - 1)); }

  std::vector<int32_t> draw_prompt() {
    const int64_t n = dice_.between(1, limits_.context_tokens);
    // Some begin as others do, or go on where another one ended.
    std::vector<int32_t> tokens;
    if (dice_.chance(0.7)) tokens = bases_[static_cast<size_t>(dice_.between(0, n_bases_ - 1))];
    if (!asked_.empty() && dice_.chance(0.3)) {
      const Asked& other = *asked_[pick()];
      tokens = other.prompt;
      tokens.insert(tokens.end(), other.tokens.begin(), other.tokens.end());
    }
    tokens.resize(std::min(tokens.size(), static_cast<size_t>(dice_.between(0, n))));
    const std::vector<int32_t> own = draw_tokens(n - static_cast<int64_t>(tokens.size()));
    tokens.insert(tokens.end(), own.begin(), own.end());
    return tokens;
  }

  /// What must come, by the sampler's rule alone.
  void foresee(Asked& asked, int64_t max_new, bool has_end) const {
    const int64_t room = limits_.context_tokens - static_cast<int64_t>(asked.prompt.size());
    const int64_t most = max_new < 0 ? room : std::min(max_new, room);
    asked.reason = max_new < 0 || most < max_new ? FinishReason::context_full : FinishReason::length;
    uint64_t hash = 0;
    for (const int32_t token : asked.prompt) hash = extend_hash(hash, token);
    while (static_cast<int64_t>(asked.wanted.size()) < most) {
      const int32_t token = sampled_behind(hash, limits_.n_vocab);
      if (has_end && token == 0) {
        asked.reason = FinishReason::end_of_generation;
        return;
      }
      asked.wanted.push_back(token);
      hash = extend_hash(hash, token);
      if (static_cast<int64_t>(asked.wanted.size()) == asked.stop_behind) {
        asked.reason = FinishReason::stopped;
        return;
      }
    }
  }

  bool can_fit(int64_t n_tokens) const { return ceil_div(n_tokens, limits_.page_tokens) <= limits_.n_pages; }

  void ask() {
    auto asked = std::make_unique<Asked>();
    asked->prompt = draw_prompt();
    asked->asked_at = now_;
    asked->evaluates = dice_.chance(share_of_evaluations_);
    const bool accepted = asked->evaluates ? ask_evaluation(*asked) : ask_generation(*asked);
    if (accepted) asked_.push_back(std::move(asked));
  }

  bool ask_evaluation(Asked& asked) {
    const auto n = static_cast<int64_t>(asked.prompt.size());
    asked.first_logits = dice_.between(0, n);
    EvaluationRequest request;
    request.tokens = asked.prompt;
    request.first_position = asked.first_logits;
    Asked* target = &asked;
    request.on_logits = [this, target](int64_t position, std::span<const float> row) {
      note_logits(*target, position, row[0]);
    };
    request.on_finish = [this, target](FinishReason reason) { note_finish(*target, reason); };
    return submit(asked, std::move(request), n);
  }

  bool ask_generation(Asked& asked) {
    const auto n = static_cast<int64_t>(asked.prompt.size());
    const int64_t max_new = dice_.between(-1, 30);
    const bool has_end = dice_.chance(0.5);
    if (dice_.chance(0.2)) asked.stop_behind = dice_.between(1, 10);
    if (cancels_ && dice_.chance(0.2)) asked.cancel_behind = dice_.between(1, 10);
    foresee(asked, max_new, has_end);
    GenerationRequest request;
    request.prompt = asked.prompt;
    request.max_new_tokens = max_new;
    if (sessions_) request.session = dice_.between(0, 2);
    request.sampling.seed = Facts{n, request.session != 0}.seed();
    if (has_end) request.is_end = [](int32_t token) { return token == 0; };
    Asked* target = &asked;
    request.on_start = [target](int64_t n_cached) {
      ++target->n_starts;
      if (n_cached < 0 || n_cached >= static_cast<int64_t>(target->prompt.size())) throw Fault("n_cached");
    };
    request.on_token = [this, target](int32_t token) { return note_token(*target, token); };
    request.on_finish = [this, target](FinishReason reason) { note_finish(*target, reason); };
    const int64_t room = limits_.context_tokens - n;
    const int64_t most = max_new < 0 ? room : std::min(max_new, room);
    return submit(asked, std::move(request), n + std::max<int64_t>(0, most - 1));
  }

  template <class Request>
  bool submit(Asked& asked, Request request, int64_t n_tokens) {
    try {
      asked.id = scheduler_.submit(std::move(request));
    } catch (const Error& error) {
      if (can_fit(n_tokens) || error.code() != ExitCode::unavailable) throw Fault("a request was refused");
      return false;
    }
    if (!can_fit(n_tokens)) throw Fault("a request was taken that never fits");
    return true;
  }

  bool note_token(Asked& asked, int32_t token) {
    if (asked.finished) throw Fault("a token after the end");
    asked.tokens.push_back(token);
    asked.token_steps.push_back(now_);
    const auto n = static_cast<int64_t>(asked.tokens.size());
    if (n == asked.cancel_behind) cancel(asked);
    return n != asked.stop_behind;
  }

  void note_logits(Asked& asked, int64_t position, float value) {
    if (asked.finished) throw Fault("logits after the end");
    if (position != asked.first_logits + asked.n_logits++) throw Fault("logits out of order");
    uint64_t hash = 0;
    for (int64_t i = 0; i <= position; ++i) hash = extend_hash(hash, asked.prompt[static_cast<size_t>(i)]);
    if (value != static_cast<float>(hash >> 40)) throw Fault("wrong logits");
  }

  void note_finish(Asked& asked, FinishReason reason) {
    if (asked.finished) throw Fault(fmt::format("request {} is answered twice", asked.id));
    asked.finished = reason;
    asked.finished_at = now_;
    if (submits_in_callbacks_ && n_requests_ < 30 && dice_.chance(0.3)) {
      ++n_requests_;
      ask();
    }
  }

  void cancel(Asked& asked) {
    const bool open = !asked.finished;
    if (open) asked.cancelled = true;
    if (scheduler_.cancel(asked.id) != open) throw Fault("cancel() doesn't know what has ended");
    if (open && asked.finished != FinishReason::stopped) throw Fault("a cancelled request goes on");
  }

  void cancel_all() {
    for (const auto& asked : asked_) asked->cancelled |= !asked->finished;
    scheduler_.cancel_all();
  }

  void check_answer(const Asked& asked) const {
    if (!asked.finished) throw Fault(fmt::format("request {} is not answered", asked.id));
    if (asked.cancelled) {
      if (asked.tokens.size() > asked.wanted.size() ||
          !std::equal(asked.tokens.begin(), asked.tokens.end(), asked.wanted.begin()))
        throw Fault("wrong tokens before a cancellation");
      return;
    }
    if (asked.evaluates) {
      if (asked.n_logits != static_cast<int64_t>(asked.prompt.size()) - asked.first_logits)
        throw Fault("logits are missing");
    } else if (asked.tokens != asked.wanted || *asked.finished != asked.reason || asked.n_starts != 1) {
      throw Fault(fmt::format("request {}: wrong answer", asked.id));
    }
  }

  /// The oldest request always advances, so that nobody waits longer than those before it take one by one.
  void check_patience() const {
    uint64_t steps = 0;
    const auto part = static_cast<uint64_t>(std::max<int64_t>(1, limits_.prompt_tokens / 2));
    const auto turns = static_cast<uint64_t>(ceil_div(limits_.max_sequences, limits_.step_tokens));
    for (const auto& asked : asked_) {
      steps += (asked->prompt.size() / part + asked->wanted.size() + 4) * turns *
               (2 + static_cast<uint64_t>(limits_.lookahead));
      const uint64_t waited = asked->finished_at - asked->asked_at;
      if (waited > steps)
        throw Fault(fmt::format("request {} took {} steps of {}", asked->id, waited, steps));
    }
  }

  /// Where there are pages and room for all, what generates does so at every step.
  void check_flow() const {
    const int64_t whole = ceil_div(limits_.context_tokens, limits_.page_tokens);
    if (limits_.n_pages < whole * limits_.max_sequences || sessions_) return;
    if (limits_.step_tokens < limits_.prompt_tokens + limits_.max_sequences) return;
    for (const auto& asked : asked_) {
      for (size_t i = 1; i < asked->token_steps.size(); ++i) {
        // Pages that come back with the steps in flight may be waited for.
        const uint64_t most = 1 + static_cast<uint64_t>(limits_.lookahead);
        if (asked->token_steps[i] - asked->token_steps[i - 1] > most) throw Fault("a decode was held up");
      }
    }
  }

  void finish() {
    scheduler_.check();
    check_answers();
    check_patience();
    check_flow();
    const SchedulerStats stats = scheduler_.stats();
    if (stats.n_active != 0 || stats.n_waiting != 0 || stats.n_in_flight != 0)
      throw Fault("something is left");
    if (!sessions_ && stats.n_pages_used != 0)
      throw Fault(fmt::format("{} pages are lost", stats.n_pages_used));
    if (!limits_.share_prefixes && stats.n_pages_findable != 0) throw Fault("pages are shared unasked");
  }

  Dice dice_;
  SchedulerLimits limits_;
  Scheduler scheduler_;
  SchedulerWorld world_;
  int64_t n_bases_ = 0;
  int64_t n_requests_ = 0;
  double share_of_evaluations_ = 0.0;
  bool sessions_ = false;
  bool cancels_ = false;
  bool submits_in_callbacks_ = false;
  std::vector<std::vector<int32_t>> bases_;
  std::vector<std::unique_ptr<Asked>> asked_;  // by age
  uint64_t now_ = 0;
};

constexpr uint64_t kSchedules = 12'000;

TEST(SchedulerSimulation, EverySchedulesAnswersAreRight) {
  SchedulerStats sum;
  int64_t n_spared_of_prompts = 0;
  uint64_t n_steps = 0;
  for (uint64_t seed = 0; seed < kSchedules; ++seed) {
    Simulation simulation(seed);
    ASSERT_NO_THROW(simulation.run()) << "schedule " << seed;
    sum.n_planned_tokens += simulation.stats().n_planned_tokens;
    sum.n_spared_tokens += simulation.stats().n_spared_tokens;
    sum.n_preemptions += simulation.stats().n_preemptions;
    if (!simulation.limits().share_generated) n_spared_of_prompts += simulation.stats().n_spared_tokens;
    n_steps += simulation.world().n_launched();
  }
  // The schedules were no idle ones.
  fmt::print("{} steps, {} tokens, {} spared ({} of prompts alone), {} preemptions\n", n_steps,
             sum.n_planned_tokens, sum.n_spared_tokens, n_spared_of_prompts, sum.n_preemptions);
  EXPECT_GT(n_steps, kSchedules * 10);
  EXPECT_GT(sum.n_preemptions, static_cast<int64_t>(kSchedules) / 20);
  EXPECT_GT(sum.n_spared_tokens, static_cast<int64_t>(kSchedules));
  EXPECT_GT(n_spared_of_prompts, static_cast<int64_t>(kSchedules) / 4);
}

/// In how many of some schedules a Fault is thrown when `spoil` has had its way.
int n_noticed(const std::function<void(Simulation&)>& spoil) {
  int n = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Simulation simulation(seed);
    spoil(simulation);
    try {
      simulation.run();
    } catch (const Fault&) {
      ++n;
    }
  }
  return n;
}

TEST(SchedulerSimulation, TheChecksLetRightSchedulesPass) {
  EXPECT_EQ(n_noticed([](Simulation&) {}), 0);
}

TEST(SchedulerSimulation, TheChecksNoticeAPageThatTwoWrite) {
  // As after a page was freed twice: the second sequence of a step gets the first one's last page.
  EXPECT_GT(n_noticed([](Simulation& simulation) {
              simulation.world().spoil_plan = [](StepPlan& plan) {
                if (plan.sequences.size() < 2) return;
                plan.sequences[1].pages.back() = plan.sequences[0].pages.back();
              };
            }),
            50);
}

TEST(SchedulerSimulation, TheChecksNoticeAPageThatChangedHands) {
  // As where a page was freed too early: one that was written before is another one from some step on.
  EXPECT_GT(n_noticed([](Simulation& simulation) {
              simulation.world().spoil_plan = [n_pages = simulation.limits().n_pages](StepPlan& plan) {
                if (plan.sequences.empty() || plan.step % 5 != 4) return;
                int32_t& page = plan.sequences[0].pages[0];
                page = static_cast<int32_t>((page + 1) % n_pages);
              };
            }),
            50);
}

TEST(SchedulerSimulation, TheChecksNoticePagesReusedUnderAStepInFlight) {
  // The scheduler is told that steps are done whose pages are still being read.
  EXPECT_GT(n_noticed([](Simulation& simulation) { simulation.world().n_late = 1; }), 20);
}

TEST(SchedulerSimulation, TheChecksNoticeAWrongToken) {
  EXPECT_GT(n_noticed([](Simulation& simulation) {
              simulation.world().spoil_plan = [n_vocab = simulation.limits().n_vocab](StepPlan& plan) {
                if (plan.sequences.empty()) return;
                int32_t& token = plan.sequences[0].tokens[0];
                if (plan.step == 2 && token >= 0) token = static_cast<int32_t>((token + 1) % n_vocab);
              };
            }),
            50);
}

TEST(SchedulerSimulation, TheChecksNoticeASkippedPosition) {
  EXPECT_GT(n_noticed([](Simulation& simulation) {
              simulation.world().spoil_plan = [](StepPlan& plan) {
                if (plan.step == 1 && !plan.sequences.empty()) ++plan.sequences[0].first_position;
              };
            }),
            50);
}

TEST(SchedulerSimulation, TheChecksNoticeAPromptsTokenThatPassesForAGeneratedOne) {
  for (const int32_t by : {-1, 1}) {
    EXPECT_GT(n_noticed([by](Simulation& simulation) {
                simulation.world().spoil_plan = [by](StepPlan& plan) {
                  if (plan.step == 1 && !plan.sequences.empty()) plan.sequences[0].n_prompt += by;
                };
              }),
              50);
  }
}

TEST(SchedulerSimulation, TheChecksNoticeAGeneratedTokenThatIsFound) {
  // The scheduler shares all pages, and the world expects that it shares those of prompts alone.
  EXPECT_GT(n_noticed([](Simulation& simulation) { simulation.world().expect_own_bits(); }), 3);
}

TEST(SchedulerSimulation, TheChecksNoticeAReaderOfWhatTheSameStepWrites) {
  SchedulerLimits limits;
  limits.n_pages = 4;
  limits.page_tokens = 2;
  limits.n_vocab = 10;
  limits.max_sequences = 2;
  for (const bool spoilt : {false, true}) {
    Scheduler scheduler(limits);
    SchedulerWorld world(limits);
    GenerationRequest request;
    request.prompt = {1, 2, 3};
    request.max_new_tokens = 1;
    request.sampling.seed = Facts{3}.seed();
    scheduler.submit(std::move(request));
    world.spoil_plan = [spoilt](StepPlan& plan) {
      if (!spoilt) return;
      // Another sequence goes on behind the page that this step fills.
      const PlanSequence first = plan.sequences[0];
      const int32_t other = 1 - first.slot;
      plan.admissions.push_back({other, {}, {1, 2}});
      plan.sequences.push_back({other, 2, {5}, {first.pages[0], 3}, false, -1, 1});
    };
    if (spoilt) {
      EXPECT_THROW(world.step(scheduler), Fault);
    } else {
      EXPECT_NO_THROW(world.step(scheduler));
    }
  }
}

TEST(SchedulerSimulation, TheChecksNoticeWrongAnswers) {
  uint64_t seed = 0;
  const auto is_plain = [](const auto& asked) { return !asked->evaluates && !asked->cancelled; };
  while (true) {
    Simulation candidate(seed);
    candidate.run();
    if (!candidate.asked().empty() && is_plain(candidate.asked()[0])) break;
    ASSERT_LT(++seed, 100u);
  }
  Simulation simulation(seed);
  simulation.run();
  EXPECT_NO_THROW(simulation.check_answers());
  EXPECT_THROW(simulation.answer_twice(), Fault);
  Asked& asked = *simulation.asked()[0];
  asked.finished.reset();
  EXPECT_THROW(simulation.check_answers(), Fault);
  asked.finished = asked.reason;
  asked.tokens.push_back(1);
  EXPECT_THROW(simulation.check_answers(), Fault);
}

}  // namespace
}  // namespace tandem::test
