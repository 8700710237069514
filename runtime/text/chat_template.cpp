// Chat templates: the face of runtime/text/jinja. See chat_template.h.
#include "runtime/text/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "ops/core/error.h"
#include "runtime/gguf/gguf.h"
#include "runtime/text/jinja/fault.h"
#include "runtime/text/jinja/interpreter.h"
#include "runtime/text/jinja/json.h"
#include "runtime/text/jinja/parser.h"
#include "runtime/text/jinja/text.h"

namespace tandem {

namespace {

constexpr std::string_view kKey = "tokenizer.chat_template";

std::tm local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm out{};
  localtime_r(&now, &out);
  return out;
}

/// Messages come from the template and from users: one line, and not a long one.
std::string one_line(std::string text) {
  constexpr size_t kMaxBytes = 400;
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  if (text.size() <= kMaxBytes) return text;
  size_t end = kMaxBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + " …";
}

Error to_error(const std::string& name, const jinja::Fault& fault) {
  const std::string where = fault.line() > 0 ? fmt::format("{}, line {}", name, fault.line()) : name;
  return {ExitCode::bad_data, fmt::format("{}: {}", where, one_line(fault.what()))};
}

}  // namespace

struct ChatTemplate::Program {
  std::unique_ptr<jinja::Template> tree;
  TemplateLimits limits;
  std::string name;
  Clock clock = local_time;
};

ChatTemplate::ChatTemplate(const std::string& source, TemplateLimits limits, std::string name)
    : program_(std::make_unique<Program>()) {
  program_->limits = limits;
  program_->name = std::move(name);
  if (source.size() > limits.max_source_bytes) {
    throw Error(ExitCode::bad_data, fmt::format("{}: {} bytes long, more than the {} that are allowed",
                                                program_->name, source.size(), limits.max_source_bytes));
  }
  if (!jinja::is_valid_utf8(source)) throw Error(ExitCode::bad_data, program_->name + ": it is not UTF-8");
  try {
    program_->tree = jinja::parse(source, limits.max_depth);
  } catch (const jinja::Fault& fault) {
    throw to_error(program_->name, fault);
  }
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

ChatTemplate ChatTemplate::from_gguf(const GgufFile& file, TemplateLimits limits) {
  if (!file.has(kKey)) {
    throw Error(ExitCode::bad_data, fmt::format("{}: it has no chat template (key {})", file.path(), kKey),
                "give one with --chat-template-file FILE");
  }
  return ChatTemplate(file.get_string(kKey), limits, fmt::format("{}: {}", file.path(), kKey));
}

ChatTemplate ChatTemplate::from_file(const std::string& path, TemplateLimits limits) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error(ExitCode::io, fmt::format("{}: can't open the chat template", path));
  std::string source;
  std::array<char, 4096> buffer{};
  while (in && source.size() <= limits.max_source_bytes) {
    in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    source.append(buffer.data(), static_cast<size_t>(in.gcount()));
  }
  if (in.bad()) throw Error(ExitCode::io, fmt::format("{}: can't read the chat template", path));
  return ChatTemplate(source, limits, path);
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                                 const std::string& bos, const std::string& eos) const {
  return render(messages, add_generation_prompt, bos, eos, nlohmann::ordered_json::object());
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                                 const std::string& bos, const std::string& eos,
                                 const nlohmann::ordered_json& extra) const {
  if (!extra.is_object()) {
    throw Error(ExitCode::bad_data, program_->name + ": the further variables are not a JSON object");
  }
  nlohmann::ordered_json variables;
  variables["messages"] = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages) {
    variables["messages"].push_back({{"role", message.role}, {"content", message.content}});
  }
  // apply_chat_template always passes these two: "is defined" holds for them, "is none" as well.
  variables["tools"] = nullptr;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = add_generation_prompt;
  variables["bos_token"] = bos;
  variables["eos_token"] = eos;
  for (const auto& [key, value] : extra.items()) variables[key] = value;
  return render(variables);
}

std::string ChatTemplate::render(const nlohmann::ordered_json& variables) const {
  if (!variables.is_object()) {
    throw Error(ExitCode::bad_data, program_->name + ": the variables to render with are not a JSON object");
  }
  const TemplateLimits& limits = program_->limits;
  try {
    jinja::Interpreter interpreter(
        *program_->tree,
        {limits.max_steps, limits.max_depth, limits.max_output_bytes, limits.max_memory_bytes},
        program_->clock);
    jinja::Dict context;
    for (const jinja::GlobalEntry& global : jinja::global_functions()) {
      auto* function = interpreter.heap().make<jinja::Function>();
      function->name = global.name;
      function->function = global.function;
      context.set(interpreter, interpreter.string(std::string(global.name)),
                  jinja::Value::from_object(jinja::Kind::function, function));
    }
    const jinja::Value data = jinja::from_json(interpreter, variables);
    for (const auto& [key, value] : data.dict().entries) context.set(interpreter, key, value);
    return interpreter.run(jinja::Value::from_object(jinja::Kind::dict, &context));
  } catch (const jinja::Fault& fault) {
    throw to_error(program_->name, fault);
  }
}

void ChatTemplate::set_clock(Clock clock) {
  program_->clock = std::move(clock);
}

}  // namespace tandem
