// Number and string literals. See literals.h.
#include "runtime/text/jinja/literals.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>

#include "runtime/text/jinja/fault.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'z') return c - 'a' + 10;
  if (c >= 'A' && c <= 'Z') return c - 'A' + 10;
  return 99;
}

/// Digits of `base` with single underscores between them; the end, or `pos` where there are none.
size_t scan_digits(std::string_view text, size_t pos, int base) {
  size_t end = pos;
  while (end < text.size()) {
    const bool is_digit = digit_value(text[end]) < base;
    const bool parts_digits =
        text[end] == '_' && end > pos && end + 1 < text.size() && digit_value(text[end + 1]) < base;
    if (!is_digit && !parts_digits) break;
    ++end;
  }
  return end;
}

std::string without_underscores(std::string_view text) {
  std::string out(text);
  std::erase(out, '_');
  return out;
}

/// The end of a float literal, or `pos`.
size_t scan_real(std::string_view text, size_t pos) {
  if (pos > 0 && text[pos - 1] == '.') return pos;
  size_t end = scan_digits(text, pos, 10);
  if (end == pos) return pos;
  bool is_real = false;
  if (end + 1 < text.size() && text[end] == '.') {
    const size_t fraction = scan_digits(text, end + 1, 10);
    if (fraction > end + 1) {
      end = fraction;
      is_real = true;
    }
  }
  if (end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
    size_t digits = end + 1;
    if (digits < text.size() && (text[digits] == '+' || text[digits] == '-')) ++digits;
    const size_t exponent = scan_digits(text, digits, 10);
    if (exponent > digits) {
      end = exponent;
      is_real = true;
    }
  }
  return is_real ? end : pos;
}

/// `\` and up to `max` digits of `base` at `pos`, which moves behind them.
uint32_t take_number(std::string_view text, size_t& pos, size_t max, int base, bool exact, int line) {
  uint32_t value = 0;
  size_t n = 0;
  while (n < max && pos < text.size() && digit_value(text[pos]) < base) {
    value = value * static_cast<uint32_t>(base) + static_cast<uint32_t>(digit_value(text[pos]));
    ++pos;
    ++n;
  }
  if (exact && n != max) throw Fault(FaultKind::syntax, "truncated escape in a string", line);
  if (value > 0x10ffff) throw Fault(FaultKind::syntax, "illegal Unicode character in a string", line);
  if (value >= 0xd800 && value < 0xe000) {
    throw Fault(FaultKind::syntax, "a surrogate in a string, which templates may not use here", line);
  }
  return value;
}

}  // namespace

size_t scan_number(std::string_view text, size_t pos, NumberLiteral& out) {
  if (pos >= text.size() || text[pos] < '0' || text[pos] > '9') return 0;
  if (const size_t end = scan_real(text, pos); end > pos) {
    out.is_real = true;
    const std::string digits = without_underscores(text.substr(pos, end - pos));
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), out.real);
    // Python reads what is too large as inf and what is too small as 0.
    if (result.ec == std::errc::result_out_of_range) out.real = std::strtod(digits.c_str(), nullptr);
    return end - pos;
  }
  int base = 10;
  size_t begin = pos;
  size_t end = pos;
  const char second = pos + 1 < text.size() ? static_cast<char>(text[pos + 1] | 0x20) : ' ';
  if (text[pos] == '0' && (second == 'b' || second == 'o' || second == 'x')) {
    base = second == 'b' ? 2 : second == 'o' ? 8 : 16;
    begin = pos + 2;
    if (begin < text.size() && text[begin] == '_') ++begin;
    end = scan_digits(text, begin, base);
  }
  if (end <= begin) {  // no prefix, or no digit behind it
    base = 10;
    begin = pos;
    end = text[pos] == '0' ? scan_digits(text, pos, 1) : scan_digits(text, pos, 10);
  }
  const std::string digits = without_underscores(text.substr(begin, end - begin));
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), out.integer, base);
  out.too_large = result.ec == std::errc::result_out_of_range;
  return end - pos;
}

std::string unescape(std::string_view inside, int line) {
  std::string out;
  size_t i = 0;
  while (i < inside.size()) {
    if (inside[i] != '\\') {
      out += inside[i++];
      continue;
    }
    if (++i >= inside.size()) throw Fault(FaultKind::syntax, "\\ at end of string", line);
    const char c = inside[i++];
    switch (c) {
      case '\n':
        break;
      case '\\':
      case '\'':
      case '"':
        out += c;
        break;
      case 'a':
        out += '\a';
        break;
      case 'b':
        out += '\b';
        break;
      case 'f':
        out += '\f';
        break;
      case 'n':
        out += '\n';
        break;
      case 'r':
        out += '\r';
        break;
      case 't':
        out += '\t';
        break;
      case 'v':
        out += '\v';
        break;
      case 'x':
        append_utf8(out, take_number(inside, i, 2, 16, true, line));
        break;
      case 'u':
        append_utf8(out, take_number(inside, i, 4, 16, true, line));
        break;
      case 'U':
        append_utf8(out, take_number(inside, i, 8, 16, true, line));
        break;
      case 'N':
        throw Fault(FaultKind::syntax, "\\N{…} in a string, which templates may not use here", line);
      default:
        if (c >= '0' && c <= '7') {
          --i;
          append_utf8(out, take_number(inside, i, 3, 8, false, line));
        } else {
          // An unknown escape stands for itself; what is beyond ASCII, jinja2 has made an escape of before.
          out += '\\';
          --i;
          const auto code = static_cast<uint32_t>(decode(inside, i));
          if (code < 0x80) {
            out += c;
          } else {
            out += code < 0x100     ? fmt::format("x{:02x}", code)
                   : code < 0x10000 ? fmt::format("u{:04x}", code)
                                    : fmt::format("U{:08x}", code);
          }
        }
    }
  }
  return out;
}

}  // namespace tandem::jinja
