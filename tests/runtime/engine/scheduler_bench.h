// What the tests of the scheduler's rules run small schedules on.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "tests/runtime/engine/scheduler_world.h"

namespace tandem::test {

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

inline SchedulerLimits small_limits() {
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

}  // namespace tandem::test
