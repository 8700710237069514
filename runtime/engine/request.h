// What the engine is asked for, and how it answers: by callbacks on rank 0, which may submit and cancel
// requests themselves.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/engine/sampling.h"

namespace tandem {

/// Names a request, in the order of submission; never given twice.
using RequestId = uint64_t;

/// Why a sequence ended; `stopped` also where it was cancelled.
enum class FinishReason : uint8_t { end_of_generation, length, stopped, context_full };

/// A prompt to continue.
struct GenerationRequest {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int64_t max_new_tokens = -1;  ///< −1: until the context is full
  /// Tokens that end the sequence (they are not handed out); empty: none does.
  std::function<bool(int32_t)> is_end;
  /// Called for every new token; false stops the sequence.
  std::function<bool(int32_t)> on_token;
  /// Called before on_token with the token's logprobs, where sampling.n_logprobs asks for them.
  std::function<void(const ChoiceLogprobs&)> on_logprobs;
  /// Called exactly once, last.
  std::function<void(FinishReason)> on_finish;
  /// Called when the sequence begins, with how many of the prompt's tokens a kept cache spares.
  std::function<void(int64_t n_cached)> on_start;
  /// A number other than 0 keeps the sequence's cache when it ends, and continues one that was kept under
  /// this number: what the new prompt shares with it is not computed again. A kept cache is given up where
  /// others need its pages.
  int64_t session = 0;
};

/// A text whose logits are wanted.
struct EvaluationRequest {
  std::vector<int32_t> tokens;
  int64_t first_position = 0;  ///< the first one whose logits are wanted
  /// Called for every wanted token in order with the logits (n_vocab) behind it.
  std::function<void(int64_t position, std::span<const float> logits)> on_logits;
  /// Called exactly once, last; or empty.
  std::function<void(FinishReason)> on_finish;
};

}  // namespace tandem
