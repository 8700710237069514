// What all ranks do in one step: rank 0's scheduler writes it, every rank executes the same one. It carries
// everything, so that no rank ever decides by itself. Flat and bounded: it travels as bytes by
// Communicator::broadcast.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/engine/sampling.h"

namespace tandem {

/// A token that the plan's writer doesn't know yet: what the latest step sampled in this slot.
inline constexpr int32_t kLatestToken = -1;

/// One sequence's part in a step: some consecutive tokens of it.
struct PlanSequence {
  int32_t slot = 0;             ///< names the sequence on every rank from its first step to its last
  int32_t first_position = 0;   ///< of its first token in this step
  std::vector<int32_t> tokens;  ///< or kLatestToken, alone
  std::vector<int32_t> pages;   ///< physical page ids that hold positions 0 … last of this step
  bool sample = false;          ///< choose a token from the last one's logits
  int32_t logits_from =
      -1;  ///< hand the logits of the tokens from this one on (counted in this part) to rank 0; -1: none
  int32_t n_prompt = 0;  ///< how many of its tokens, the first ones, are of the request's prompt
};

/// A slot begins: its sampling parameters (sent once), and the tokens that penalties shall look back on.
struct PlanAdmission {
  int32_t slot = 0;
  SamplingParams sampling;
  std::vector<int32_t> history;
};

enum class PlanKind : uint8_t { run, shutdown };

struct StepPlan {
  PlanKind kind = PlanKind::run;
  int32_t exit_code = 0;  ///< with shutdown
  uint64_t step = 0;
  /// How many of the oldest steps in flight every rank collects after launching this one. A plan without
  /// sequences launches nothing.
  int32_t n_collect = 0;
  std::vector<PlanAdmission> admissions;
  std::vector<PlanSequence> sequences;

  int64_t n_tokens() const;
  std::vector<std::byte> serialize() const;
  /// The bytes come from rank 0 of the same program: a malformed plan is a bug, not an input error.
  static StepPlan deserialize(std::span<const std::byte> bytes);
};

/// What a step came to, the same on every rank.
struct StepResults {
  uint64_t step = 0;
  std::vector<int32_t> tokens;           ///< sampled, in the order of the plan's sequences that sample
  std::vector<ChoiceLogprobs> logprobs;  ///< one a token; empty where no sequence asks for any
};

}  // namespace tandem
