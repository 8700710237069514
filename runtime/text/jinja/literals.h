// Number and string literals as jinja2's lexer and Python's "unicode-escape" read them. Called by the lexer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem::jinja {

struct NumberLiteral {
  bool is_real = false;
  bool too_large = false;
  int64_t integer = 0;
  double real = 0.0;
};

/// The length of the number literal at byte `pos`, 0 where there is none.
size_t scan_number(std::string_view text, size_t pos, NumberLiteral& out);

/// A string literal's inside with its escapes resolved. Throws Fault(syntax).
std::string unescape(std::string_view inside, int line);

}  // namespace tandem::jinja
