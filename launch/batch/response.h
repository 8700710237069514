// A batch's results as lines of JSON, in the form that OpenAI's batch service gives: {id, custom_id,
// response, error}. Pure functions of what was computed and of the run's identity: no clock, no random
// number, so that a run that was interrupted writes the bytes that an uninterrupted one writes. Used by
// launch/batch on rank 0.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "launch/batch/request.h"
#include "launch/hash.h"
#include "runtime/engine/sampler.h"

namespace tandem {

/// One finished answer.
struct BatchChoice {
  std::string text;
  bool reached_length = false;  ///< ended by max_tokens or by the context; else by its end or a stop text
  bool cut_by_stop = false;     ///< a stop text was met: the text ends before its tokens do
  int64_t n_new = 0;            ///< tokens
  // (n_new) each, where logprobs were asked for
  std::vector<int32_t> tokens;
  /// Where in the text each begins, in bytes; behind bytes that are no whole character: where those begin.
  std::vector<size_t> offsets;
  std::vector<ChoiceLogprobs> logprobs;
};

/// What all results of a run share.
struct BatchIdentity {
  Hash128 run;          ///< of model, options and input
  int64_t created = 0;  ///< what the answers give as their time
};

/// A token's bytes; with `show_special` also of those that texts don't show ("<|im_end|>").
using TokenBytes = std::function<std::string(int32_t token, bool show_special)>;

/// Answers in the order of choices: those of the first prompt, then those of the second one.
std::string answer_line(const BatchIdentity& identity, uint64_t line_number, const std::string& custom_id,
                        const BatchRequest& request, int64_t n_prompt_tokens,
                        const std::vector<BatchChoice>& choices, const TokenBytes& token_bytes);

/// `custom_id` empty: null in the output.
std::string fault_line(const BatchIdentity& identity, uint64_t line_number, const std::string& custom_id,
                       const BatchFault& fault);

/// How every result of this line in this run begins: by it a finished output is known.
std::string line_beginning(const BatchIdentity& identity, uint64_t line_number);
/// True for a line of answer_line(), false for one of fault_line().
bool is_answer(std::string_view line);

}  // namespace tandem
