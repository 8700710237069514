// libFuzzer target: any bytes either parse and render within their bounds, to valid UTF-8, or give
// Error(bad_data) in one line.
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "ops/core/error.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/jinja/text.h"

namespace {

using tandem::ChatTemplate;
using tandem::Error;
using tandem::ExitCode;
using tandem::TemplateLimits;

void expect(bool condition, const char* what) {
  if (condition) return;
  fmt::print(stderr, "broken promise: {}\n", what);
  std::abort();
}

TemplateLimits small_limits() {
  TemplateLimits limits;
  limits.max_steps = 20'000;
  limits.max_depth = 100;
  limits.max_output_bytes = 1u << 16;
  limits.max_memory_bytes = 1u << 22;
  limits.max_source_bytes = 1u << 14;
  return limits;
}

/// A conversation with a value of every kind.
const nlohmann::ordered_json& variables() {
  static const nlohmann::ordered_json parsed = nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße\n 你好 "},
                 {"role": "assistant", "content": null, "tool_calls": [
                   {"type": "function", "function": {"name": "f", "arguments": {"x": 1, "y": [true, 2.5]}}}]},
                 {"role": "tool", "content": "", "name": "f"}, {"role": "user", "content": [
                   {"type": "text", "text": "hi"}]}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {
      "type": "object", "properties": {"x": {"type": "integer", "description": "an x"}}, "required": ["x"]}}}],
    "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>",
    "n": 42, "f": -3.75, "big": 9223372036854775807, "nums": [3, 1, 2, 1], "empty": "", "nil": null})");
  return parsed;
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer calls it so
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const ChatTemplate chat_template(std::string(data, data + size), small_limits());
    const std::string text = chat_template.render(variables());
    expect(text.size() <= small_limits().max_output_bytes, "the output is within its bound");
    expect(tandem::jinja::is_valid_utf8(text), "the output is UTF-8");
  } catch (const Error& error) {
    const std::string what = error.what();
    expect(error.code() == ExitCode::bad_data, "an input error is bad_data");
    expect(what.size() < 1000, "a message is short");
    for (const char c : what)
      expect(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, "a message is one line");
  }
  return 0;
}
