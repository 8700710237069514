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
#include <optional>
#include <span>
#include <vector>

#include "runtime/engine/device_chain.h"
#include "runtime/engine/sampler.h"
#include "runtime/engine/step_plan.h"
#include "runtime/model/model.h"

namespace tandem {

class Executor {
 public:
  /// Takes logits (n_vocab) of position `position` of the plan's sequence number `part`; on rank 0 only, in
  /// order.
  using LogitsSink = std::function<void(size_t part, int64_t position, std::span<const float> logits)>;

  /// context_tokens: most of a sequence.
  Executor(Model& model, int64_t n_slots, int64_t context_tokens);

  /// Begins a step. The logits that its plan wants are handed to `sink` before this returns.
  void launch(const StepPlan& plan, const LogitsSink& sink = {});
  /// Ends the oldest step in flight.
  StepResults collect();
  /// Steps launched and not collected.
  int64_t n_in_flight() const { return static_cast<int64_t>(in_flight_.size()); }
  uint64_t n_launched() const { return n_launched_; }
  /// Steps with samples that the host sampled although there is a device that can, because of a request that
  /// the device has no room for (device_chain.h).
  uint64_t n_sampled_by_host() const { return n_sampled_by_host_; }

 private:
  /// What every rank knows of a slot.
  struct Slot {
    SamplingParams sampling;
    std::vector<int32_t> history;  // all tokens so far
    int32_t latest = -1;           // sampled last; kLatestToken while only the device knows it
    bool sampled = false;          // there is a latest
    uint64_t admission = 0;        // how many slots were admitted before: tells its sequences apart
    std::optional<tandem::sampling::Road> road;  // where a device can sample it
  };
  /// A token on its way from the device.
  struct Awaited {
    int32_t slot = 0;
    uint64_t admission = 0;
    size_t position = 0;  // of the token
  };
  struct InFlight {
    StepResults results;
    std::vector<Awaited> awaited;  // the results' tokens, where the device has them
  };

  void admit(const PlanAdmission& admission);
  void settle();
  void take_from_device(InFlight& step);
  std::vector<StepSample> await_samples(const StepPlan& plan, InFlight& step);
  bool device_samples(const StepPlan& plan) const;
  void gather_logits(const StepPlan& plan, const LogitsSink& sink);
  StepResults sample(const StepPlan& plan);

  Model& model_;
  Communicator& communicator_;
  Sampler sampler_;
  int64_t largest_shard_ = 0;
  std::vector<Slot> slots_;
  TokenSampler* device_ = nullptr;  // where the backend can choose tokens
  int64_t context_tokens_ = 0;
  uint64_t n_admitted_ = 0;
  uint64_t n_launched_ = 0;
  uint64_t n_sampled_by_host_ = 0;
  std::deque<InFlight> in_flight_;
};

}  // namespace tandem
