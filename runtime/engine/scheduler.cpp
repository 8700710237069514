// Rank 0's half of the engine: which sequences take part in a step, with which tokens, on which pages.
#include <fmt/format.h>

#include <algorithm>

#include "ops/core/check.h"
#include "ops/core/error.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/sequence.h"

namespace tandem {

void Engine::queue(std::unique_ptr<Sequence> sequence) {
  if (sequence->tokens.empty()) throw Error(ExitCode::usage, "the prompt is empty");
  const auto n = static_cast<int64_t>(sequence->tokens.size());
  if (n > options_.context_tokens) {
    throw Error(ExitCode::usage,
                fmt::format("the prompt has {} tokens, the context {}", n, options_.context_tokens),
                "give a larger context with -c");
  }
  for (const int32_t token : sequence->tokens) {
    if (token < 0 || token >= model_.config().n_vocab) {
      throw Error(ExitCode::usage,
                  fmt::format("token {} is not in the vocabulary of {}", token, model_.config().n_vocab));
    }
  }
  // A sequence never holds more than its context, and its pages are reserved when it is admitted.
  const int64_t room = options_.context_tokens - n;
  sequence->max_new = sequence->max_new < 0 ? room : std::min(sequence->max_new, room);
  waiting_.push_back(std::move(sequence));
}

void Engine::submit(GenerationRequest request) {
  auto sequence = std::make_unique<Sequence>();
  sequence->tokens = std::move(request.prompt);
  sequence->n_prompt = static_cast<int64_t>(sequence->tokens.size());
  sequence->wanted_new = request.max_new_tokens;
  sequence->max_new = request.max_new_tokens;
  sequence->sampling = std::move(request.sampling);
  sequence->is_end = std::move(request.is_end);
  sequence->on_token = std::move(request.on_token);
  sequence->on_logprobs = std::move(request.on_logprobs);
  sequence->on_finish = std::move(request.on_finish);
  sequence->on_start = std::move(request.on_start);
  sequence->session = request.session;
  sequence->generates = true;
  queue(std::move(sequence));
}

void Engine::submit(EvaluationRequest request) {
  auto sequence = std::make_unique<Sequence>();
  sequence->tokens = std::move(request.tokens);
  sequence->n_prompt = static_cast<int64_t>(sequence->tokens.size());
  sequence->wanted_new = 0;
  sequence->max_new = 0;
  sequence->logits_from = request.first_position;
  sequence->on_logits = std::move(request.on_logits);
  queue(std::move(sequence));
}

/// Takes the pages that the sequence can need at most; a kept cache's pages first. False where there are too
/// few.
bool Engine::reserve_pages(Sequence& sequence) {
  const auto kept = sequence.session != 0 ? kept_.find(sequence.session) : kept_.end();
  const int64_t n_needed = ceil_div(sequence.n_prompt + sequence.max_new, kPageTokens);
  const auto n_kept = kept == kept_.end() ? 0 : static_cast<int64_t>(kept->second.pages.size());
  if (n_needed - n_kept > static_cast<int64_t>(free_pages_.size())) return false;
  if (kept != kept_.end()) {
    sequence.pages = std::move(kept->second.pages);
    // The last prompt token is always computed: its logits are wanted.
    const auto [mine, theirs] = std::mismatch(sequence.tokens.begin(), sequence.tokens.end() - 1,
                                              kept->second.tokens.begin(), kept->second.tokens.end());
    sequence.n_computed = mine - sequence.tokens.begin();
    kept_.erase(kept);
  }
  while (static_cast<int64_t>(sequence.pages.size()) > n_needed) {
    free_pages_.push_back(sequence.pages.back());
    sequence.pages.pop_back();
  }
  while (static_cast<int64_t>(sequence.pages.size()) < n_needed) {
    sequence.pages.push_back(free_pages_.back());
    free_pages_.pop_back();
  }
  return true;
}

void Engine::admit(StepPlan& plan) {
  while (!waiting_.empty() && !free_slots_.empty()) {
    Sequence& sequence = *waiting_.front();
    if (!reserve_pages(sequence)) {
      if (!active_.empty()) return;  // pages come back when those end
      // Nothing runs and still it doesn't fit: caches kept for other sessions are given up before the request
      // is.
      if (!kept_.empty()) {
        for (const int32_t page : kept_.begin()->second.pages) free_pages_.push_back(page);
        kept_.erase(kept_.begin());
        continue;
      }
      const int64_t n_needed = ceil_div(sequence.n_prompt + sequence.max_new, kPageTokens);
      throw Error(
          ExitCode::unavailable,
          fmt::format("a sequence needs {} pages of KV cache, there are {}", n_needed, free_pages_.size()),
          "give a smaller context with -c");
    }
    sequence.slot = free_slots_.back();
    free_slots_.pop_back();
    const std::span<const int32_t> known =
        std::span(sequence.tokens).first(static_cast<size_t>(sequence.n_computed));
    plan.admissions.push_back({sequence.slot, sequence.sampling, {known.begin(), known.end()}});
    if (sequence.on_start) sequence.on_start(sequence.n_computed);
    active_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

StepPlan Engine::make_plan() {
  StepPlan plan;
  plan.step = next_step_;
  admit(plan);
  int64_t room = model_.capacity().max_tokens;
  const auto add = [&](const Sequence& sequence, int64_t n_tokens) {
    const auto first = static_cast<size_t>(sequence.n_computed);
    const auto last = first + static_cast<size_t>(n_tokens);
    PlanSequence part;
    part.slot = sequence.slot;
    part.first_position = static_cast<int32_t>(first);
    part.tokens.assign(sequence.tokens.begin() + static_cast<int64_t>(first),
                       sequence.tokens.begin() + static_cast<int64_t>(last));
    const int64_t n_pages = ceil_div(static_cast<int64_t>(last), kPageTokens);
    part.pages.assign(sequence.pages.begin(), sequence.pages.begin() + n_pages);
    part.sample = sequence.generates && sequence.max_new > 0 && last == sequence.tokens.size();
    if (sequence.on_logits && static_cast<int64_t>(last) > sequence.logits_from) {
      part.logits_from =
          static_cast<int32_t>(std::max<int64_t>(0, sequence.logits_from - static_cast<int64_t>(first)));
    }
    plan.sequences.push_back(std::move(part));
    room -= n_tokens;
  };
  // Sequences that generate go first, so that none waits behind another's long prompt; prompts fill the rest.
  for (const auto& sequence : active_) {
    if (sequence->n_left() == 1 && room > 0) add(*sequence, 1);
  }
  int64_t prompt_room = std::min(room, options_.batch_tokens);
  for (const auto& sequence : active_) {
    if (sequence->n_left() <= 1 || prompt_room == 0) continue;
    const int64_t n = std::min(sequence->n_left(), prompt_room);
    add(*sequence, n);
    prompt_room -= n;
  }
  return plan;
}

bool Engine::step() {
  require(communicator_.rank() == 0, "only rank 0 plans steps");
  if (!busy()) return false;
  const StepPlan plan = make_plan();
  broadcast_plan(communicator_, plan);
  take_results(plan, execute(plan));
  return true;
}

void Engine::take_results(const StepPlan& plan, std::span<const int32_t> sampled) {
  size_t next_sampled = 0;
  for (const PlanSequence& part : plan.sequences) {
    const auto found = std::find_if(active_.begin(), active_.end(),
                                    [&](const auto& sequence) { return sequence->slot == part.slot; });
    require(found != active_.end(), "a step ran a sequence that is not active", part.slot);
    Sequence& sequence = **found;
    sequence.n_computed += static_cast<int64_t>(part.tokens.size());
    if (!part.sample) {
      if (sequence.n_left() == 0) finish(sequence, FinishReason::length);
      continue;
    }
    const size_t at = next_sampled++;
    const int32_t token = sampled[at];
    if (sequence.is_end && sequence.is_end(token)) {
      finish(sequence, FinishReason::end_of_generation);
      continue;
    }
    sequence.tokens.push_back(token);
    ++sequence.n_new;
    if (sequence.on_logprobs && at < latest_logprobs_.size()) sequence.on_logprobs(latest_logprobs_[at]);
    if (sequence.on_token && !sequence.on_token(token)) {
      finish(sequence, FinishReason::stopped);
    } else if (sequence.n_new >= sequence.max_new) {
      const bool full = sequence.wanted_new < 0 || sequence.max_new < sequence.wanted_new;
      finish(sequence, full ? FinishReason::context_full : FinishReason::length);
    }
  }
  std::erase_if(active_, [](const auto& sequence) { return sequence->finished; });
}

void Engine::finish(Sequence& sequence, FinishReason reason) {
  sequence.finished = true;
  free_slots_.push_back(sequence.slot);
  if (sequence.session != 0) {
    sequence.tokens.resize(static_cast<size_t>(sequence.n_computed));
    kept_[sequence.session] = {std::move(sequence.tokens), std::move(sequence.pages)};
  } else {
    free_pages_.insert(free_pages_.end(), sequence.pages.begin(), sequence.pages.end());
  }
  if (sequence.on_finish) sequence.on_finish(reason);
}

void Engine::cancel_all() {
  waiting_.clear();
  for (const auto& sequence : active_) finish(*sequence, FinishReason::stopped);
  active_.clear();
}

}  // namespace tandem
