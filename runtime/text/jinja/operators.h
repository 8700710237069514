// Python's operators on values: truth, equality, order, arithmetic, `in`, subscripts and slices, hash, str
// and repr. Used by the interpreter, filters, tests and methods. Faults carry Python's exception classes.
#pragma once

#include <compare>
#include <cstddef>
#include <string>
#include <string_view>

#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

enum class Operator {
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  equal,
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
  in,
  not_in,
};

bool truth(const Value& value);
bool equal(Runtime& runtime, const Value& a, const Value& b);
/// For <, <=, >, >=: unordered only for NaN. Throws Fault(type) where Python has no order.
std::partial_ordering order(Runtime& runtime, const Value& a, const Value& b, std::string_view symbol = "<");
bool less(Runtime& runtime, const Value& a, const Value& b);
/// `item in container`.
bool contains(Runtime& runtime, const Value& container, const Value& item);

/// The arithmetic operators. Integers are 64 bits wide here: Fault(overflow) where Python's would grow.
Value arithmetic(Runtime& runtime, Operator op, const Value& a, const Value& b);
Value negative(const Value& value);
Value positive(const Value& value);
/// Any binary operator.
Value binary(Runtime& runtime, Operator op, const Value& a, const Value& b);

size_t hash_string(std::string_view bytes);
/// Throws Fault(type) for unhashable values.
size_t hash(Runtime& runtime, const Value& value);

bool is_iterable(const Value& value);
bool is_callable(const Value& value);
/// len(). Throws Fault(type) where the value has none.
int64_t length(Runtime& runtime, const Value& value);

/// jinja2's environment.getattr and .getitem: what isn't there is an undefined value.
Value get_attribute(Runtime& runtime, const Value& object, std::string_view name);
Value get_item(Runtime& runtime, const Value& object, const Value& key);
/// object[start:stop:step]; missing or none for those not given.
Value get_slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop,
                const Value& step);

/// The error that using an undefined value raises.
[[noreturn]] void fail_undefined(const Value& value);

/// Python's str() and repr().
std::string to_str(Runtime& runtime, const Value& value);
void append_str(Runtime& runtime, std::string& out, const Value& value);
std::string to_repr(Runtime& runtime, const Value& value);
void append_repr(Runtime& runtime, std::string& out, const Value& value);
std::string repr_real(double value);
void append_repr_string(std::string& out, std::string_view bytes);
/// The value as a string value: itself where it is one.
Value soft_string(Runtime& runtime, const Value& value);

std::string escape_html(std::string_view bytes);

}  // namespace tandem::jinja
