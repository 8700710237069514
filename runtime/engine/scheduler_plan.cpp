// What the scheduler puts into the next step.
#include <algorithm>
#include <utility>

#include "ops/core/check.h"
#include "ops/core/range.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/sequence.h"

namespace tandem {
namespace {

/// A prompt's part that isn't its last has at least so many tokens: a few would cost a step of decodes its
/// recording on a GPU and bring the prompt nowhere.
constexpr int64_t kLeastPart = 16;
/// Of a step's tokens, for prompts where decodes would fill it: one in so many.
constexpr int64_t kPromptShare = 4;
/// Waiting sequences that may be passed by others, looked at in one plan.
constexpr int kMostPassed = 32;

}  // namespace

/// A plan on its way: nothing is final before write().
struct Scheduler::Draft {
  struct Entry {
    Shared sequence;
    int64_t n_tokens = 0;
  };
  std::vector<Entry> entries;
  std::vector<std::pair<Shared, int64_t>> started;  // and how many of its tokens were spared
  int64_t room = 0;                                 // tokens that still fit

  void add(const Shared& sequence, int64_t n_tokens) {
    entries.push_back({sequence, n_tokens});
    room -= n_tokens;
  }
};

/// What of a waiting sequence is in the cache.
struct Scheduler::Found {
  std::vector<int32_t> pages;
  int64_t n_tokens = 0;
  PrefixId prefix = kNoPrefix;
  bool kept = false;  // by its session; otherwise by other sequences
};

StepPlan Scheduler::plan() {
  require(busy(), "nothing to plan");
  StepPlan plan;
  plan.step = pool_.n_launched();
  Draft draft;
  draft.room = limits_.step_tokens;
  plan_decodes(draft);
  admit(draft);
  plan_prompts(draft);
  if (!draft.entries.empty()) write(draft, plan);
  const auto n_in_flight = static_cast<int64_t>(in_flight_.size());
  plan.n_collect =
      static_cast<int32_t>(draft.entries.empty() ? std::min<int64_t>(1, n_in_flight)
                                                 : std::max<int64_t>(0, n_in_flight - limits_.lookahead));
  require(!plan.sequences.empty() || plan.n_collect > 0, "sequences wait, and nothing can be done for them",
          live_.size());
  // Last, since these may submit and cancel.
  for (const auto& [sequence, n_spared] : draft.started) {
    if (sequence->on_start && !sequence->finished) sequence->on_start(n_spared);
  }
  return plan;
}

/// One token of everything that generates.
void Scheduler::plan_decodes(Draft& draft) {
  std::vector<Shared> ready;
  for (const Shared& sequence : active_) {
    if (sequence->announced && sequence->n_left() == 1) ready.push_back(sequence);
  }
  int64_t most = limits_.step_tokens;
  if (ready.size() < active_.size() || (!waiting_.empty() && !free_slots_.empty())) {
    most = std::max<int64_t>(1, most - std::min(limits_.prompt_tokens, most / kPromptShare));
  }
  if (static_cast<int64_t>(ready.size()) > most) {  // in turn
    std::rotate(ready.begin(),
                std::partition_point(ready.begin(), ready.end(),
                                     [&](const Shared& sequence) { return sequence->id <= last_turn_; }),
                ready.end());
  }
  for (const Shared& sequence : ready) {
    if (static_cast<int64_t>(draft.entries.size()) == most) return;
    if (!sequence->active() || grow(draft, *sequence, 1) == 0) continue;
    draft.add(sequence, 1);
    last_turn_ = sequence->id;
  }
}

/// Parts of prompts, in what room is left.
void Scheduler::plan_prompts(Draft& draft) {
  std::vector<Shared> prompts;
  for (const Shared& sequence : active_) {
    const int64_t n_left = sequence->n_left();
    if (n_left > 1 || (n_left == 1 && !sequence->announced)) prompts.push_back(sequence);
  }
  if (prompts.empty()) return;
  const std::vector<int64_t> shares = share_out(prompts, std::min(draft.room, limits_.prompt_tokens));
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (shares[i] == 0 || !prompts[i]->active()) continue;  // preempted for an older one
    if (const int64_t n = grow(draft, *prompts[i], shares[i]); n > 0) draft.add(prompts[i], n);
  }
}

/// How many of `n_tokens` each of `prompts` (by age) gets.
std::vector<int64_t> Scheduler::share_out(const std::vector<Shared>& prompts, int64_t n_tokens) const {
  std::vector<int64_t> shares(prompts.size(), 0);
  shares[0] = std::min(prompts[0]->n_left(), (n_tokens + 1) / 2);
  n_tokens -= shares[0];
  std::vector<size_t> others(prompts.size() - 1);
  for (size_t i = 0; i < others.size(); ++i) others[i] = i + 1;
  std::stable_sort(others.begin(), others.end(),
                   [&](size_t a, size_t b) { return prompts[a]->n_left() < prompts[b]->n_left(); });
  for (const size_t i : others) {
    const int64_t n_left = prompts[i]->n_left();
    const int64_t share = std::min(n_left, n_tokens);
    if (share < n_left && share < kLeastPart) break;
    shares[i] = share;
    n_tokens -= share;
  }
  shares[0] += std::min(prompts[0]->n_left() - shares[0], n_tokens);
  return shares;
}

void Scheduler::write(Draft& draft, StepPlan& plan) {
  InFlight record;
  record.step = plan.step;
  for (const Draft::Entry& entry : draft.entries) {
    Sequence& sequence = *entry.sequence;
    if (!sequence.announced) {
      const auto first = sequence.tokens.begin();
      plan.admissions.push_back(
          {sequence.slot, sequence.sampling, std::vector<int32_t>(first, first + sequence.n_planned)});
      sequence.announced = true;
    }
    Part part;
    part.sequence = entry.sequence;
    plan.sequences.push_back(write_part(sequence, entry.n_tokens, part));
    record.parts.push_back(std::move(part));
    stats_.n_planned_tokens += entry.n_tokens;
  }
  in_flight_.push_back(std::move(record));
  pool_.note_launch();
  // Only now, so that no sequence reads in this step what another one writes in it.
  for (const Draft::Entry& entry : draft.entries) name_pages(*entry.sequence);
}

PlanSequence Scheduler::write_part(Sequence& sequence, int64_t n_tokens, Part& part) {
  const int64_t first = sequence.n_planned;
  const int64_t end = first + n_tokens;
  const auto n_known = static_cast<int64_t>(sequence.tokens.size());
  require(end <= n_known || (n_tokens == 1 && end == sequence.length()),
          "a token is planned that nobody knows", sequence.id, end);
  PlanSequence out;
  out.slot = sequence.slot;
  out.first_position = static_cast<int32_t>(first);
  if (end > n_known) {
    out.tokens = {kLatestToken};
  } else {
    out.tokens.assign(sequence.tokens.begin() + first, sequence.tokens.begin() + end);
  }
  const auto pages = sequence.pages.pages.begin();
  out.pages.assign(pages, pages + ceil_div(end, limits_.page_tokens));
  out.sample = sequence.generates && sequence.max_new > 0 && end == sequence.length();
  if (sequence.on_logits && end > sequence.next_logits) {
    out.logits_from = static_cast<int32_t>(sequence.next_logits - first);
    sequence.next_logits = end;
  }
  out.n_prompt = static_cast<int32_t>(std::clamp<int64_t>(sequence.n_prompt - first, 0, n_tokens));
  part.sample = out.sample;
  part.last = !out.sample && end == sequence.length();
  sequence.n_planned = end;
  if (out.sample) ++sequence.n_pending;
  return out;
}

/// Takes pages for the next `n_tokens`; returns how many of them have one.
int64_t Scheduler::grow(Draft& draft, Sequence& sequence, int64_t n_tokens) {
  PageChain& chain = sequence.pages;
  const int64_t end = sequence.n_planned + n_tokens;
  while (chain.size() * limits_.page_tokens < end) {
    if (pool_.n_available() == 0 && !make_room(draft, sequence)) break;
    chain.pages.push_back(pool_.take());
  }
  return std::min(end, chain.size() * limits_.page_tokens) - sequence.n_planned;
}

/// Frees a page for `sequence` by what is worth less; false where it has to wait.
bool Scheduler::make_room(Draft& draft, const Sequence& sequence) {
  while (pool_.n_available() == 0) {
    if (pool_.n_unsettled() > 0) return false;  // they come back with the steps in flight
    if (!kept_.empty()) {
      drop_oldest_kept(0);
      continue;
    }
    const Shared youngest = active_.back();
    if (youngest->id <= sequence.id) return false;
    preempt(draft, *youngest);
  }
  return true;
}

void Scheduler::preempt(Draft& draft, Sequence& sequence) {
  const auto in_draft =
      std::find_if(draft.entries.begin(), draft.entries.end(),
                   [&](const Draft::Entry& entry) { return entry.sequence.get() == &sequence; });
  if (in_draft != draft.entries.end()) {
    draft.room += in_draft->n_tokens;
    draft.entries.erase(in_draft);
  }
  leave(sequence);
  const Shared shared = live_.at(sequence.id);
  waiting_.insert(std::upper_bound(waiting_.begin(), waiting_.end(), shared,
                                   [](const Shared& a, const Shared& b) { return a->id < b->id; }),
                  shared);
  ++stats_.n_preemptions;
}

/// Lets waiting sequences begin.
void Scheduler::admit(Draft& draft) {
  int n_passed = 0;
  for (size_t i = 0; i < waiting_.size() && !free_slots_.empty();) {
    const Shared sequence = waiting_[i];
    bool may_pass = false;
    int64_t n_spared = 0;
    if (admit_one(*sequence, n_spared, may_pass)) {
      waiting_.erase(waiting_.begin() + static_cast<int64_t>(i));
      active_.insert(std::upper_bound(active_.begin(), active_.end(), sequence,
                                      [](const Shared& a, const Shared& b) { return a->id < b->id; }),
                     sequence);
      stats_.n_spared_tokens += n_spared;
      if (!std::exchange(sequence->started, true)) draft.started.emplace_back(sequence, n_spared);
    } else if (may_pass && n_passed < kMostPassed) {
      ++n_passed;
      ++i;
    } else {
      return;
    }
  }
}

/// Gives a sequence a slot and what of it is in the cache. False where it has to wait; `may_pass` where
/// others need not wait for it.
bool Scheduler::admit_one(Sequence& sequence, int64_t& n_spared, bool& may_pass) {
  if (sequence.n_pending > 0 || !settle_session(sequence)) return false;
  const Found found = look_up(sequence);
  may_pass = is_being_computed(sequence, found);
  if (may_pass || !reserve(sequence, found)) return false;
  if (found.kept) {
    sequence.pages = std::move(kept_.at(sequence.session).pages);
  } else {
    sequence.pages.pages = found.pages;
    sequence.pages.n_named = static_cast<int64_t>(found.pages.size());
    sequence.pages.prefix = found.prefix;
    for (const int32_t page : found.pages) pool_.share(page);
    if (const auto kept = kept_.find(sequence.session); kept != kept_.end())
      release_from(kept->second.pages, 0);
  }
  kept_.erase(sequence.session);
  // Behind a kept answer nothing is as a prompt computes it.
  if (!found.kept || sequence.pages.n_prompt >= found.n_tokens) sequence.pages.n_prompt = sequence.n_prompt;
  sequence.n_planned = found.n_tokens;
  n_spared = found.n_tokens;
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  return true;
}

/// Cuts the cache that was kept for a sequence's session down to what the sequence can go on with. False
/// where steps in flight still use it.
bool Scheduler::settle_session(const Sequence& sequence) {
  const auto it = kept_.find(sequence.session);
  if (sequence.session == 0 || it == kept_.end()) return true;
  Kept& kept = it->second;
  if (kept.kept_at > pool_.n_collected()) return false;
  const auto last = sequence.tokens.begin() + sequence.n_spareable();
  const auto [mine, theirs] =
      std::mismatch(sequence.tokens.begin(), last, kept.tokens.begin(), kept.tokens.end());
  int64_t n_common = mine - sequence.tokens.begin();
  // A page that others may read is not written.
  if (n_common < kept.pages.n_named * limits_.page_tokens) n_common -= n_common % limits_.page_tokens;
  kept.tokens.resize(static_cast<size_t>(n_common));
  release_from(kept.pages, ceil_div(n_common, limits_.page_tokens));
  if (n_common == 0) kept_.erase(it);
  return true;
}

/// How many of a sequence's tokens may be taken from other sequences' pages.
int64_t Scheduler::n_findable(const Sequence& sequence) const {
  if (!limits_.share_prefixes) return 0;
  const int64_t n_spareable = sequence.n_spareable();
  return limits_.share_generated ? n_spareable : std::min(n_spareable, sequence.n_prompt);
}

Scheduler::Found Scheduler::look_up(const Sequence& sequence) const {
  Found found;
  const auto n_page = static_cast<size_t>(limits_.page_tokens);
  while (found.n_tokens + limits_.page_tokens <= n_findable(sequence)) {
    const auto tokens = std::span(sequence.tokens).subspan(static_cast<size_t>(found.n_tokens), n_page);
    const int32_t page = pool_.find(found.prefix, tokens);
    if (page < 0) break;
    found.pages.push_back(page);
    found.prefix = pool_.prefix(page);
    found.n_tokens += limits_.page_tokens;
  }
  const auto kept = sequence.session != 0 ? kept_.find(sequence.session) : kept_.end();
  if (kept == kept_.end() || static_cast<int64_t>(kept->second.tokens.size()) < found.n_tokens) return found;
  found.pages = kept->second.pages.pages;
  found.n_tokens = static_cast<int64_t>(kept->second.tokens.size());
  found.kept = true;
  return found;
}

/// Whether an active sequence is about to fill the very page that this one would compute next.
bool Scheduler::is_being_computed(const Sequence& sequence, const Found& found) const {
  const int64_t end = found.n_tokens + limits_.page_tokens;
  if (found.kept || end > n_findable(sequence)) return false;
  return std::any_of(active_.begin(), active_.end(), [&](const Shared& other) {
    const PageChain& chain = other->pages;
    return chain.names && chain.n_named * limits_.page_tokens == found.n_tokens &&
           chain.prefix == found.prefix && end <= n_nameable(chain) &&
           static_cast<int64_t>(other->tokens.size()) >= end &&
           std::equal(sequence.tokens.begin() + found.n_tokens, sequence.tokens.begin() + end,
                      other->tokens.begin() + found.n_tokens);
  });
}

/// Whether the pages are there that a sequence needs for what it has, beside those that the active ones need
/// next; gives up caches that were kept for other sessions where that is enough.
bool Scheduler::reserve(const Sequence& sequence, const Found& found) {
  while (true) {
    int64_t n_needed =
        ceil_div(sequence.length(), limits_.page_tokens) - static_cast<int64_t>(found.pages.size());
    for (const int32_t page : found.pages) n_needed += pool_.n_users(page) == 0 ? 1 : 0;
    for (const Shared& other : active_) {
      const int64_t n_next = std::min(other->length() + limits_.page_tokens, other->reach());
      n_needed += std::max<int64_t>(0, ceil_div(n_next, limits_.page_tokens) - other->pages.size());
    }
    if (pool_.n_available() >= n_needed) return true;
    if (pool_.n_unused() >= n_needed) return false;  // they come back with the steps in flight
    if (pool_.n_unused() + n_droppable(sequence, found) < n_needed) return false;
    drop_oldest_kept(sequence.session);
  }
}

/// Pages that only caches kept for other sessions hold, and that `sequence` can't use itself.
int64_t Scheduler::n_droppable(const Sequence& sequence, const Found& found) const {
  std::map<int32_t, int32_t> n_kept;  // users by page
  for (const auto& [session, kept] : kept_) {
    if (session == sequence.session) continue;
    for (const int32_t page : kept.pages.pages) ++n_kept[page];
  }
  for (const int32_t page : found.pages) n_kept.erase(page);
  return std::count_if(n_kept.begin(), n_kept.end(),
                       [&](const auto& entry) { return pool_.n_users(entry.first) == entry.second; });
}

/// Gives up the cache that was kept longest for a session other than `spared`.
void Scheduler::drop_oldest_kept(int64_t spared) {
  auto oldest = kept_.end();
  for (auto it = kept_.begin(); it != kept_.end(); ++it) {
    if (it->first == spared) continue;
    if (oldest == kept_.end() || it->second.kept_at < oldest->second.kept_at) oldest = it;
  }
  require(oldest != kept_.end(), "no kept cache is left");
  release_from(oldest->second.pages, 0);
  kept_.erase(oldest);
}

}  // namespace tandem
