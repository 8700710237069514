// Text <-> numbers as Python's int(), float() and round() have it. Used by filters and format.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

/// int(text, base); none where Python raises ValueError. Throws Fault(overflow) beyond 64 bits.
std::optional<int64_t> parse_int(std::string_view text, int base);
/// float(text); none where Python raises ValueError.
std::optional<double> parse_real(std::string_view text);
/// int(real). Throws Fault(value) for NaN, Fault(overflow) for what doesn't fit.
int64_t truncate_real(double value);
/// round(value, precision) of a float: correctly rounded, halves to even.
double round_real(double value, int64_t precision);
/// round(value, precision) of an integer.
int64_t round_int(int64_t value, int64_t precision);

}  // namespace tandem::jinja
