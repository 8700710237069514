// Methods of dicts, lists, floats and jinja2's objects; finding a method by name. See methods.h.
#include "runtime/text/jinja/methods.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <unordered_map>

#include "runtime/text/jinja/operators.h"

namespace tandem::jinja {

namespace {

using Table = std::unordered_map<std::string_view, MethodFunction>;

Value dict_get(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("get", args, {"", ""}, 1);
  const Value* value = self.dict().find(runtime, arguments[0]);
  return value == nullptr ? arguments.get(1, Value::none()) : *value;
}

template <View::Part Part>
Value dict_view(Runtime& runtime, const Value& self, const CallArgs& args) {
  refuse_arguments("keys/values/items", args);
  auto* view = runtime.heap().make<View>();
  view->dict = &self.dict();
  view->part = Part;
  return Value::from_object(Kind::view, view);
}

Value dict_copy(Runtime& runtime, const Value& self, const CallArgs& args) {
  refuse_arguments("copy", args);
  auto* copy = runtime.heap().make<Dict>();
  for (const auto& [key, value] : self.dict().entries) copy->set(runtime, key, value);
  return Value::from_object(Kind::dict, copy);
}

Value list_count(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("count", args, {""}, 1);
  int64_t n = 0;
  Cursor cursor(runtime, self);
  Value item;
  while (cursor.next(runtime, item)) n += equal(runtime, item, arguments[0]) ? 1 : 0;
  return Value::from_int(n);
}

Value list_index(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("index", args, {"", "", ""}, 1);
  const int64_t n = length(runtime, self);
  const auto bound = [&](size_t i, int64_t fallback) {
    const int64_t index = arguments.integer(i, fallback);
    return std::clamp<int64_t>(index < 0 ? index + n : index, 0, n);
  };
  for (int64_t i = bound(1, 0); i < bound(2, n); ++i) {
    if (equal(runtime, get_item(runtime, self, Value::from_int(i)), arguments[0])) return Value::from_int(i);
  }
  throw Fault(FaultKind::value,
              fmt::format("{} is not in {}", to_repr(runtime, arguments[0]), type_name(self)));
}

Value list_copy(Runtime& runtime, const Value& self, const CallArgs& args) {
  refuse_arguments("copy", args);
  return runtime.list(self.sequence().items);
}

Value float_is_integer(Runtime& /*runtime*/, const Value& self, const CallArgs& args) {
  refuse_arguments("is_integer", args);
  return Value::from_bool(std::isfinite(self.real) && self.real == std::trunc(self.real));
}

Value cycler_next(Runtime& /*runtime*/, const Value& self, const CallArgs& args) {
  refuse_arguments("next", args);
  auto& cycler = self.as<Cycler>();
  const Value item = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return item;
}

Value cycler_reset(Runtime& /*runtime*/, const Value& self, const CallArgs& args) {
  refuse_arguments("reset", args);
  self.as<Cycler>().position = 0;
  return Value::none();
}

const Table& table_of(Kind kind) {
  static const Table dict_methods = {{"get", dict_get},
                                     {"keys", dict_view<View::Part::keys>},
                                     {"values", dict_view<View::Part::values>},
                                     {"items", dict_view<View::Part::items>},
                                     {"copy", dict_copy}};
  static const Table list_methods = {{"count", list_count}, {"index", list_index}, {"copy", list_copy}};
  static const Table tuple_methods = {{"count", list_count}, {"index", list_index}};
  static const Table real_methods = {{"is_integer", float_is_integer}};
  static const Table cycler_methods = {{"next", cycler_next}, {"reset", cycler_reset}};
  static const Table no_methods;
  static const Table str_methods = [] {
    Table table;
    for (const auto entries : {string_methods(), string_search_methods()}) {
      for (const MethodEntry& entry : entries) table.emplace(entry.name, entry.function);
    }
    return table;
  }();
  switch (kind) {
    case Kind::string:
      return str_methods;
    case Kind::dict:
      return dict_methods;
    case Kind::list:
      return list_methods;
    case Kind::tuple:
    case Kind::range:
      return tuple_methods;
    case Kind::real:
      return real_methods;
    case Kind::cycler:
      return cycler_methods;
    default:
      return no_methods;
  }
}

/// Python has them; to answer "undefined" for them would change what a template prints without a word.
bool is_not_offered(Kind kind, std::string_view name) {
  static constexpr std::array<std::string_view, 5> kString = {"casefold", "encode", "maketrans", "translate",
                                                              "expandtabs"};
  static constexpr std::array<std::string_view, 11> kNumber = {
      "as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator", "from_bytes", "imag",
      "numerator",        "real",      "to_bytes",   "hex"};
  static constexpr std::array<std::string_view, 2> kView = {"isdisjoint", "mapping"};
  const auto in = [name](const auto& names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  switch (kind) {
    case Kind::string:
      return in(kString);
    case Kind::boolean:
    case Kind::integer:
      return in(kNumber) && name != "hex";
    case Kind::real:
      return (in(kNumber) && !name.starts_with("bit_") && !name.ends_with("_bytes")) || name == "fromhex";
    case Kind::view:
      return in(kView);
    case Kind::dict:
      return name == "fromkeys";
    default:
      return false;
  }
}

}  // namespace

Value find_method(Runtime& runtime, const Value& object, std::string_view name) {
  const Table& table = table_of(object.kind);
  const auto it = table.find(name);
  if (it == table.end()) {
    if (is_not_offered(object.kind, name)) {
      throw Fault(FaultKind::runtime, fmt::format("'{}' of '{}' objects is not supported in chat templates",
                                                  name, type_name(object)));
    }
    return {};
  }
  auto* method = runtime.heap().make<Method>();
  method->self = object;
  method->name = it->first;
  method->function = it->second;
  return Value::from_object(Kind::method, method);
}

}  // namespace tandem::jinja
