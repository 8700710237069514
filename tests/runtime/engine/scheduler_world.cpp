#include "tests/runtime/engine/scheduler_world.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <set>

#include "ops/core/range.h"

namespace tandem::test {
namespace {

template <class... Values>
void expect(bool holds, fmt::format_string<Values...> text, Values&&... values) {
  if (!holds) throw Fault(fmt::format(text, std::forward<Values>(values)...));
}

uint64_t extend_bits(uint64_t bits, int32_t token, bool of_prompt) {
  return extend_hash(bits, 2 * token + (of_prompt ? 0 : 1));
}

}  // namespace

uint64_t extend_hash(uint64_t hash, int32_t token) {
  hash = (hash ^ static_cast<uint32_t>(token + 1)) * 0x9e3779b97f4a7c15u;
  return hash ^ (hash >> 29);
}

int32_t sampled_behind(uint64_t hash, int64_t n_vocab) {
  return static_cast<int32_t>((hash * 0xd6e8feb86659fd93u >> 33) % static_cast<uint64_t>(n_vocab));
}

SchedulerWorld::SchedulerWorld(const SchedulerLimits& limits)
    : limits_(limits),
      cells_(static_cast<size_t>(limits.n_pages * limits.page_tokens)),
      slots_(static_cast<size_t>(limits.max_sequences)) {}

bool SchedulerWorld::step(Scheduler& scheduler) {
  if (!scheduler.busy()) return false;
  last_plan_ = scheduler.plan();
  if (spoil_plan) spoil_plan(last_plan_);
  // The road of a real plan, so that nothing it needs is left behind.
  last_plan_ = StepPlan::deserialize(last_plan_.serialize());
  if (!last_plan_.sequences.empty()) launch(last_plan_, scheduler);
  expect(static_cast<int64_t>(in_flight_.size()) <= limits_.lookahead + 1, "{} steps in flight",
         in_flight_.size());
  for (int i = 0; i < last_plan_.n_collect; ++i) {
    expect(!in_flight_.empty(), "a step is collected that was not launched");
    const StepResults results = in_flight_.front().results;
    late_.push_back(std::move(in_flight_.front()));
    in_flight_.pop_front();
    while (late_.size() > n_late) late_.pop_front();
    scheduler.take(results);
  }
  expect(in_flight_.size() <= static_cast<size_t>(limits_.lookahead), "{} steps stay in flight",
         in_flight_.size());
  return true;
}

void SchedulerWorld::launch(const StepPlan& plan, Scheduler& scheduler) {
  expect(plan.step == n_launched_, "step {} is launched as number {}", plan.step, n_launched_);
  ++n_launched_;
  check_shape(plan);
  for (const PlanAdmission& admission : plan.admissions) admit(admission);
  InFlight record;
  record.results.step = plan.step;
  for (const PlanSequence& part : plan.sequences) {
    Slot& slot = slots_[static_cast<size_t>(part.slot)];
    extend(slot, part);
    write(slot, part);
    for (const int32_t page : part.pages) record.uses.emplace_back(page, slot.admission);
  }
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& part = plan.sequences[i];
    Slot& slot = slots_[static_cast<size_t>(part.slot)];
    attend(slot, part);
    for (auto at = static_cast<size_t>(std::max(0, part.logits_from));
         part.logits_from >= 0 && at < part.tokens.size(); ++at) {
      const size_t position = static_cast<size_t>(part.first_position) + at;
      const float row = static_cast<float>(slot.hashes[position] >> 40);
      scheduler.take_logits(plan.step, i, static_cast<int64_t>(position), {&row, 1});
    }
    if (!part.sample) continue;
    slot.latest = sampled_behind(slot.hashes.back(), limits_.n_vocab);
    record.results.tokens.push_back(slot.latest);
  }
  in_flight_.push_back(std::move(record));
}

void SchedulerWorld::check_shape(const StepPlan& plan) const {
  expect(plan.n_tokens() <= limits_.step_tokens, "a step of {} tokens", plan.n_tokens());
  std::set<int32_t> slots;
  int64_t n_prompt_tokens = 0;
  for (const PlanSequence& part : plan.sequences) {
    expect(part.slot >= 0 && part.slot < limits_.max_sequences, "slot {}", part.slot);
    expect(slots.insert(part.slot).second, "slot {} takes part twice", part.slot);
    expect(!part.tokens.empty(), "a part without tokens");
    const int64_t end = part.first_position + static_cast<int64_t>(part.tokens.size());
    expect(end <= limits_.context_tokens, "{} tokens exceed the context", end);
    expect(static_cast<int64_t>(part.pages.size()) == ceil_div(end, limits_.page_tokens),
           "{} pages for {} tokens", part.pages.size(), end);
    for (const int32_t page : part.pages) expect(page >= 0 && page < limits_.n_pages, "page {}", page);
    if (part.tokens.size() > 1) n_prompt_tokens += static_cast<int64_t>(part.tokens.size());
  }
  expect(n_prompt_tokens <= limits_.prompt_tokens, "{} prompt tokens in a step", n_prompt_tokens);
}

void SchedulerWorld::admit(const PlanAdmission& admission) {
  Slot& slot = slots_.at(static_cast<size_t>(admission.slot));
  slot = {};
  slot.admission = ++n_admissions_;
  const uint64_t seed = admission.sampling.seed;
  slot.n_prompt = seed == 0 ? std::numeric_limits<int64_t>::max() : static_cast<int64_t>(seed / 2);
  slot.in_session = seed % 2 == 1;
  for (const int32_t token : admission.history) append(slot, token);
}

void SchedulerWorld::append(Slot& slot, int32_t token) {
  const bool of_prompt = static_cast<int64_t>(slot.history.size()) < slot.n_prompt;
  slot.hashes.push_back(extend_hash(slot.hashes.empty() ? 0 : slot.hashes.back(), token));
  slot.bits.push_back(extend_bits(slot.bits.empty() ? 0 : slot.bits.back(), token, of_prompt));
  slot.history.push_back(token);
}

void SchedulerWorld::extend(Slot& slot, const PlanSequence& part) {
  expect(slot.admission > 0, "slot {} was never admitted", part.slot);
  expect(part.first_position == static_cast<int32_t>(slot.history.size()), "slot {} goes on at {}, not at {}",
         part.slot, part.first_position, slot.history.size());
  const auto n_tokens = static_cast<int64_t>(part.tokens.size());
  const int64_t n_prompt = std::clamp<int64_t>(slot.n_prompt - part.first_position, 0, n_tokens);
  expect(part.n_prompt == n_prompt, "slot {}: {} prompt tokens at {}, not {}", part.slot, part.n_prompt,
         part.first_position, n_prompt);
  for (int32_t token : part.tokens) {
    if (token == kLatestToken) {
      expect(part.tokens.size() == 1 && slot.latest >= 0, "nothing was sampled in slot {}", part.slot);
      token = slot.latest;
    }
    expect(token >= 0 && token < limits_.n_vocab, "token {}", token);
    append(slot, token);
  }
}

const SchedulerWorld::Cell& SchedulerWorld::cell(const PlanSequence& part, int64_t position) const {
  const int64_t page = part.pages[static_cast<size_t>(position / limits_.page_tokens)];
  return cells_[static_cast<size_t>(page * limits_.page_tokens + position % limits_.page_tokens)];
}

SchedulerWorld::Cell& SchedulerWorld::cell(const PlanSequence& part, int64_t position) {
  return const_cast<Cell&>(static_cast<const SchedulerWorld&>(*this).cell(part, position));
}

void SchedulerWorld::write(const Slot& slot, const PlanSequence& part) {
  const int64_t end = part.first_position + static_cast<int64_t>(part.tokens.size());
  for (int64_t position = part.first_position; position < end; ++position) {
    const int32_t page = part.pages[static_cast<size_t>(position / limits_.page_tokens)];
    for (const auto* steps : {&in_flight_, &late_}) {
      for (const InFlight& other : *steps) {
        for (const auto& [used, admission] : other.uses) {
          expect(used != page || admission == slot.admission, "page {} is written while step {} uses it",
                 page, other.results.step);
        }
      }
    }
    Cell& target = cell(part, position);
    expect(target.step != n_launched_, "two write page {} in one step", page);
    const auto at = static_cast<size_t>(position);
    const uint64_t before = position > 0 ? cell(part, position - 1).bits : 0;
    const bool of_prompt = position < part.first_position + part.n_prompt;
    target = {slot.hashes[at], extend_bits(before, slot.history[at], of_prompt), n_launched_, slot.admission};
  }
}

void SchedulerWorld::attend(const Slot& slot, const PlanSequence& part) const {
  const int64_t end = part.first_position + static_cast<int64_t>(part.tokens.size());
  const bool own_bits = !slot.in_session && !(limits_.share_prefixes && limits_.share_generated);
  for (int64_t position = 0; position < end; ++position) {
    const Cell& seen = cell(part, position);
    expect(seen.hash == slot.hashes[static_cast<size_t>(position)], "slot {} sees something else at {}",
           part.slot, position);
    expect(seen.step < n_launched_ || seen.owner == slot.admission, "slot {} sees what this step writes",
           part.slot);
    expect(!own_bits || seen.bits == slot.bits[static_cast<size_t>(position)],
           "slot {} sees other bits than its own at {}", part.slot, position);
  }
}

}  // namespace tandem::test
