// Small vocabularies for the tests of this folder, written as GGUF files in memory.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/gguf/gguf.h"
#include "runtime/text/tokenizer.h"
#include "tests/support/gguf_writer.h"

namespace tandem::test {

inline constexpr int32_t kNormal = 1;
inline constexpr int32_t kUnknown = 2;
inline constexpr int32_t kControl = 3;
inline constexpr int32_t kUserDefined = 4;
inline constexpr int32_t kUnused = 5;
inline constexpr int32_t kByte = 6;

/// The three arrays that go together.
struct TokenList {
  std::vector<std::string> text;
  std::vector<float> score;
  std::vector<int32_t> type;

  /// Appends a token and returns its id.
  int32_t add(std::string_view token, int32_t token_type = kNormal, float token_score = 0);
  void write(GgufWriter& writer) const;
};

/// <unk> <s> </s> as tokens 0, 1 and 2, then the 256 byte tokens from id 3 on.
TokenList spm_tokens();
/// The characters of the byte alphabet, byte b as token b.
TokenList byte_level_tokens();

/// A file with the model's name and the tokens; more keys may be added behind.
GgufWriter spm_file(const TokenList& tokens);
GgufWriter byte_level_file(const TokenList& tokens, const std::vector<std::string>& merges,
                           std::string_view pre = "gpt-2");

std::unique_ptr<Tokenizer> tokenizer_of(const GgufWriter& writer);

}  // namespace tandem::test
