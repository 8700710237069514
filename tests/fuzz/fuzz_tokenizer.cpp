// libFuzzer target: any vocabulary is either refused with Error(bad_data) in one line, or it takes any text
// and its promises hold. The input is in sections, told apart by byte 01:
//   settings (a byte each, see read_settings) | tokens, a line each, the last byte being the kind | merges |
//   text
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "ops/core/error.h"
#include "runtime/gguf/gguf.h"
#include "runtime/text/byte_level.h"
#include "runtime/text/tokenizer.h"
#include "runtime/text/utf8.h"
#include "tests/support/gguf_writer.h"

namespace {

using tandem::Error;
using tandem::Tokenizer;

void expect(bool condition, const char* what) {
  if (condition) return;
  fmt::print(stderr, "broken promise: {}\n", what);
  std::abort();
}

void check_message(const Error& error) {
  const std::string what = error.what();
  expect(error.code() == tandem::ExitCode::bad_data, "an input error is bad_data");
  expect(what.size() < 1000, "a message is short");
  for (const char c : what)
    expect(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F, "a message is one line");
}

/// The front of `rest` up to `separator`, which is taken away with it.
std::string_view cut(std::string_view& rest, char separator) {
  const size_t end = std::min(rest.find(separator), rest.size());
  const std::string_view front = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return front;
}

struct Settings {
  bool is_spm = false;
  bool spells_bytes = false;  // the vocabulary begins with a token for each byte
  std::string_view pre;
  bool has_bos = false;
  uint32_t bos = 0;
  uint8_t flags = 0;
};

Settings read_settings(std::string_view bytes) {
  constexpr std::array<std::string_view, 12> kPre = {
      "gpt-2",          "llama-bpe",   "qwen2",  "smollm", "falcon", "deepseek-llm",
      "deepseek-coder", "deepseek-v3", "tekken", "gpt-4o", "bloom",  ""};
  const auto at = [bytes](size_t i) {
    return i < bytes.size() ? static_cast<uint8_t>(bytes[i]) : uint8_t{0};
  };
  Settings settings;
  settings.is_spm = (at(0) & 1) != 0;
  settings.spells_bytes = (at(0) & 2) != 0;
  settings.pre = kPre[at(1) % kPre.size()];
  settings.has_bos = bytes.size() > 2;
  settings.bos = at(2);
  settings.flags = at(3);
  return settings;
}

tandem::test::Bytes vocabulary(const Settings& settings, std::string_view token_lines,
                               std::string_view merge_lines) {
  tandem::test::GgufWriter file;
  file.add("tokenizer.ggml.model", settings.is_spm ? "llama" : "gpt2");
  file.add("tokenizer.ggml.pre", settings.pre);
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (size_t byte = 0; settings.spells_bytes && byte < 256; ++byte) {
    tokens.push_back(settings.is_spm ? fmt::format("<0x{:02X}>", byte) : tandem::byte_characters()[byte]);
    types.push_back(settings.is_spm ? 6 : 1);
    scores.push_back(0);
  }
  while (!token_lines.empty()) {
    const std::string_view line = cut(token_lines, '\n');
    tokens.emplace_back(line.substr(0, line.empty() ? 0 : line.size() - 1));
    types.push_back(line.empty() ? 1 : line.back() & 7);
    scores.push_back(line.empty() ? 0.0F : -static_cast<float>(static_cast<uint8_t>(line.back()) >> 3));
  }
  std::vector<std::string> merges;
  while (!merge_lines.empty()) merges.emplace_back(cut(merge_lines, '\n'));
  file.add_array("tokenizer.ggml.tokens", tokens);
  file.add_array("tokenizer.ggml.scores", scores);
  file.add_array("tokenizer.ggml.token_type", types);
  file.add_array("tokenizer.ggml.merges", merges);
  if (settings.has_bos) file.add("tokenizer.ggml.bos_token_id", settings.bos);
  if ((settings.flags & 1) != 0) file.add("tokenizer.ggml.add_space_prefix", false);
  if ((settings.flags & 2) != 0) file.add("tokenizer.ggml.remove_extra_whitespaces", true);
  if ((settings.flags & 4) != 0) file.add("tokenizer.ggml.add_eos_token", true);
  if ((settings.flags & 8) != 0) file.add("general.name", "phi-3");
  return file.bytes();
}

void check_text(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool add_special : {false, true}) {
    for (const bool parse_special : {false, true}) {
      const auto ids = tokenizer.encode(text, {.add_special = add_special, .parse_special = parse_special});
      tandem::StreamingDetokenizer detokenizer(tokenizer);
      for (const int32_t id : ids) {
        expect(id >= 0 && id < tokenizer.n_tokens(), "ids are of the vocabulary");
        expect(add_special || parse_special || !tokenizer.is_control(id), "text gives no control token");
        const std::string part = detokenizer.push(id);
        expect(tandem::valid_utf8_prefix(part) == part.size(), "streamed text is UTF-8");
      }
      const std::string last = detokenizer.finish();
      expect(tandem::valid_utf8_prefix(last) == last.size(), "the last piece is UTF-8");
      (void)tokenizer.decode(ids, true);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const Settings settings = read_settings(cut(rest, '\1'));
  const std::string_view tokens = cut(rest, '\1');
  const std::string_view merges = cut(rest, '\1');
  const tandem::test::Bytes bytes = vocabulary(settings, tokens, merges);
  try {
    const auto tokenizer = Tokenizer::from_gguf(tandem::GgufFile::parse(bytes, "m.gguf"));
    check_text(*tokenizer, rest);
  } catch (const Error& error) {
    check_message(error);
  }
  return 0;
}
