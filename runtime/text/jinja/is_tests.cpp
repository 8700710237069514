// The tests behind `is`. See filters.h.
#include <fmt/format.h>

#include <unordered_map>

#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

Value modulo(Runtime& runtime, const Value& value, const Value& by) {
  return arithmetic(runtime, Operator::modulo, value, by);
}

bool test_odd(Runtime& runtime, const Value& v, const CallArgs& args) {
  refuse_arguments("odd", args);
  return equal(runtime, modulo(runtime, v, Value::from_int(2)), Value::from_int(1));
}

bool test_even(Runtime& runtime, const Value& v, const CallArgs& args) {
  refuse_arguments("even", args);
  return equal(runtime, modulo(runtime, v, Value::from_int(2)), Value::from_int(0));
}

bool test_divisibleby(Runtime& runtime, const Value& v, const CallArgs& args) {
  const Arguments arguments("divisibleby", args, {"num"}, 1);
  return equal(runtime, modulo(runtime, v, arguments[0]), Value::from_int(0));
}

/// A test of the value alone.
template <bool (*Holds)(const Value&)>
bool plain(Runtime& /*runtime*/, const Value& v, const CallArgs& args) {
  refuse_arguments("test", args);
  return Holds(v);
}

bool is_defined(const Value& v) {
  return !v.is(Kind::undefined);
}
bool is_undefined(const Value& v) {
  return v.is(Kind::undefined);
}
bool is_none(const Value& v) {
  return v.is(Kind::none);
}
bool is_boolean(const Value& v) {
  return v.is(Kind::boolean);
}
bool is_true(const Value& v) {
  return v.is(Kind::boolean) && v.boolean;
}
bool is_false(const Value& v) {
  return v.is(Kind::boolean) && !v.boolean;
}
bool is_integer(const Value& v) {
  return v.is(Kind::integer);
}
bool is_float(const Value& v) {
  return v.is(Kind::real);
}
bool is_number(const Value& v) {
  return v.is_number();
}
bool is_string(const Value& v) {
  return v.is(Kind::string);
}
bool is_mapping(const Value& v) {
  return v.is(Kind::dict);
}
bool is_escaped(const Value& v) {
  return v.is(Kind::string) && v.text().markup;
}
bool is_sequence(const Value& v) {
  return v.is(Kind::undefined) || v.is(Kind::string) || v.is_sequence() || v.is(Kind::dict) ||
         v.is(Kind::range);
}
bool is_iterable_or_loop(const Value& v) {
  return is_iterable(v) || v.is(Kind::loop);
}

/// Cased, and all of what is cased has `wanted`.
bool has_case(Runtime& runtime, const Value& v, uint32_t wanted) {
  const std::string text = to_str(runtime, v);
  bool cased = false;
  for (size_t i = 0; i < text.size();) {
    const uint32_t classes = classes_of(decode(text, i)) & (kLower | kUpper | kTitle);
    if (classes == 0) continue;
    if ((classes & wanted) == 0) return false;
    cased = true;
  }
  return cased;
}

bool test_lower(Runtime& runtime, const Value& v, const CallArgs& args) {
  refuse_arguments("lower", args);
  return has_case(runtime, v, kLower);
}

bool test_upper(Runtime& runtime, const Value& v, const CallArgs& args) {
  refuse_arguments("upper", args);
  return has_case(runtime, v, kUpper);
}

template <Operator Op>
bool compare(Runtime& runtime, const Value& v, const CallArgs& args) {
  const Arguments arguments("comparison", args, {""}, 1);
  return binary(runtime, Op, v, arguments[0]).boolean;
}

bool test_in(Runtime& runtime, const Value& v, const CallArgs& args) {
  const Arguments arguments("in", args, {"seq"}, 1);
  return contains(runtime, arguments[0], v);
}

bool test_sameas(Runtime& runtime, const Value& v, const CallArgs& args) {
  const Arguments arguments("sameas", args, {"other"}, 1);
  const Value& other = arguments[0];
  if (v.kind != other.kind) return false;
  // Python's small numbers and its literals are one object each; here all equal ones are.
  if (v.is_number() || v.is(Kind::none) || v.is(Kind::string)) return equal(runtime, v, other);
  return v.object == other.object;
}

bool test_filter(Runtime& runtime, const Value& v, const CallArgs& args) {
  refuse_arguments("filter", args);
  hash(runtime, v);  // jinja2 looks it up in a dict: what can't be a key is an error
  return v.is(Kind::string) && find_filter(v.view()) != nullptr;
}

bool test_test(Runtime& runtime, const Value& v, const CallArgs& args) {
  refuse_arguments("test", args);
  hash(runtime, v);
  return v.is(Kind::string) && find_test(v.view()) != nullptr;
}

const std::unordered_map<std::string_view, TestFunction>& table() {
  static const std::unordered_map<std::string_view, TestFunction> tests_by_name = {
      {"odd", test_odd},
      {"even", test_even},
      {"divisibleby", test_divisibleby},
      {"defined", plain<is_defined>},
      {"undefined", plain<is_undefined>},
      {"none", plain<is_none>},
      {"boolean", plain<is_boolean>},
      {"true", plain<is_true>},
      {"false", plain<is_false>},
      {"integer", plain<is_integer>},
      {"float", plain<is_float>},
      {"number", plain<is_number>},
      {"string", plain<is_string>},
      {"mapping", plain<is_mapping>},
      {"sequence", plain<is_sequence>},
      {"iterable", plain<is_iterable_or_loop>},
      {"callable", plain<is_callable>},
      {"escaped", plain<is_escaped>},
      {"lower", test_lower},
      {"upper", test_upper},
      {"sameas", test_sameas},
      {"in", test_in},
      {"filter", test_filter},
      {"test", test_test},
      {"==", compare<Operator::equal>},
      {"eq", compare<Operator::equal>},
      {"equalto", compare<Operator::equal>},
      {"!=", compare<Operator::not_equal>},
      {"ne", compare<Operator::not_equal>},
      {">", compare<Operator::greater>},
      {"gt", compare<Operator::greater>},
      {"greaterthan", compare<Operator::greater>},
      {">=", compare<Operator::greater_equal>},
      {"ge", compare<Operator::greater_equal>},
      {"<", compare<Operator::less>},
      {"lt", compare<Operator::less>},
      {"lessthan", compare<Operator::less>},
      {"<=", compare<Operator::less_equal>},
      {"le", compare<Operator::less_equal>},
  };
  return tests_by_name;
}

}  // namespace

TestFunction find_test(std::string_view name) {
  const auto it = table().find(name);
  return it == table().end() ? nullptr : it->second;
}

}  // namespace tandem::jinja
