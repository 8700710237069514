// UTF-8 by the letter of the standard: no overlong forms, no surrogates, nothing above U+10FFFF.
// Called by the tokenizers and the detokenizer. Never throws, never reads past the view.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

/// U+FFFD, what stands for bytes that are not UTF-8.
inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// What the bytes at the front of a text are.
struct Utf8Step {
  size_t n_bytes =
      0;  ///< of the sequence; where invalid, of the longest part that could have begun one (≥ 1)
  bool valid = false;      ///< a whole sequence
  bool truncated = false;  ///< not valid, but the text ended before that was certain
};

/// The step at the front of `rest`, which must not be empty.
Utf8Step utf8_step(std::string_view rest);

/// The length of the longest valid front of `text`.
size_t valid_utf8_prefix(std::string_view text);

/// Appends `code_point` (a valid one) to `out`.
void append_utf8(std::string& out, char32_t code_point);

/// The code point of the valid sequence that is the whole of `sequence`.
char32_t utf8_code_point(std::string_view sequence);

/// `text` with every byte that belongs to no valid sequence replaced by U+FFFD, one each.
std::string replace_invalid_bytes(std::string_view text);

}  // namespace tandem
