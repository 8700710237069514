// Executes plans on one rank: launch() begins a step, collect() hands out what the oldest one in flight came
// to. Every rank launches and collects the same steps in the same order; nothing here may depend on the rank
// but which shard it computes. Owned by Engine.
//
// Steps run in the order of their launches: one may read what those before it write. How many may be in
// flight says Backend::lookahead(); a backend without any computes all of a step in launch().
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "runtime/engine/sampler.h"
#include "runtime/engine/step_plan.h"
#include "runtime/model/model.h"

namespace tandem {

class Executor {
 public:
  /// Takes logits (n_vocab) of position `position` of the plan's sequence number `part`; on rank 0 only, in
  /// order.
  using LogitsSink = std::function<void(size_t part, int64_t position, std::span<const float> logits)>;

  Executor(Model& model, int64_t n_slots);

  /// Begins a step. The logits that its plan wants are handed to `sink` before this returns.
  void launch(const StepPlan& plan, const LogitsSink& sink = {});
  /// Ends the oldest step in flight.
  StepResults collect();
  /// Steps launched and not collected.
  int64_t n_in_flight() const { return static_cast<int64_t>(in_flight_.size()); }
  uint64_t n_launched() const { return n_launched_; }

 private:
  /// What every rank knows of a slot.
  struct Slot {
    SamplingParams sampling;
    std::vector<int32_t> history;  // all tokens so far
    int32_t latest = -1;           // sampled last
  };

  void gather_logits(const StepPlan& plan, const LogitsSink& sink);
  StepResults sample(const StepPlan& plan);

  Model& model_;
  Communicator& communicator_;
  Sampler sampler_;
  int64_t largest_shard_ = 0;
  std::vector<Slot> slots_;
  uint64_t n_launched_ = 0;
  std::deque<StepResults> in_flight_;
};

}  // namespace tandem
