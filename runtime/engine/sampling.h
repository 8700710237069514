// How the next token is chosen. Sampling is a function of the logits, the history, the parameters and a
// counter, never of rank count, batch or call order: noise is a function of (seed, position, token), sums of
// exponentials are exact, and every rank picks the same token from the same bytes.
#pragma once

#include <cstdint>
#include <vector>

namespace tandem {

struct LogitBias {
  int32_t token = 0;
  float bias = 0.0f;
};

inline constexpr float kLeastTemperature = 1e-6f;  ///< logits over a lower one may overflow

struct SamplingParams {
  float temperature = 0.8f;  ///< below kLeastTemperature: greedy
  int32_t top_k = 40;        ///< 0: off
  float top_p = 0.95f;       ///< 1: off
  float min_p = 0.05f;       ///< 0: off
  float repeat_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  int32_t repeat_last_n = 64;  ///< tokens that the penalties look back on; −1: all
  uint64_t seed = 0;
  std::vector<LogitBias> bias;
  int32_t n_logprobs = -1;  ///< 0 and more: hand out the chosen token's logprob and so many of the likeliest

  bool greedy() const { return !(temperature >= kLeastTemperature); }
  bool has_penalties() const {
    return repeat_penalty != 1.0f || frequency_penalty != 0.0f || presence_penalty != 0.0f;
  }
};

/// How likely the model took a token to be: the natural logarithm of the softmax over all logits as the model
/// gave them, before bias, penalties, cuts and temperature.
struct TokenLogprob {
  int32_t token = -1;
  double logprob = 0.0;
};

/// A chosen token's, and those of the likeliest tokens, in order (as many as were asked for).
struct ChoiceLogprobs {
  double chosen = 0.0;
  std::vector<TokenLogprob> top;
};

inline constexpr int32_t kMostLogprobs = 1024;  ///< of the likeliest tokens, for one choice

}  // namespace tandem
