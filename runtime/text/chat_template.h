// Chat templates: the Jinja program that a GGUF file carries, run by a bounded interpreter of our own with
// the meaning that jinja2 gives it under Hugging Face's apply_chat_template. Called by launch (run --chat,
// chat, batch) on rank 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

class GgufFile;

struct ChatMessage {
  std::string role;  ///< "system", "user", "assistant", …
  std::string content;
};

/// Bounds on a template and its run; a template that exceeds one is an Error(bad_data).
struct TemplateLimits {
  int64_t max_steps = 50'000'000;  ///< a step is about one node of the program, or one element of a sequence
  int max_depth = 200;             ///< of nesting in the template's text, and of recursion in its run
  size_t max_output_bytes = 16u << 20;
  size_t max_memory_bytes = 512u << 20;  ///< all that a run allocates, added up
  size_t max_source_bytes = 1u << 20;
};

class ChatTemplate {
 public:
  using Clock = std::function<std::tm()>;

  /// Parses `source`. `name` is what errors call the template (a file, or a file's key).
  /// Throws Error(bad_data) with line and reason.
  explicit ChatTemplate(const std::string& source, TemplateLimits limits = {},
                        std::string name = "chat template");
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// The model's own (key tokenizer.chat_template). Throws Error(bad_data) where the file has none, with the
  /// hint to give one.
  static ChatTemplate from_gguf(const GgufFile& file, TemplateLimits limits = {});
  /// Throws Error(io) where the file can't be read.
  static ChatTemplate from_file(const std::string& path, TemplateLimits limits = {});

  /// Renders the conversation. `bos`/`eos` are the tokens' texts. `tools` and `documents` are none.
  /// Throws Error(bad_data) where the template raises an exception itself, or fails.
  std::string render(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                     const std::string& bos, const std::string& eos) const;
  /// The same with more variables (an object: tools, enable_thinking, …), which go over the others.
  std::string render(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                     const std::string& bos, const std::string& eos,
                     const nlohmann::ordered_json& extra) const;
  /// Renders with just these variables (an object).
  std::string render(const nlohmann::ordered_json& variables) const;

  /// What strftime_now tells, in place of the system's local time.
  void set_clock(Clock clock);

 private:
  struct Program;
  std::unique_ptr<Program> program_;
};

}  // namespace tandem
