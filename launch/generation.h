// One answer: from prompt tokens to streamed text and its timings. What `run` and `chat` share.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/option_parser.h"
#include "launch/session.h"
#include "runtime/text/chat_template.h"

namespace tandem {

struct ChatOptions {
  std::string system;         ///< --system-prompt
  std::string template_file;  ///< --chat-template-file: in place of the model's own
};
void add_chat_options(OptionParser& parser, ChatOptions& options);

/// The model's template, or the given file's. Throws Error{bad_data} where there is none.
ChatTemplate open_chat_template(const ChatOptions& options, const GgufFile& file);

/// The conversation's tokens up to where the assistant is to speak.
std::vector<int32_t> encode_chat(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                                 const Tokenizer& tokenizer);

/// The same of messages that are JSON objects (role, content, and what else a template may read); `variables`
/// (an object) are what the template gets besides.
std::vector<int32_t> encode_messages(const ChatTemplate& chat_template,
                                     const nlohmann::ordered_json& messages,
                                     const nlohmann::ordered_json& variables, const Tokenizer& tokenizer);

/// The engine's parameters; draws a seed and tells it where none was given.
SamplingParams sampling_params(const SamplingOptions& options);

/// Bytes read, time, memory and placement, as notes (more with -v). Collective.
void report_load(Session& session, Communicator& communicator);

/// A line of each rank for -v, once it has computed: what its step buffers take.
void report_workspace(Session& session);

/// How long the ranks' GPUs had no step to work on since the first one, as a note; nothing of CPUs.
/// Collective, once all steps are done.
void report_device_time(Session& session, Communicator& communicator);

class Generation {
 public:
  /// at_start: what is generated begins a text, as an answer does and a continuation doesn't.
  Generation(Session& session, SamplingParams sampling, std::vector<std::string> stops, bool ignore_eos,
             bool at_start)
      : session_(session),
        sampling_(std::move(sampling)),
        stops_(std::move(stops)),
        ignore_eos_(ignore_eos),
        at_start_(at_start) {}

  /// Generates at most `n_predict` tokens (−1: until the context is full). `on_text` gets each piece; false
  /// ends the answer. `keep` names an engine session whose cache is continued (0: none). Returns 0, or 128 +
  /// signal.
  int run(std::vector<int32_t> tokens, int64_t n_predict,
          const std::function<bool(const std::string&)>& on_text, int64_t keep = 0);

  /// Asked before every step; true ends the answer at once (the user interrupted it).
  void set_interrupt(std::function<bool()> interrupt) { interrupt_ = std::move(interrupt); }

  const std::string& text() const { return text_; }
  FinishReason finish_reason() const { return finish_reason_; }
  /// The speed, as a note on stderr.
  void report() const;

 private:
  Session& session_;
  SamplingParams sampling_;
  std::vector<std::string> stops_;
  bool ignore_eos_;
  bool at_start_;
  std::function<bool()> interrupt_;
  std::string text_;
  FinishReason finish_reason_ = FinishReason::stopped;
  int64_t n_prompt_ = 0;
  int64_t n_cached_ = 0;  // tokens of the prompt that the conversation's cache spared
  int64_t n_new_ = 0;
  double first_token_s_ = 0.0;
  double total_s_ = 0.0;
};

}  // namespace tandem
