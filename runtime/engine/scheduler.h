// Which sequences take part in which step: requests in, plans out, results in, callbacks out. Pure: it knows
// no model, no communicator and no clock, so that a test can simulate it
// (tests/runtime/engine/test_scheduler*.cpp). Rank 0's Engine owns one and executes its plans.
//
// The rules:
// - Everything that generates takes part in every step; prompts fill the rest, in parts of at most
//   prompt_tokens a step together. Half of that goes to the oldest prompt, so that each arrives; the other
//   half to those with the least left, so that a short one never waits for a long one.
// - Pages are taken when they are needed. Where there are none, caches that were kept for sessions are given
// up,
//   then the youngest sequence is preempted: its pages go, its tokens stay, and it is computed again when
//   there is room. The oldest can always take all pages, so it always ends, and then the next one is the
//   oldest.
// - A sequence begins when a slot is free and the pages for what it has, and for what those before it have
// and
//   need next, are there; in the order of submission, but that one whose next page an older one is about to
//   compute waits for that page and lets others pass.
// - A plan may be asked for before the results of the last ones are there (`lookahead`): its token −1 is
//   the one that the latest step samples in that slot. An end is then seen some steps late, and what was
//   sampled behind it is dropped.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "ops/core/page.h"
#include "runtime/engine/page_pool.h"
#include "runtime/engine/request.h"
#include "runtime/engine/step_plan.h"

namespace tandem {

struct Sequence;

struct SchedulerLimits {
  int64_t n_pages = 0;
  int64_t page_tokens = kPageTokens;
  int64_t step_tokens = 512;                                  ///< most tokens in a step
  int64_t prompt_tokens = 512;                                ///< most of them for prompts
  int64_t context_tokens = 4096;                              ///< of one sequence
  int64_t max_sequences = 256;                                ///< at once: the number of slots
  int64_t max_waiting = std::numeric_limits<int64_t>::max();  ///< that have not begun
  int64_t n_vocab = 0;
  int lookahead = 0;  ///< steps that may be planned before the results of the one before them are known
  bool share_prefixes = true;
  bool share_generated = true;  ///< also pages with generated tokens; else pages of prompts alone
};

struct SchedulerStats {
  int64_t n_waiting = 0;
  int64_t n_active = 0;
  int64_t n_in_flight = 0;       ///< steps
  int64_t n_pages_used = 0;      ///< by sequences and kept sessions
  int64_t n_pages_findable = 0;  ///< that nobody uses
  // since the beginning
  int64_t n_planned_tokens = 0;
  int64_t n_spared_tokens = 0;  ///< that were found in the cache
  int64_t n_preemptions = 0;
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);
  ~Scheduler();

  /// Queues a request. Throws Error(usage) where the prompt is empty, exceeds the context or has a token that
  /// is none, Error(unavailable) where the cache can never hold it or too many wait.
  RequestId submit(GenerationRequest request);
  RequestId submit(EvaluationRequest request);
  /// Ends a request early (on_finish(stopped)); false where it has ended already.
  bool cancel(RequestId id);
  void cancel_all();
  /// Something was asked for that has not ended, or a launched step's results are still to come.
  bool busy() const { return !live_.empty() || !in_flight_.empty(); }

  /// The next step, to be launched at once, and how many of the oldest steps in flight are to be collected
  /// then. Without sequences there is nothing to launch, only to collect. Only while busy().
  StepPlan plan();
  /// Logits of the plan's sequence number `part`, at any time between plan() and take().
  void take_logits(uint64_t step, size_t part, int64_t position, std::span<const float> logits);
  /// The results of the oldest step in flight.
  void take(const StepResults& results);

  SchedulerStats stats() const;
  const SchedulerLimits& limits() const { return limits_; }
  /// Ends the program where the books don't agree. Slow: for tests.
  void check() const;

 private:
  using Shared = std::shared_ptr<Sequence>;
  /// A cache without a sequence.
  struct Kept {
    std::vector<int32_t> tokens;
    PageChain pages;
    uint64_t kept_at = 0;  // steps launched until then
  };
  /// A sequence's part in a launched step.
  struct Part {
    Shared sequence;
    bool sample = false;
    bool last = false;  // nothing of it is left to compute or to sample
  };
  struct InFlight {
    uint64_t step = 0;
    std::vector<Part> parts;
  };
  struct Draft;
  struct Found;

  RequestId queue(Shared sequence);
  void finish(const Shared& sequence, FinishReason reason);
  void end_by_length(const Shared& sequence);
  void accept(const Shared& sequence, int32_t token, const ChoiceLogprobs* logprobs);
  void keep(Sequence& sequence);
  void leave(Sequence& sequence);

  // planning
  void plan_decodes(Draft& draft);
  void plan_prompts(Draft& draft);
  std::vector<int64_t> share_out(const std::vector<Shared>& prompts, int64_t n_tokens) const;
  void write(Draft& draft, StepPlan& plan);
  PlanSequence write_part(Sequence& sequence, int64_t n_tokens, Part& part);
  int64_t grow(Draft& draft, Sequence& sequence, int64_t n_tokens);
  bool make_room(Draft& draft, const Sequence& sequence);
  void preempt(Draft& draft, Sequence& sequence);
  void admit(Draft& draft);
  bool admit_one(Sequence& sequence, int64_t& n_spared, bool& may_pass);
  bool settle_session(const Sequence& sequence);
  int64_t n_findable(const Sequence& sequence) const;
  Found look_up(const Sequence& sequence) const;
  bool is_being_computed(const Sequence& sequence, const Found& found) const;
  bool reserve(const Sequence& sequence, const Found& found);
  int64_t n_droppable(const Sequence& sequence, const Found& found) const;
  void drop_oldest_kept(int64_t spared);

  // pages
  void name_pages(Sequence& sequence);
  int64_t n_nameable(const PageChain& chain) const;
  void release_from(PageChain& chain, int64_t first);

  SchedulerLimits limits_;
  PagePool pool_;
  RequestId next_id_ = 1;
  std::map<RequestId, Shared> live_;
  std::vector<Shared> waiting_;  // by age
  std::vector<Shared> active_;   // by age
  std::vector<int32_t> free_slots_;
  RequestId last_turn_ = 0;       // the one that generated last where not all can in one step
  std::map<int64_t, Kept> kept_;  // by session
  std::deque<InFlight> in_flight_;
  SchedulerStats stats_;
};

}  // namespace tandem
