#include "tests/runtime/text/small_vocabulary.h"

#include <fmt/format.h>

#include <array>

namespace tandem::test {

int32_t TokenList::add(std::string_view token, int32_t token_type, float token_score) {
  text.emplace_back(token);
  type.push_back(token_type);
  score.push_back(token_score);
  return static_cast<int32_t>(text.size()) - 1;
}

void TokenList::write(GgufWriter& writer) const {
  writer.add_array("tokenizer.ggml.tokens", text);
  writer.add_array("tokenizer.ggml.scores", score);
  writer.add_array("tokenizer.ggml.token_type", type);
}

TokenList spm_tokens() {
  TokenList tokens;
  tokens.add("<unk>", kUnknown);
  tokens.add("<s>", kControl);
  tokens.add("</s>", kControl);
  for (int byte = 0; byte < 256; ++byte) tokens.add(fmt::format("<0x{:02X}>", byte), kByte);
  return tokens;
}

TokenList byte_level_tokens() {
  TokenList tokens;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool prints = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    const uint32_t point = prints ? byte : next++;
    const std::array<char, 3> two = {static_cast<char>(0xC0 | (point >> 6)),
                                     static_cast<char>(0x80 | (point & 0x3F)), 0};
    tokens.add(point < 0x80 ? std::string(1, static_cast<char>(point)) : std::string(two.data()));
  }
  return tokens;
}

GgufWriter spm_file(const TokenList& tokens) {
  GgufWriter writer;
  writer.add("tokenizer.ggml.model", "llama");
  tokens.write(writer);
  return writer;
}

GgufWriter byte_level_file(const TokenList& tokens, const std::vector<std::string>& merges,
                           std::string_view pre) {
  GgufWriter writer;
  writer.add("tokenizer.ggml.model", "gpt2");
  if (!pre.empty()) writer.add("tokenizer.ggml.pre", pre);
  tokens.write(writer);
  writer.add_array("tokenizer.ggml.merges", merges);
  return writer;
}

std::unique_ptr<Tokenizer> tokenizer_of(const GgufWriter& writer) {
  const Bytes bytes = writer.bytes();
  return Tokenizer::from_gguf(GgufFile::parse(bytes, "m.gguf"));
}

}  // namespace tandem::test
