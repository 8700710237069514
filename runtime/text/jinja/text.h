// Python's str on UTF-8: code points, classes, cases, stripping, searching. Every std::string here is valid
// UTF-8 (the lexer and the data's conversion see to it). Used by runtime/text/jinja only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::jinja {

// Character classes, bits of what classes_of() gives: as Python's str.is…() have them.
inline constexpr uint32_t kAlpha = 1 << 0;
inline constexpr uint32_t kDecimal = 1 << 1;
inline constexpr uint32_t kDigit = 1 << 2;
inline constexpr uint32_t kNumeric = 1 << 3;
inline constexpr uint32_t kLower = 1 << 4;
inline constexpr uint32_t kUpper = 1 << 5;
inline constexpr uint32_t kTitle = 1 << 6;
inline constexpr uint32_t kSpace = 1 << 7;
inline constexpr uint32_t kPrintable = 1 << 8;
inline constexpr uint32_t kCaseIgnorable = 1 << 9;
inline constexpr uint32_t kIdentifierStart = 1 << 10;
inline constexpr uint32_t kIdentifierContinue = 1 << 11;

uint32_t classes_of(char32_t c);
inline bool is_space(char32_t c) {
  return (classes_of(c) & kSpace) != 0;
}
/// What str.splitlines splits at ("\r\n" is one).
bool is_line_break(char32_t c);

bool is_valid_utf8(std::string_view bytes);
size_t count_chars(std::string_view bytes);
/// The code point at byte `pos`, which moves behind it.
char32_t decode(std::string_view bytes, size_t& pos);
void append_utf8(std::string& out, char32_t c);
std::u32string to_code_points(std::string_view bytes);
std::string to_utf8(std::u32string_view chars);
/// The byte at which the `n_chars`-th code point begins (at most bytes.size()).
size_t byte_of_char(std::string_view bytes, size_t n_chars);

std::string to_upper(std::string_view bytes);
std::string to_lower(std::string_view bytes);
std::string to_title(std::string_view bytes);
std::string to_capitalized(std::string_view bytes);
std::string to_swapped_case(std::string_view bytes);

/// Without the leading and/or trailing characters that are in `chars`, or whitespace without it.
std::string_view strip(std::string_view bytes, std::optional<std::string_view> chars, bool left, bool right);

/// The byte where `needle` is found at or behind `from`, or npos. Linear in both lengths.
size_t find_bytes(std::string_view haystack, std::string_view needle, size_t from = 0);
size_t rfind_bytes(std::string_view haystack, std::string_view needle);

std::vector<std::string_view> split_lines(std::string_view bytes, bool keep_ends);

}  // namespace tandem::jinja
