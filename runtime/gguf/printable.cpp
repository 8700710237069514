#include "runtime/gguf/printable.h"

#include <fmt/format.h>

#include <cstdint>

namespace tandem {
namespace {

constexpr size_t kQuotedCharacters = 80;

struct CodePoint {
  uint32_t value = 0;
  size_t n_bytes = 0;  ///< 0: the bytes are not UTF-8
};

/// The code point at the front of `text` (not empty). Overlong forms and surrogates count as invalid.
CodePoint decode_front(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[i])); };
  const uint32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  const size_t n_bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < n_bytes) return {};
  uint32_t value = first & (0x7fU >> n_bytes);
  for (size_t i = 1; i < n_bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3f);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool valid = value >= kSmallest[n_bytes] && value <= 0x10ffff && (value < 0xd800 || value > 0xdfff);
  return valid ? CodePoint{value, n_bytes} : CodePoint{};
}

/// Characters that move the cursor, break the line or reorder what is shown.
bool is_unsafe(uint32_t c) {
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

}  // namespace

std::string printable(std::string_view text, size_t max_characters) {
  std::string line;
  for (size_t n_characters = 0; !text.empty(); ++n_characters) {
    if (n_characters == max_characters) return line + "…";
    const CodePoint c = decode_front(text);
    if (c.n_bytes == 0) {
      line += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0]));
    } else if (c.value == '\n') {
      line += "\\n";
    } else if (c.value == '\t') {
      line += "\\t";
    } else if (c.value == '\\') {
      line += "\\\\";
    } else if (is_unsafe(c.value)) {
      line += c.value < 0x80 ? fmt::format("\\x{:02x}", c.value) : fmt::format("\\u{{{:x}}}", c.value);
    } else {
      line += text.substr(0, c.n_bytes);
    }
    text.remove_prefix(c.n_bytes == 0 ? 1 : c.n_bytes);
  }
  return line;
}

std::string in_quotes(std::string_view text) {
  return fmt::format("'{}'", printable(text, kQuotedCharacters));
}

}  // namespace tandem
