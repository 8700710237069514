// Text <-> numbers. See numbers.h.
#include "runtime/text/jinja/numbers.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

/// Without underscores between digits; none where one stands elsewhere.
std::optional<std::string> without_underscores(std::string_view text) {
  const auto alnum = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() || !alnum(text[i - 1]) || !alnum(text[i + 1])) {
      return std::nullopt;
    }
  }
  return out;
}

}  // namespace

std::optional<int64_t> parse_int(std::string_view text, int base) {
  text = strip(text, std::nullopt, true, true);
  bool is_negative = false;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    is_negative = text[0] == '-';
    text.remove_prefix(1);
  }
  if (base != 0 && (base < 2 || base > 36))
    throw Fault(FaultKind::value, "int() base must be >= 2 and <= 36, or 0");
  if (text.size() >= 2 && text[0] == '0') {
    const char letter = static_cast<char>(text[1] | 0x20);
    const int prefix = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefix != 0 && (base == prefix || base == 0)) {
      base = prefix;
      text.remove_prefix(2);
      if (!text.empty() && text[0] == '_') text.remove_prefix(1);
    }
  }
  const bool leading_zero = base == 0 && text.size() > 1 && text[0] == '0';
  if (base == 0) base = 10;
  const std::optional<std::string> digits = without_underscores(text);
  if (!digits || digits->empty() || digits->front() == '-') return std::nullopt;
  if (leading_zero && digits->find_first_not_of('0') != std::string::npos) return std::nullopt;
  const std::string signed_digits = (is_negative ? "-" : "") + *digits;
  int64_t value = 0;
  const char* end = signed_digits.data() + signed_digits.size();
  const auto result = std::from_chars(signed_digits.data(), end, value, base);
  if (result.ptr != end) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) {
    throw Fault(FaultKind::overflow, "an integer goes beyond 64 bits, which templates may not use here");
  }
  return result.ec == std::errc() ? std::optional(value) : std::nullopt;
}

std::optional<double> parse_real(std::string_view text) {
  text = strip(text, std::nullopt, true, true);
  std::string_view body = text;
  const bool is_negative = !body.empty() && body[0] == '-';
  if (!body.empty() && (body[0] == '-' || body[0] == '+')) body.remove_prefix(1);
  const std::string word = to_lower(body);
  const double sign = is_negative ? -1.0 : 1.0;
  if (word == "inf" || word == "infinity") return sign * std::numeric_limits<double>::infinity();
  if (word == "nan") return std::numeric_limits<double>::quiet_NaN();
  const std::optional<std::string> digits = without_underscores(body);
  if (!digits || digits->empty() || digits->find_first_not_of("0123456789.eE+-") != std::string::npos ||
      digits->front() == '-' || digits->front() == '+') {
    return std::nullopt;
  }
  double value = 0.0;
  const char* end = digits->data() + digits->size();
  const auto result = std::from_chars(digits->data(), end, value);
  if (result.ptr != end) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) value = std::strtod(digits->c_str(), nullptr);
  return sign * value;
}

int64_t truncate_real(double value) {
  if (std::isnan(value)) throw Fault(FaultKind::value, "cannot convert float NaN to integer");
  if (std::isinf(value)) throw Fault(FaultKind::overflow, "cannot convert float infinity to integer");
  if (std::fabs(value) >= 9223372036854775808.0) {
    throw Fault(FaultKind::overflow, "an integer goes beyond 64 bits, which templates may not use here");
  }
  return static_cast<int64_t>(value);
}

double round_real(double value, int64_t precision) {
  if (!std::isfinite(value) || value == 0.0 || precision > 323) return value;
  if (precision < -308) return std::copysign(0.0, value);
  std::string buffer(400 + static_cast<size_t>(std::max<int64_t>(precision, 0)), '\0');
  if (precision >= 0) {
    std::snprintf(buffer.data(), buffer.size(), "%.*f", static_cast<int>(precision), value);
    return std::strtod(buffer.c_str(), nullptr);
  }
  // Left of the point: as many significant digits as stay, which printf rounds correctly too.
  std::snprintf(buffer.data(), buffer.size(), "%.17e", value);
  const int exponent = std::atoi(std::strchr(buffer.c_str(), 'e') + 1);
  const int64_t digits = exponent + precision;  // behind the first one
  if (digits < -1) return std::copysign(0.0, value);
  if (digits == -1) {
    const double unit = std::pow(10.0, static_cast<double>(-precision));
    return std::copysign(std::fabs(value) > unit / 2 ? unit : 0.0, value);
  }
  std::snprintf(buffer.data(), buffer.size(), "%.*e", static_cast<int>(digits), value);
  return std::strtod(buffer.c_str(), nullptr);
}

int64_t round_int(int64_t value, int64_t precision) {
  if (precision >= 0) return value;
  if (precision < -18) return 0;
  int64_t unit = 1;
  for (int64_t i = 0; i < -precision; ++i) unit *= 10;
  const int64_t remainder = ((value % unit) + unit) % unit;
  const int64_t down = value - remainder;
  const bool odd = (down / unit) % 2 != 0;
  const bool up = remainder * 2 > unit || (remainder * 2 == unit && odd);
  return up ? down + unit : down;
}

}  // namespace tandem::jinja
