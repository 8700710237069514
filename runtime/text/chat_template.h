// Chat templates: the Jinja program that a GGUF file carries, run by a bounded interpreter.
// Called by launch/commands (run --chat, chat) on rank 0.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace tandem {

class GgufFile;

struct ChatMessage {
  std::string role;  ///< "system", "user", "assistant", …
  std::string content;
};

/// Bounds on a template's run; a template that exceeds one is an Error(bad_data).
struct TemplateLimits {
  int64_t max_steps = 1'000'000;
  int max_depth = 100;
  size_t max_output_bytes = 16u << 20;
};

class ChatTemplate {
 public:
  /// Parses `source`. Throws Error(bad_data) with line and reason.
  explicit ChatTemplate(const std::string& source, TemplateLimits limits = {});
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// Renders the conversation. `bos`/`eos` are the tokens' texts; `extra` is merged into the variables
  /// (tools, enable_thinking, …). Throws Error(bad_data) where the template raises an exception itself.
  std::string render(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                     const std::string& bos, const std::string& eos) const;
  std::string render(const nlohmann::json& variables) const;

 private:
  struct Program;
  std::unique_ptr<Program> program_;
  TemplateLimits limits_;
};

}  // namespace tandem
