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

/// One sequence's part in a step: some consecutive tokens of it.
struct PlanSequence {
  int32_t slot = 0;            ///< names the sequence on every rank from its first step to its last
  int32_t first_position = 0;  ///< of its first token in this step
  std::vector<int32_t> tokens;
  std::vector<int32_t> pages;  ///< physical page ids that hold positions 0 … last of this step
  bool sample = false;         ///< choose a token from the last one's logits
  int32_t logits_from =
      -1;  ///< hand the logits of the tokens from this one on (counted in this part) to rank 0; -1: none
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
  std::vector<PlanAdmission> admissions;
  std::vector<PlanSequence> sequences;

  int64_t n_tokens() const;
  std::vector<std::byte> serialize() const;
  /// The bytes come from rank 0 of the same program: a malformed plan is a bug, not an input error.
  static StepPlan deserialize(std::span<const std::byte> bytes);
};

}  // namespace tandem
