// One value under one format specification, as Python's format() has it. Called by format.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

/// [[fill]align][sign][#][0][width][grouping][.precision][type]
struct FormatSpec {
  std::string fill = " ";
  char align = '\0';  ///< '<', '>', '^', '=' or the type's own
  char sign = '-';
  bool alternate = false;
  int64_t width = 0;
  char grouping = '\0';
  int64_t precision = -1;
  char type = '\0';
  int64_t least_digits = -1;  ///< of an integer under %.5d
};

/// Throws Fault(value) for a specification that Python refuses.
/// `is_number`: what a leading 0 pads.
FormatSpec parse_format_spec(std::string_view text, bool is_number);

std::string format_text(Runtime& runtime, std::string_view text, const FormatSpec& spec);
std::string format_integer(Runtime& runtime, int64_t value, const FormatSpec& spec);
std::string format_real(Runtime& runtime, double value, const FormatSpec& spec);

/// format(value, spec).
std::string format_value(Runtime& runtime, const Value& value, std::string_view spec);

}  // namespace tandem::jinja
