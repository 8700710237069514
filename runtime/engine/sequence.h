// What the scheduler knows of one request. Private to runtime/engine.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "runtime/engine/page_pool.h"
#include "runtime/engine/request.h"

namespace tandem {

struct Sequence {
  RequestId id = 0;
  std::vector<int32_t> tokens;  // the prompt, then what was generated, as far as it is known
  int64_t n_prompt = 0;
  int64_t wanted_new = -1;  ///< as asked for
  int64_t max_new = 0;      ///< as the context allows
  int64_t session = 0;
  SamplingParams sampling;
  bool generates = false;
  std::function<bool(int32_t)> is_end;
  std::function<bool(int32_t)> on_token;
  std::function<void(const ChoiceLogprobs&)> on_logprobs;
  std::function<void(FinishReason)> on_finish;
  std::function<void(int64_t)> on_start;
  std::function<void(int64_t, std::span<const float>)> on_logits;
  int64_t next_logits = 0;  ///< first position whose logits are wanted and not on their way yet

  // While it takes part:
  int32_t slot = -1;
  PageChain pages;
  int64_t n_planned =
      0;  ///< tokens whose keys and values are in the cache, or will be after the planned steps
  int64_t n_pending = 0;   ///< tokens that the steps in flight sample
  bool announced = false;  ///< its slot's admission is in a plan
  bool started = false;    ///< on_start was called
  bool finished = false;

  bool active() const { return slot >= 0; }
  /// Tokens it has, the pending ones included.
  int64_t length() const { return static_cast<int64_t>(tokens.size()) + n_pending; }
  int64_t n_new() const { return static_cast<int64_t>(tokens.size()) - n_prompt; }
  /// Tokens that are computed at most: the last new one isn't, since nothing follows it.
  int64_t reach() const { return n_prompt + std::max<int64_t>(0, max_new - 1); }
  /// Tokens that can be computed now.
  int64_t n_left() const { return std::min(length(), reach()) - n_planned; }
  /// Tokens whose keys and values are there and known for what they are: a token that was dropped leaves its
  /// own behind.
  int64_t n_computed() const { return std::min(n_planned, static_cast<int64_t>(tokens.size())); }
  /// How many of its tokens need not be computed where their keys and values are found: logits that are still
  /// wanted need theirs.
  int64_t n_spareable() const {
    const int64_t before_last = static_cast<int64_t>(tokens.size()) - 1;
    return on_logits ? std::min(before_last, next_logits) : before_last;
  }
};

}  // namespace tandem
