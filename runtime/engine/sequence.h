// What rank 0's scheduler knows of one sequence. Private to runtime/engine.
#pragma once

#include <functional>
#include <vector>

#include "ops/core/page.h"
#include "runtime/engine/engine.h"

namespace tandem {

struct Engine::Sequence {
  std::vector<int32_t> tokens;  // the prompt, then what was generated
  std::vector<int32_t> pages;   // reserved for all positions it can reach
  SamplingParams sampling;
  int64_t n_prompt = 0;
  int64_t n_computed = 0;   ///< tokens whose keys and values are in the cache
  int64_t n_new = 0;        ///< tokens generated
  int64_t wanted_new = -1;  ///< as asked for
  int64_t max_new = 0;      ///< as the context allows
  int64_t session = 0;
  int64_t logits_from = 0;  ///< first position whose logits are wanted, where on_logits is set
  int32_t slot = -1;
  bool generates = false;
  bool finished = false;
  std::function<bool(int32_t)> is_end;
  std::function<bool(int32_t)> on_token;
  std::function<void(const ChoiceLogprobs&)> on_logprobs;
  std::function<void(FinishReason)> on_finish;
  std::function<void(int64_t)> on_start;
  std::function<void(int64_t, std::span<const float>)> on_logits;

  int64_t n_left() const { return static_cast<int64_t>(tokens.size()) - n_computed; }
};

/// Hands rank 0's plan to the others.
void broadcast_plan(Communicator& communicator, const StepPlan& plan);
/// Receives it there.
StepPlan receive_plan(Communicator& communicator);

}  // namespace tandem
