// What executes a scheduler's plans in tests: ranks without a model. A cell of a page holds a hash of the
// tokens up to its position, so that a step that attends to anything but its sequence's own past is caught;
// sampling is a function of that hash. It holds bits, too, which follow from the cell before it and from
// whether the token was computed as a prompt's: where pages with generated tokens aren't shared, they are
// the same as those of the request alone. Everything that a real executor relies on is checked, and a Fault
// thrown where it doesn't hold.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <stdexcept>
#include <vector>

#include "runtime/engine/scheduler.h"
#include "tests/support/tiny_model.h"

namespace tandem::test {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The hash of a text that goes on with `token`.
uint64_t extend_hash(uint64_t hash, int32_t token);
/// What is sampled behind a text of this hash.
int32_t sampled_behind(uint64_t hash, int64_t n_vocab);

/// What the world is told of a request, as its sampling's seed. Without one, all tokens are a prompt's.
struct Facts {
  int64_t n_prompt = 0;
  bool in_session = false;  ///< goes on behind an answer as it was generated
  uint64_t seed() const { return static_cast<uint64_t>(n_prompt) * 2 + (in_session ? 1 : 0); }
};

class SchedulerWorld {
 public:
  explicit SchedulerWorld(const SchedulerLimits& limits);

  /// One step of the loop that Engine::step() is. False where there was nothing to do.
  bool step(Scheduler& scheduler);
  /// Spoils plans on their way, to see that the checks notice.
  std::function<void(StepPlan&)> spoil_plan;
  /// Steps whose pages stay in use after the scheduler was told that they are done: 0, or a broken promise.
  size_t n_late = 0;
  /// No page with generated tokens may be shared, whatever the limits say.
  void expect_own_bits() { limits_.share_generated = false; }

  uint64_t n_launched() const { return n_launched_; }
  /// The plan of the last step().
  const StepPlan& last_plan() const { return last_plan_; }

 private:
  struct Cell {
    uint64_t hash = 0;
    uint64_t bits = 0;
    uint64_t step = 0;   // that wrote it, from 1
    uint64_t owner = 0;  // admission
  };
  struct Slot {
    uint64_t admission = 0;  // 0: never used
    std::vector<int32_t> history;
    std::vector<uint64_t> hashes;  // of the history's beginnings
    std::vector<uint64_t> bits;    // as the request alone has them
    int64_t n_prompt = 0;
    bool in_session = false;
    int32_t latest = -1;
  };
  struct InFlight {
    StepResults results;
    std::vector<std::pair<int32_t, uint64_t>> uses;  // page, admission
  };

  void launch(const StepPlan& plan, Scheduler& scheduler);
  void check_shape(const StepPlan& plan) const;
  void admit(const PlanAdmission& admission);
  static void append(Slot& slot, int32_t token);
  void extend(Slot& slot, const PlanSequence& part);
  void write(const Slot& slot, const PlanSequence& part);
  void attend(const Slot& slot, const PlanSequence& part) const;
  Cell& cell(const PlanSequence& part, int64_t position);
  const Cell& cell(const PlanSequence& part, int64_t position) const;

  SchedulerLimits limits_;
  std::vector<Cell> cells_;  // (n_pages, page_tokens)
  std::vector<Slot> slots_;
  std::deque<InFlight> in_flight_;  // not collected yet
  std::deque<InFlight> late_;       // collected, but see n_late
  uint64_t n_launched_ = 0;
  uint64_t n_admissions_ = 0;
  StepPlan last_plan_;
};

}  // namespace tandem::test
