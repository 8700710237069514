// The scheduler's requests and results; its plans are in scheduler_plan.cpp.
#include "runtime/engine/scheduler.h"

#include <fmt/format.h>

#include <algorithm>

#include "ops/core/check.h"
#include "ops/core/error.h"
#include "ops/core/range.h"
#include "runtime/engine/sequence.h"

namespace tandem {

Scheduler::Scheduler(const SchedulerLimits& limits)
    : limits_(limits), pool_(limits.n_pages, limits.page_tokens) {
  require(
      limits.step_tokens > 0 && limits.prompt_tokens > 0 && limits.max_sequences > 0 && limits.lookahead >= 0,
      "scheduler: limits", limits.step_tokens, limits.prompt_tokens, limits.max_sequences, limits.lookahead);
  for (auto slot = static_cast<int32_t>(limits.max_sequences) - 1; slot >= 0; --slot)
    free_slots_.push_back(slot);
}

Scheduler::~Scheduler() = default;

RequestId Scheduler::submit(GenerationRequest request) {
  auto sequence = std::make_shared<Sequence>();
  sequence->tokens = std::move(request.prompt);
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
  return queue(std::move(sequence));
}

RequestId Scheduler::submit(EvaluationRequest request) {
  auto sequence = std::make_shared<Sequence>();
  sequence->tokens = std::move(request.tokens);
  sequence->wanted_new = 0;
  sequence->next_logits = std::max<int64_t>(0, request.first_position);
  sequence->on_logits = std::move(request.on_logits);
  sequence->on_finish = std::move(request.on_finish);
  return queue(std::move(sequence));
}

RequestId Scheduler::queue(Shared sequence) {
  if (sequence->tokens.empty()) throw Error(ExitCode::usage, "the prompt is empty");
  const auto n = static_cast<int64_t>(sequence->tokens.size());
  if (n > limits_.context_tokens) {
    throw Error(ExitCode::usage,
                fmt::format("the prompt has {} tokens, the context {}", n, limits_.context_tokens),
                "give a larger context with -c");
  }
  for (const int32_t token : sequence->tokens) {
    if (token < 0 || token >= limits_.n_vocab) {
      throw Error(ExitCode::usage,
                  fmt::format("token {} is not in the vocabulary of {}", token, limits_.n_vocab));
    }
  }
  const int64_t room = limits_.context_tokens - n;
  sequence->n_prompt = n;
  sequence->max_new = sequence->max_new < 0 ? room : std::min(sequence->max_new, room);
  if (const int64_t n_needed = ceil_div(sequence->reach(), limits_.page_tokens); n_needed > limits_.n_pages) {
    throw Error(ExitCode::unavailable,
                fmt::format("a sequence needs {} pages of KV cache, there are {}", n_needed, limits_.n_pages),
                "give a smaller context with -c");
  }
  if (static_cast<int64_t>(waiting_.size()) >= limits_.max_waiting) {
    throw Error(ExitCode::unavailable, fmt::format("{} requests are waiting already", waiting_.size()));
  }
  sequence->id = next_id_++;
  live_.emplace(sequence->id, sequence);
  waiting_.push_back(std::move(sequence));
  return next_id_ - 1;
}

bool Scheduler::cancel(RequestId id) {
  const auto it = live_.find(id);
  if (it == live_.end()) return false;
  finish(Shared(it->second), FinishReason::stopped);
  return true;
}

void Scheduler::cancel_all() {
  const std::map<RequestId, Shared> all = live_;
  for (const auto& [id, sequence] : all) finish(sequence, FinishReason::stopped);
}

void Scheduler::take_logits(uint64_t step, size_t part, int64_t position, std::span<const float> logits) {
  const auto it = std::find_if(in_flight_.begin(), in_flight_.end(),
                               [&](const InFlight& record) { return record.step == step; });
  require(it != in_flight_.end() && part < it->parts.size(), "logits of a step that is not in flight", step);
  const Shared sequence = it->parts[part].sequence;
  if (!sequence->finished) sequence->on_logits(position, logits);
}

void Scheduler::take(const StepResults& results) {
  require(!in_flight_.empty() && in_flight_.front().step == results.step, "results out of order",
          results.step);
  const InFlight record = std::move(in_flight_.front());
  in_flight_.pop_front();
  pool_.note_collect();
  size_t n_taken = 0;
  for (const Part& part : record.parts) {
    if (part.sample) {
      require(n_taken < results.tokens.size(), "a step sampled too few tokens", results.tokens.size());
      const size_t at = n_taken++;
      if (part.sequence->finished) continue;
      accept(part.sequence, results.tokens[at],
             at < results.logprobs.size() ? &results.logprobs[at] : nullptr);
    } else if (part.last && !part.sequence->finished) {
      end_by_length(part.sequence);
    }
  }
  require(n_taken == results.tokens.size(), "a step sampled too many tokens", results.tokens.size());
}

/// One more token of a sequence is known; its logprobs are null where none were computed in its step.
void Scheduler::accept(const Shared& sequence, int32_t token, const ChoiceLogprobs* logprobs) {
  --sequence->n_pending;
  if (sequence->is_end && sequence->is_end(token)) {
    finish(sequence, FinishReason::end_of_generation);
    return;
  }
  sequence->tokens.push_back(token);
  if (sequence->active()) name_pages(*sequence);
  if (sequence->on_logprobs && logprobs != nullptr) sequence->on_logprobs(*logprobs);
  if (sequence->on_token && !sequence->on_token(token)) {
    finish(sequence, FinishReason::stopped);
  } else if (sequence->n_new() >= sequence->max_new) {
    end_by_length(sequence);
  }
}

void Scheduler::end_by_length(const Shared& sequence) {
  const bool full = sequence->wanted_new < 0 || sequence->max_new < sequence->wanted_new;
  finish(sequence, full ? FinishReason::context_full : FinishReason::length);
}

void Scheduler::finish(const Shared& sequence, FinishReason reason) {
  if (sequence->finished) return;
  sequence->finished = true;
  live_.erase(sequence->id);
  if (sequence->active()) {
    if (sequence->session != 0) keep(*sequence);
    leave(*sequence);
  } else {
    std::erase(waiting_, sequence);
  }
  if (sequence->on_finish) sequence->on_finish(reason);
}

/// Keeps the cache of a sequence that ends, for the next one of its session.
void Scheduler::keep(Sequence& sequence) {
  Kept& kept = kept_[sequence.session];
  release_from(kept.pages, 0);  // another sequence's of the same session
  kept.pages = std::move(sequence.pages);
  sequence.pages = {};
  kept.tokens.assign(sequence.tokens.begin(), sequence.tokens.begin() + sequence.n_computed());
  kept.kept_at = pool_.n_launched();
  release_from(kept.pages, ceil_div(sequence.n_computed(), limits_.page_tokens));
}

/// Ends a sequence's part in the steps: its slot and its pages go.
void Scheduler::leave(Sequence& sequence) {
  release_from(sequence.pages, 0);
  sequence.pages = {};
  sequence.n_planned = 0;
  sequence.announced = false;
  free_slots_.push_back(sequence.slot);
  sequence.slot = -1;
  std::erase_if(active_, [&](const Shared& other) { return other.get() == &sequence; });
}

/// Releases the pages from number `first` on, the last one first: so a prefix is forgotten from its end.
void Scheduler::release_from(PageChain& chain, int64_t first) {
  while (chain.size() > first) {
    pool_.release(chain.pages.back());
    chain.pages.pop_back();
  }
  if (chain.n_named <= first) return;
  chain.n_named = first;
  chain.prefix = first > 0 ? pool_.prefix(chain.pages.back()) : kNoPrefix;
}

/// Makes the pages that are full, known and only read from now on findable.
void Scheduler::name_pages(Sequence& sequence) {
  PageChain& chain = sequence.pages;
  const int64_t n_tokens = std::min(sequence.n_computed(), n_nameable(chain));
  while (chain.names && (chain.n_named + 1) * limits_.page_tokens <= n_tokens) {
    const int32_t page = chain.pages[static_cast<size_t>(chain.n_named)];
    const auto tokens = std::span(sequence.tokens)
                            .subspan(static_cast<size_t>(chain.n_named * limits_.page_tokens),
                                     static_cast<size_t>(limits_.page_tokens));
    chain.names = pool_.publish(page, chain.prefix, tokens);
    if (!chain.names) return;
    chain.prefix = pool_.prefix(page);
    ++chain.n_named;
  }
}

/// Tokens of a chain whose full pages may be named.
int64_t Scheduler::n_nameable(const PageChain& chain) const {
  if (!limits_.share_prefixes) return 0;
  return limits_.share_generated ? std::numeric_limits<int64_t>::max() : chain.n_prompt;
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.n_waiting = static_cast<int64_t>(waiting_.size());
  stats.n_active = static_cast<int64_t>(active_.size());
  stats.n_in_flight = static_cast<int64_t>(in_flight_.size());
  stats.n_pages_used = pool_.n_pages() - pool_.n_unused();
  stats.n_pages_findable = pool_.n_findable_unused();
  return stats;
}

void Scheduler::check() const {
  pool_.check();
  std::vector<int> n_users(static_cast<size_t>(limits_.n_pages), 0);
  const auto count = [&](const PageChain& chain) {
    for (const int32_t page : chain.pages) ++n_users[static_cast<size_t>(page)];
    require(chain.n_named <= chain.size(), "more pages have names than there are", chain.n_named);
  };
  for (const Shared& sequence : active_) {
    count(sequence->pages);
    require(!sequence->finished && sequence->active(), "an ended sequence is active", sequence->id);
  }
  for (const Shared& sequence : waiting_) {
    require(!sequence->active() && sequence->pages.size() == 0, "a waiting sequence has pages", sequence->id);
  }
  for (const auto& [session, kept] : kept_) count(kept.pages);
  for (size_t page = 0; page < n_users.size(); ++page) {
    require(pool_.n_users(static_cast<int32_t>(page)) == n_users[page], "a page's users are miscounted",
            page);
  }
  require(live_.size() == active_.size() + waiting_.size(), "a sequence is lost", live_.size());
  require(static_cast<int64_t>(free_slots_.size() + active_.size()) == limits_.max_sequences,
          "a slot is lost");
}

}  // namespace tandem
