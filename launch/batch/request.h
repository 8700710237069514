// A line of a batch as what is to be computed: OpenAI's batch form ({custom_id, method, url, body}) with
// bodies of /v1/chat/completions and /v1/completions. Pure: text in, a request or a fault out; nothing a line
// holds throws or ends the program. Used by launch/batch and the fuzz target of its parser.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/engine/sampling.h"

namespace tandem {

enum class BatchEndpoint : uint8_t { chat, completions };

/// What counts where a body says nothing: the command's flags.
struct BatchDefaults {
  SamplingParams sampling;      ///< its seed is mixed into those that are made from a custom_id
  int64_t max_new_tokens = -1;  ///< −1: until the text or the context ends
  std::vector<std::string> stop;
  bool ignore_eos = false;
  std::string system;  ///< of conversations that begin without a system message; empty: none
  std::string model;   ///< the name that answers give
};

/// A prompt as text or as tokens.
using BatchPrompt = std::variant<std::string, std::vector<int32_t>>;

struct BatchRequest {
  BatchEndpoint endpoint = BatchEndpoint::chat;
  std::string model;
  nlohmann::ordered_json messages;            ///< chat: an array of {role, content as text, …}
  nlohmann::ordered_json template_variables;  ///< chat: what the template gets besides
  std::vector<BatchPrompt> prompts;           ///< completions: one at least
  int64_t n_choices = 1;                      ///< of each prompt
  int64_t max_new_tokens = -1;
  SamplingParams sampling;  ///< choice i's seed is choice_seed(sampling.seed, i)
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool echo = false;
};

/// The seed of choice `index`; 0 has the request's own.
uint64_t choice_seed(uint64_t seed, int64_t index);

/// Why a line can't be computed.
struct BatchFault {
  /// An HTTP status where the line is a request with a wrong body; 0 where it is no request at all.
  int status = 0;
  std::string code;     ///< a word for programs
  std::string message;  ///< a sentence for people
  std::string param;    ///< the body's field, or empty
};

struct BatchLine {
  std::string custom_id;  ///< empty where there is none
  std::variant<BatchFault, BatchRequest> what;
};

inline constexpr size_t kMostCustomIdBytes = 4096;
inline constexpr int64_t kMostChoices = 128;                ///< n
inline constexpr size_t kMostPrompts = 2048;                ///< of one request
inline constexpr size_t kMostAnswers = 4096;                ///< of one request: prompts times n
inline constexpr size_t kMostEchoBytes = size_t{64} << 20;  ///< of the prompts that one result repeats
inline constexpr int32_t kMostTopLogprobs = 20;             ///< as OpenAI's service has it
inline constexpr int kMostNesting = 64;                     ///< of a line's JSON

/// The messages with the arguments of tool calls as objects, which most templates want, in place of the texts
/// that OpenAI's form has; nothing where there are none that are objects.
std::optional<nlohmann::ordered_json> with_parsed_arguments(const nlohmann::ordered_json& messages);

/// Reads a line in the batch form.
BatchLine parse_batch_line(std::string_view text, const BatchDefaults& defaults);

/// A line of plain text as a request: a prompt to continue, or one message of a conversation.
BatchLine prompt_line(std::string_view text, std::string custom_id, BatchEndpoint endpoint,
                      const BatchDefaults& defaults);

}  // namespace tandem
