// Filters on numbers, and the ones that take anything. See filters.h.
#include <fmt/format.h>

#include <array>
#include <cmath>

#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/numbers.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

Value filter_abs(Runtime& /*runtime*/, const Value& input, const CallArgs& args) {
  refuse_arguments("abs", args);
  if (input.is(Kind::undefined)) fail_undefined(input);
  if (input.is(Kind::real)) return Value::from_real(std::fabs(input.real));
  if (!input.is_int_like())
    throw Fault(FaultKind::type, fmt::format("bad operand type for abs(): '{}'", type_name(input)));
  return input.as_int() < 0 ? negative(input) : positive(input);
}

/// float(value); none where Python raises TypeError or ValueError.
std::optional<double> as_real(const Value& value) {
  if (value.is(Kind::undefined)) fail_undefined(value);
  if (value.is_number()) return value.as_real();
  return value.is(Kind::string) ? parse_real(value.view()) : std::nullopt;
}

Value filter_int(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 2> kNames = {"default", "base"};
  const Arguments arguments("int", args, kNames);
  const Value fallback = arguments.get(0, Value::from_int(0));
  if (input.is(Kind::undefined)) fail_undefined(input);
  if (input.is_int_like()) return Value::from_int(input.as_int());
  if (input.is(Kind::real))
    return std::isnan(input.real) ? fallback : Value::from_int(truncate_real(input.real));
  if (!input.is(Kind::string)) return fallback;
  runtime.scan(input.view().size());
  if (!arguments.given(1) || arguments[1].is_int_like()) {
    const int64_t base = arguments.integer(1, 10);
    const bool valid_base = base == 0 || (base >= 2 && base <= 36);
    if (valid_base) {
      if (const auto value = parse_int(input.view(), static_cast<int>(base))) return Value::from_int(*value);
    }
  }
  const std::optional<double> real = parse_real(input.view());
  if (!real || !std::isfinite(*real)) return fallback;
  return Value::from_int(truncate_real(*real));
}

Value filter_float(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 1> kNames = {"default"};
  const Arguments arguments("float", args, kNames);
  if (input.is(Kind::string)) runtime.scan(input.view().size());
  const std::optional<double> real = as_real(input);
  return real ? Value::from_real(*real) : arguments.get(0, Value::from_real(0.0));
}

Value filter_round(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 2> kNames = {"precision", "method"};
  const Arguments arguments("round", args, kNames);
  const int64_t precision = arguments.integer(0, 0);
  const std::string method = arguments.given(1) ? to_str(runtime, arguments[1]) : "common";
  if (method != "common" && method != "ceil" && method != "floor") {
    throw Fault(FaultKind::value, "method must be common, ceil or floor");
  }
  if (input.is(Kind::undefined)) fail_undefined(input);
  if (!input.is_number()) {
    throw Fault(FaultKind::type, fmt::format("type {} doesn't define __round__ method", type_name(input)));
  }
  if (method == "common") {
    if (input.is_int_like()) return Value::from_int(round_int(input.as_int(), precision));
    return Value::from_real(round_real(input.real, precision));
  }
  const Value scale = arithmetic(runtime, Operator::power, Value::from_int(10), Value::from_int(precision));
  const Value scaled = arithmetic(runtime, Operator::multiply, input, scale);
  Value whole = scaled;
  if (scaled.is(Kind::real)) {
    whole =
        Value::from_int(truncate_real(method == "ceil" ? std::ceil(scaled.real) : std::floor(scaled.real)));
  }
  return arithmetic(runtime, Operator::divide, whole, scale);
}

Value filter_filesizeformat(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 1> kNames = {"binary"};
  static constexpr std::string_view kPrefixes = "kMGTPEZY";
  const Arguments arguments("filesizeformat", args, kNames);
  const bool is_binary = arguments.truth(0, false);
  const std::optional<double> bytes = as_real(input);
  if (!bytes) throw Fault(FaultKind::value, "could not convert the value to a number of bytes");
  const double base = is_binary ? 1024 : 1000;
  if (*bytes == 1) return runtime.string("1 Byte");
  if (*bytes < base) return runtime.string(fmt::format("{} Bytes", truncate_real(*bytes)));
  // The first prefix below whose next power the number stays; the last one where it is larger than all.
  double unit = base * base;
  size_t i = 0;
  while (!(*bytes < unit) && i + 1 < kPrefixes.size()) {
    unit *= base;
    ++i;
  }
  const char prefix = is_binary && i == 0 ? 'K' : kPrefixes[i];
  return runtime.string(fmt::format("{:.1f} {}{}B", base * *bytes / unit, prefix, is_binary ? "i" : ""));
}

Value filter_default(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 2> kNames = {"default_value", "boolean"};
  const Arguments arguments("default", args, kNames);
  const bool replace = input.is(Kind::undefined) || (arguments.truth(1, false) && !truth(input));
  if (!replace) return input;
  return arguments.given(0) ? arguments[0] : runtime.string("");
}

Value filter_attr(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 1> kNames = {"name"};
  const Arguments arguments("attr", args, kNames, 1);
  const std::string& name = arguments.text(0).bytes;
  // Unlike a dot, it doesn't fall back to the items of a dict.
  if (input.is(Kind::dict)) {
    const Value bare = Value::from_object(Kind::dict, runtime.heap().make<Dict>());
    const Value method = get_attribute(runtime, bare, name);
    if (!method.is(Kind::method)) return method;
    return get_attribute(runtime, input, name);
  }
  return get_attribute(runtime, input, name);
}

constexpr FilterEntry kFilters[] = {
    {"abs", filter_abs},
    {"int", filter_int},
    {"float", filter_float},
    {"round", filter_round},
    {"filesizeformat", filter_filesizeformat},
    {"default", filter_default},
    {"d", filter_default},
    {"attr", filter_attr},
};

}  // namespace

std::span<const FilterEntry> number_filters() {
  return kFilters;
}

}  // namespace tandem::jinja
