// One value under one format specification. See format_spec.h.
#include "runtime/text/jinja/format_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/runtime.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

constexpr std::string_view kAligns = "<>=^";
constexpr int64_t kMaxPrecision = 1000;

std::string repeated(Runtime& runtime, const std::string& fill, int64_t n) {
  std::string out;
  if (n <= 0) return out;
  runtime.heap().charge(static_cast<size_t>(n) * fill.size());
  for (int64_t i = 0; i < n; ++i) out += fill;
  return out;
}

/// `sign` stands before the padding where the alignment is '='.
std::string pad(Runtime& runtime, const std::string& sign, const std::string& body, const FormatSpec& spec,
                char natural_align) {
  const auto have = static_cast<int64_t>(count_chars(sign) + count_chars(body));
  const int64_t missing = std::max<int64_t>(spec.width - have, 0);
  const char align = spec.align == '\0' ? natural_align : spec.align;
  if (align == '=') return sign + repeated(runtime, spec.fill, missing) + body;
  int64_t left = 0;
  if (align == '>') left = missing;
  if (align == '^') left = missing / 2;
  return repeated(runtime, spec.fill, left) + sign + body + repeated(runtime, spec.fill, missing - left);
}

std::string sign_of(bool is_negative, const FormatSpec& spec) {
  if (is_negative) return "-";
  return spec.sign == '-' ? "" : std::string(1, spec.sign);
}

/// 1234567 -> 1,234,567.
std::string grouped(const std::string& digits, char separator, size_t per_group) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % per_group == 0) out += separator;
    out += digits[i];
  }
  return out;
}

/// Zeros that '=' would put before a grouped number are grouped too.
std::string group_and_fill(Runtime& runtime, std::string digits, const FormatSpec& spec, size_t taken,
                           size_t per_group) {
  if (spec.grouping == '\0') return digits;
  if (spec.fill == "0" && (spec.align == '=' || spec.align == '\0')) {
    const auto width = static_cast<size_t>(spec.width);
    runtime.heap().charge(width * 2);
    while (grouped(digits, spec.grouping, per_group).size() + taken < width) {
      runtime.scan(digits.size() * 2);
      digits.insert(digits.begin(), '0');
    }
  }
  return grouped(digits, spec.grouping, per_group);
}

[[noreturn]] void fail_type(char type, std::string_view name) {
  throw Fault(FaultKind::value, fmt::format("Unknown format code '{}' for object of type '{}'", type, name));
}

std::string digits_in_base(uint64_t value, char type) {
  switch (type) {
    case 'b':
      return fmt::format("{:b}", value);
    case 'o':
      return fmt::format("{:o}", value);
    case 'x':
      return fmt::format("{:x}", value);
    case 'X':
      return fmt::format("{:X}", value);
    default:
      return fmt::format("{}", value);
  }
}

std::string printed(double value, char conversion, int64_t precision, bool alternate) {
  const std::string pattern = std::string(alternate ? "%#.*" : "%.*") + conversion;
  const int n = std::snprintf(nullptr, 0, pattern.c_str(), static_cast<int>(precision), value);
  std::string out(static_cast<size_t>(n), '\0');
  std::snprintf(out.data(), out.size() + 1, pattern.c_str(), static_cast<int>(precision), value);
  return out;
}

/// The digits of |value|, without sign.
std::string real_digits(double magnitude, const FormatSpec& spec) {
  const char type = spec.type;
  const char lower = static_cast<char>(type | 0x20);
  if (std::isnan(magnitude) || std::isinf(magnitude)) {
    const bool large = type == 'F' || type == 'E' || type == 'G';
    const std::string word = std::isnan(magnitude) ? (large ? "NAN" : "nan") : (large ? "INF" : "inf");
    return type == '%' ? word + "%" : word;
  }
  if (type == '%')
    return printed(magnitude * 100.0, 'f', spec.precision < 0 ? 6 : spec.precision, spec.alternate) + "%";
  if (type == '\0' && spec.precision < 0) return repr_real(magnitude);
  if (lower == 'e' || lower == 'f')
    return printed(magnitude, type, spec.precision < 0 ? 6 : spec.precision, spec.alternate);
  const int64_t precision = spec.precision < 0 ? 6 : std::max<int64_t>(spec.precision, 1);
  if (type != '\0') return printed(magnitude, type == 'n' ? 'g' : type, precision, spec.alternate);
  // No type but a precision: like 'g', but with at least one digit behind the point.
  std::string out = printed(magnitude, 'g', precision, spec.alternate);
  const int exponent = magnitude == 0.0 ? 0 : static_cast<int>(std::floor(std::log10(magnitude)));
  if (out.find('e') == std::string::npos && exponent + 1 >= precision) {
    out = printed(magnitude, 'e', precision - 1, spec.alternate);
  }
  if (out.find_first_of("e.") == std::string::npos) out += ".0";
  return out;
}

std::string format_character(Runtime& runtime, int64_t code, const FormatSpec& spec) {
  if (code < 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
    throw Fault(FaultKind::overflow, "%c arg not in range(0x110000)");
  }
  std::string text;
  append_utf8(text, static_cast<char32_t>(code));
  return pad(runtime, "", text, spec, '>');
}

}  // namespace

FormatSpec parse_format_spec(std::string_view text, bool is_number) {
  FormatSpec spec;
  const std::u32string chars = to_code_points(text);
  size_t i = 0;
  const auto at = [&](size_t k) {
    return k < chars.size() && chars[k] < 0x80 ? static_cast<char>(chars[k]) : '\0';
  };
  const auto is_align = [&](size_t k) {
    return at(k) != '\0' && kAligns.find(at(k)) != std::string_view::npos;
  };
  const bool has_fill = is_align(1);
  if (has_fill) {
    spec.fill = to_utf8(std::u32string_view(chars).substr(0, 1));
    spec.align = at(1);
    i = 2;
  } else if (is_align(0)) {
    spec.align = at(0);
    i = 1;
  }
  if (at(i) == '+' || at(i) == '-' || at(i) == ' ') spec.sign = at(i++);
  if (at(i) == '#') spec.alternate = ++i > 0;
  if (!has_fill && at(i) == '0') {
    ++i;
    spec.fill = "0";
    if (spec.align == '\0' && is_number) spec.align = '=';
  }
  const auto number = [&] {
    int64_t n = 0;
    for (; at(i) >= '0' && at(i) <= '9'; ++i) {
      n = n * 10 + (at(i) - '0');
      if (n > INT32_MAX) throw Fault(FaultKind::value, "Too many decimal digits in format string");
    }
    return n;
  };
  spec.width = number();
  if (at(i) == ',' || at(i) == '_') spec.grouping = at(i++);
  if (at(i) == '.') {
    const size_t before = ++i;
    spec.precision = number();
    if (i == before) throw Fault(FaultKind::value, "Format specifier missing precision");
  }
  if (i < chars.size()) spec.type = at(i++);
  if (i < chars.size() ||
      (i > 0 && !chars.empty() && chars.back() >= 0x80 && i == chars.size() && spec.type == '\0')) {
    throw Fault(FaultKind::value, "Invalid format specifier");
  }
  return spec;
}

std::string format_text(Runtime& runtime, std::string_view text, const FormatSpec& spec) {
  if (spec.precision >= 0) text = text.substr(0, byte_of_char(text, static_cast<size_t>(spec.precision)));
  return pad(runtime, "", std::string(text), spec, '<');
}

std::string format_integer(Runtime& runtime, int64_t value, const FormatSpec& spec) {
  if (spec.precision >= 0) throw Fault(FaultKind::value, "Precision not allowed in integer format specifier");
  const uint64_t magnitude = value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  std::string digits = digits_in_base(magnitude, spec.type);
  if (spec.least_digits > static_cast<int64_t>(digits.size())) {
    digits = repeated(runtime, "0", spec.least_digits - static_cast<int64_t>(digits.size())) + digits;
  }
  std::string sign = sign_of(value < 0, spec);
  if (spec.alternate && (spec.type == 'x' || spec.type == 'X' || spec.type == 'o' || spec.type == 'b')) {
    sign += std::string("0") + spec.type;
  }
  const bool decimal = spec.type == 'd' || spec.type == 'n' || spec.type == '\0';
  digits = group_and_fill(runtime, digits, spec, sign.size(), decimal ? 3 : 4);
  return pad(runtime, sign, digits, spec, '>');
}

std::string format_real(Runtime& runtime, double value, const FormatSpec& spec) {
  if (spec.precision > kMaxPrecision) throw Fault(FaultKind::value, "precision too big");
  std::string digits = real_digits(std::fabs(value), spec);
  const std::string sign = sign_of(std::signbit(value) && !std::isnan(value), spec);
  if (spec.grouping != '\0') {
    const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
    const std::string rest = digits.substr(whole);
    digits = group_and_fill(runtime, digits.substr(0, whole), spec, sign.size() + rest.size(), 3) + rest;
  }
  return pad(runtime, sign, digits, spec, '>');
}

std::string format_value(Runtime& runtime, const Value& value, std::string_view text) {
  if (text.empty()) return to_str(runtime, value);
  const FormatSpec spec = parse_format_spec(text, value.is_number());
  const auto is_one_of = [&](std::string_view types) {
    return spec.type == '\0' || types.find(spec.type) != std::string_view::npos;
  };
  switch (value.kind) {
    case Kind::string:
      if (!is_one_of("s")) fail_type(spec.type, "str");
      if (spec.sign != '-' || spec.alternate || spec.grouping != '\0' || spec.align == '=') {
        throw Fault(FaultKind::value, "a format specifier that strings don't take");
      }
      return format_text(runtime, value.view(), spec);
    case Kind::boolean:
    case Kind::integer:
      if (is_one_of("eEfFgG%") && spec.type != '\0')
        return format_real(runtime, static_cast<double>(value.as_int()), spec);
      if (spec.type == 'c') return format_character(runtime, value.as_int(), spec);
      if (!is_one_of("bdoxXn")) fail_type(spec.type, type_name(value));
      return format_integer(runtime, value.as_int(), spec);
    case Kind::real:
      if (!is_one_of("eEfFgGn%")) fail_type(spec.type, "float");
      return format_real(runtime, value.real, spec);
    default:
      throw Fault(FaultKind::type,
                  fmt::format("unsupported format string passed to {}.__format__", type_name(value)));
  }
}

}  // namespace tandem::jinja
