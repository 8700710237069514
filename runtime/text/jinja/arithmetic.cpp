// Python's arithmetic on 64-bit integers, floats, strings and lists. See operators.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/runtime.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

std::string_view symbol_of(Operator op) {
  switch (op) {
    case Operator::add:
      return "+";
    case Operator::subtract:
      return "-";
    case Operator::multiply:
      return "*";
    case Operator::divide:
      return "/";
    case Operator::floor_divide:
      return "//";
    case Operator::modulo:
      return "%";
    case Operator::power:
      return "**";
    case Operator::equal:
      return "==";
    case Operator::not_equal:
      return "!=";
    case Operator::less:
      return "<";
    case Operator::less_equal:
      return "<=";
    case Operator::greater:
      return ">";
    case Operator::greater_equal:
      return ">=";
    case Operator::in:
      return "in";
    case Operator::not_in:
      return "not in";
  }
  return "?";
}

[[noreturn]] void fail_overflow() {
  throw Fault(FaultKind::overflow, "an integer goes beyond 64 bits, which templates may not use here");
}

int64_t checked(Operator op, int64_t a, int64_t b) {
  int64_t result = 0;
  const bool overflow = op == Operator::add        ? __builtin_add_overflow(a, b, &result)
                        : op == Operator::subtract ? __builtin_sub_overflow(a, b, &result)
                                                   : __builtin_mul_overflow(a, b, &result);
  if (overflow) fail_overflow();
  return result;
}

int64_t power_int(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0) result = checked(Operator::multiply, result, base);
    exponent >>= 1;
    if (exponent > 0) base = checked(Operator::multiply, base, base);
  }
  return result;
}

Value power_real(double a, double b) {
  if (a == 0.0 && b < 0.0) throw Fault(FaultKind::division, "0.0 cannot be raised to a negative power");
  if (a < 0.0 && std::isfinite(a) && std::isfinite(b) && b != std::trunc(b)) {
    throw Fault(FaultKind::value, "the result is a complex number, which templates may not use here");
  }
  const double result = std::pow(a, b);
  if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) {
    throw Fault(FaultKind::overflow, "(34, 'Numerical result out of range')");
  }
  return Value::from_real(result);
}

Value integers(Operator op, int64_t a, int64_t b) {
  switch (op) {
    case Operator::add:
    case Operator::subtract:
    case Operator::multiply:
      return Value::from_int(checked(op, a, b));
    case Operator::power:
      if (b < 0) return power_real(static_cast<double>(a), static_cast<double>(b));
      return Value::from_int(power_int(a, b));
    default:
      break;
  }
  if (b == 0) {
    throw Fault(FaultKind::division,
                op == Operator::divide ? "division by zero" : "integer division or modulo by zero");
  }
  if (op == Operator::divide) {
    // The long double keeps 64 bits, so that large integers are not rounded before they are divided.
    return Value::from_real(static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
  }
  if (b == -1) {
    return op == Operator::modulo ? Value::from_int(0) : Value::from_int(checked(Operator::subtract, 0, a));
  }
  const int64_t remainder = a % b;
  const bool adjust = remainder != 0 && ((remainder < 0) != (b < 0));
  if (op == Operator::modulo) return Value::from_int(adjust ? remainder + b : remainder);
  return Value::from_int(a / b - (adjust ? 1 : 0));
}

Value reals(Operator op, double a, double b) {
  switch (op) {
    case Operator::add:
      return Value::from_real(a + b);
    case Operator::subtract:
      return Value::from_real(a - b);
    case Operator::multiply:
      return Value::from_real(a * b);
    case Operator::power:
      return power_real(a, b);
    default:
      break;
  }
  if (b == 0.0) {
    throw Fault(FaultKind::division, op == Operator::divide ? "float division by zero" : "float modulo");
  }
  if (op == Operator::divide) return Value::from_real(a / b);
  double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0.0) {
    if ((b < 0) != (remainder < 0)) {
      remainder += b;
      quotient -= 1.0;
    }
  } else {
    remainder = std::copysign(0.0, b);
  }
  if (op == Operator::modulo) return Value::from_real(remainder);
  if (quotient == 0.0) return Value::from_real(std::copysign(0.0, a / b));
  double whole = std::floor(quotient);
  if (quotient - whole > 0.5) whole += 1.0;
  return Value::from_real(whole);
}

Value repeat(Runtime& runtime, const Value& value, int64_t count) {
  const auto n = static_cast<size_t>(std::max<int64_t>(count, 0));
  if (value.is(Kind::string)) {
    const std::string_view bytes = value.view();
    size_t total = 0;
    if (__builtin_mul_overflow(bytes.size(), n, &total)) total = SIZE_MAX;
    runtime.heap().charge(total);
    std::string out;
    out.reserve(total);
    if (!bytes.empty()) {
      for (size_t i = 0; i < n; ++i) out += bytes;
    }
    return runtime.string(std::move(out), value.text().markup);
  }
  const auto& items = value.sequence().items;
  size_t total = 0;
  if (__builtin_mul_overflow(items.size() * sizeof(Value), n, &total)) total = SIZE_MAX;
  runtime.heap().charge(total);
  std::vector<Value> out;
  out.reserve(items.size() * n);
  if (!items.empty()) {
    for (size_t i = 0; i < n; ++i) out.insert(out.end(), items.begin(), items.end());
  }
  return runtime.heap().sequence(value.kind, std::move(out));
}

/// Strings; where one is Markup, the other is escaped.
Value concatenate(Runtime& runtime, const Value& a, const Value& b) {
  const bool markup = a.text().markup || b.text().markup;
  const auto part = [markup](const Value& v) {
    return markup && !v.text().markup ? escape_html(v.view()) : std::string(v.view());
  };
  runtime.heap().charge(a.view().size() + b.view().size());
  return runtime.string(part(a) + part(b), markup);
}

[[noreturn]] void fail_types(Operator op, const Value& a, const Value& b) {
  throw Fault(FaultKind::type, fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", symbol_of(op),
                                           type_name(a), type_name(b)));
}

}  // namespace

Value arithmetic(Runtime& runtime, Operator op, const Value& a, const Value& b) {
  if (op == Operator::modulo && a.is(Kind::string)) return format_percent(runtime, a, b);
  if (a.is(Kind::undefined)) fail_undefined(a);
  if (b.is(Kind::undefined)) fail_undefined(b);
  if (a.is_number() && b.is_number()) {
    if (a.is_int_like() && b.is_int_like()) return integers(op, a.as_int(), b.as_int());
    return reals(op, a.as_real(), b.as_real());
  }
  if (op == Operator::add) {
    if (a.is(Kind::string) && b.is(Kind::string)) return concatenate(runtime, a, b);
    if (a.is_sequence() && a.kind == b.kind) {
      std::vector<Value> items = a.sequence().items;
      const auto& more = b.sequence().items;
      runtime.heap().charge((items.size() + more.size()) * sizeof(Value));
      items.insert(items.end(), more.begin(), more.end());
      return runtime.heap().sequence(a.kind, std::move(items));
    }
  }
  if (op == Operator::multiply) {
    const auto repeats = [](const Value& v) { return v.is(Kind::string) || v.is_sequence(); };
    if (repeats(a) && b.is_int_like()) return repeat(runtime, a, b.as_int());
    if (repeats(b) && a.is_int_like()) return repeat(runtime, b, a.as_int());
  }
  fail_types(op, a, b);
}

Value negative(const Value& value) {
  if (value.is(Kind::undefined)) fail_undefined(value);
  if (value.is(Kind::real)) return Value::from_real(-value.real);
  if (value.is_int_like()) return Value::from_int(checked(Operator::subtract, 0, value.as_int()));
  throw Fault(FaultKind::type, fmt::format("bad operand type for unary -: '{}'", type_name(value)));
}

Value positive(const Value& value) {
  if (value.is(Kind::undefined)) fail_undefined(value);
  if (value.is(Kind::real)) return value;
  if (value.is_int_like()) return Value::from_int(value.as_int());
  throw Fault(FaultKind::type, fmt::format("bad operand type for unary +: '{}'", type_name(value)));
}

Value binary(Runtime& runtime, Operator op, const Value& a, const Value& b) {
  const auto ordered = [&] { return order(runtime, a, b, symbol_of(op)); };
  switch (op) {
    case Operator::equal:
      return Value::from_bool(equal(runtime, a, b));
    case Operator::not_equal:
      return Value::from_bool(!equal(runtime, a, b));
    case Operator::less:
      return Value::from_bool(is_lt(ordered()));
    case Operator::less_equal:
      return Value::from_bool(is_lteq(ordered()));
    case Operator::greater:
      return Value::from_bool(is_gt(ordered()));
    case Operator::greater_equal:
      return Value::from_bool(is_gteq(ordered()));
    case Operator::in:
      return Value::from_bool(contains(runtime, b, a));
    case Operator::not_in:
      return Value::from_bool(!contains(runtime, b, a));
    default:
      return arithmetic(runtime, op, a, b);
  }
}

}  // namespace tandem::jinja
