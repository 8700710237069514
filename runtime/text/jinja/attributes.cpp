// environment.getattr, environment.getitem and slices, under the rules of jinja2's immutable sandbox: only
// data and the methods listed in methods.h are reached; what would change a list or a dict is refused. See
// operators.h.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/runtime.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

constexpr std::array<std::string_view, 8> kListMutators = {"append", "clear", "pop",    "reverse",
                                                           "insert", "sort",  "extend", "remove"};
constexpr std::array<std::string_view, 5> kDictMutators = {"clear", "pop", "popitem", "setdefault", "update"};

bool is_private(std::string_view name) {
  return name.size() >= 4 && name.starts_with("__") && name.ends_with("__");
}

Value unsafe(Runtime& runtime, const Value& object, std::string_view name) {
  return runtime.undefined(
      fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object)), true);
}

bool is_mutator(const Value& object, std::string_view name) {
  const auto in = [name](const auto& names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  return (object.is(Kind::list) && in(kListMutators)) || (object.is(Kind::dict) && in(kDictMutators));
}

Value macro_attribute(Runtime& runtime, const Macro& macro, std::string_view name) {
  const MacroDefinition& definition = *macro.definition;
  if (name == "name") return definition.name.empty() ? Value::none() : runtime.string(definition.name);
  if (name == "arguments") {
    std::vector<Value> names;
    for (const auto& parameter : definition.parameters) names.push_back(runtime.string(parameter.name));
    return runtime.tuple(std::move(names));
  }
  if (name == "catch_kwargs") return Value::from_bool(definition.kwargs_slot >= 0);
  if (name == "catch_varargs") return Value::from_bool(definition.varargs_slot >= 0);
  if (name == "caller") return Value::from_bool(definition.uses_caller);
  return {};
}

/// What Python's getattr() finds on the object itself, not in its items; missing where there is nothing.
Value own_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  if (is_private(name)) {
    throw Fault(FaultKind::security,
                fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object)));
  }
  if (is_mutator(object, name)) return unsafe(runtime, object, name);
  switch (object.kind) {
    case Kind::name_space: {
      const Value* value = object.as<Namespace>().attributes.find(name);
      if (value == nullptr) return {};
      return name.starts_with("_") ? unsafe(runtime, object, name) : *value;
    }
    case Kind::loop:
      return runtime.loop_attribute(object.as<Loop>(), name);
    case Kind::macro:
      return macro_attribute(runtime, object.as<Macro>(), name);
    case Kind::tuple:
      if (object.sequence().grouped && name == "grouper") return object.sequence().items[0];
      if (object.sequence().grouped && name == "list") return object.sequence().items[1];
      break;
    case Kind::range: {
      const auto& range = object.as<Range>();
      if (name == "start") return Value::from_int(range.start);
      if (name == "stop") return Value::from_int(range.stop);
      if (name == "step") return Value::from_int(range.step);
      break;
    }
    case Kind::cycler:
      if (name == "current") return object.as<Cycler>().items[object.as<Cycler>().position];
      break;
    default:
      break;
  }
  return find_method(runtime, object, name);
}

Value no_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  return runtime.undefined(fmt::format("'{} object' has no attribute '{}'", type_name(object), name));
}

/// object[key] as Python has it; missing for what TypeError or LookupError would tell.
Value subscript(Runtime& runtime, const Value& object, const Value& key) {
  switch (object.kind) {
    case Kind::dict: {
      try {
        const Value* value = object.dict().find(runtime, key);
        return value == nullptr ? Value() : *value;
      } catch (const Fault& fault) {
        if (fault.kind() == FaultKind::type) return {};  // unhashable
        throw;
      }
    }
    case Kind::list:
    case Kind::tuple:
    case Kind::string:
    case Kind::range:
      break;
    default:
      return {};
  }
  if (!key.is_int_like()) return {};
  const int64_t n = length(runtime, object);
  int64_t i = key.as_int();
  if (i < 0) i += n;
  if (i < 0 || i >= n) return {};
  if (object.is_sequence()) return object.sequence().items[static_cast<size_t>(i)];
  if (object.is(Kind::range)) return Value::from_int(object.as<Range>().at(i));
  const Text& text = object.text();
  if (text.ascii()) {
    const std::string_view one = std::string_view(text.bytes).substr(static_cast<size_t>(i), 1);
    return text.markup ? runtime.string(std::string(one), true) : runtime.heap().character(one);
  }
  runtime.scan(text.bytes.size() * 16);
  const size_t begin = byte_of_char(text.bytes, static_cast<size_t>(i));
  size_t end = begin;
  decode(text.bytes, end);
  return runtime.string(text.bytes.substr(begin, end - begin), text.markup);
}

int64_t slice_index(const Value& value, int64_t fallback) {
  if (value.is(Kind::missing) || value.is(Kind::none)) return fallback;
  if (!value.is_int_like()) {
    throw Fault(FaultKind::type, "slice indices must be integers or None or have an __index__ method");
  }
  return value.as_int();
}

/// The indices that [start:stop:step] selects of n, as Python's slice.indices() counts them.
struct SliceRange {
  int64_t start, stop, step, count;
};

SliceRange resolve_slice(const Value& start_value, const Value& stop_value, const Value& step_value,
                         int64_t n) {
  const int64_t step = std::max<int64_t>(slice_index(step_value, 1), -INT64_MAX);
  if (step == 0) throw Fault(FaultKind::value, "slice step cannot be zero");
  const auto clamp = [&](int64_t i) {
    if (i < 0) i += n;
    if (i < 0) return step < 0 ? int64_t{-1} : int64_t{0};
    return i >= n ? (step < 0 ? n - 1 : n) : i;
  };
  const auto given = [](const Value& v) { return !v.is(Kind::missing) && !v.is(Kind::none); };
  const int64_t start = given(start_value) ? clamp(slice_index(start_value, 0)) : step < 0 ? n - 1 : 0;
  const int64_t stop = given(stop_value) ? clamp(slice_index(stop_value, 0)) : step < 0 ? -1 : n;
  int64_t count = 0;
  if (step > 0 && stop > start) count = (stop - start - 1) / step + 1;
  if (step < 0 && stop < start) count = (start - stop - 1) / -step + 1;
  return {start, stop, step, count};
}

Value slice_string(Runtime& runtime, const Text& text, const SliceRange& range) {
  runtime.scan(text.bytes.size());
  if (range.step == 1) {
    const auto first = static_cast<size_t>(range.start);
    const auto count = static_cast<size_t>(range.count);
    if (text.ascii()) return runtime.string(text.bytes.substr(first, count), text.markup);
    const std::string_view tail = std::string_view(text.bytes).substr(byte_of_char(text.bytes, first));
    return runtime.string(std::string(tail.substr(0, byte_of_char(tail, count))), text.markup);
  }
  const std::u32string chars = to_code_points(text.bytes);
  std::string out;
  for (int64_t k = 0; k < range.count; ++k) {
    runtime.step();
    append_utf8(out, chars[static_cast<size_t>(range.start + k * range.step)]);
  }
  return runtime.string(std::move(out), text.markup);
}

}  // namespace

Value get_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  if (object.is(Kind::undefined)) fail_undefined(object);
  Value value = own_attribute(runtime, object, name);
  if (!value.is(Kind::missing)) return value;
  if (object.is(Kind::dict)) {
    if (const Value* item = object.dict().find(name)) return *item;
  }
  return no_attribute(runtime, object, name);
}

Value get_item(Runtime& runtime, const Value& object, const Value& key) {
  if (object.is(Kind::undefined)) fail_undefined(object);
  Value value = subscript(runtime, object, key);
  if (!value.is(Kind::missing)) return value;
  if (key.is(Kind::string)) {
    value = own_attribute(runtime, object, key.view());
    if (!value.is(Kind::missing)) return value;
    return no_attribute(runtime, object, key.view());
  }
  return runtime.undefined(
      fmt::format("{} object has no element {}", type_name(object), to_repr(runtime, key)));
}

Value get_slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop,
                const Value& step) {
  if (object.is(Kind::undefined)) fail_undefined(object);
  if (!object.is(Kind::string) && !object.is_sequence() && !object.is(Kind::range)) {
    throw Fault(FaultKind::type,
                fmt::format("'{}' object is not subscriptable with a slice", type_name(object)));
  }
  const int64_t n = length(runtime, object);
  const SliceRange selected = resolve_slice(start, stop, step, n);
  if (object.is(Kind::string)) return slice_string(runtime, object.text(), selected);
  if (object.is(Kind::range)) {
    const auto& source = object.as<Range>();
    auto* range = runtime.heap().make<Range>();
    int64_t start_offset = 0, stop_offset = 0;
    const bool overflow = __builtin_mul_overflow(source.step, selected.start, &start_offset) ||
                          __builtin_add_overflow(source.start, start_offset, &range->start) ||
                          __builtin_mul_overflow(source.step, selected.stop, &stop_offset) ||
                          __builtin_add_overflow(source.start, stop_offset, &range->stop) ||
                          __builtin_mul_overflow(source.step, selected.step, &range->step);
    if (overflow) throw Fault(FaultKind::overflow, "a range goes beyond 64 bits");
    range->length = selected.count;
    return Value::from_object(Kind::range, range);
  }
  const auto& items = object.sequence().items;
  std::vector<Value> out;
  runtime.step(selected.count);
  runtime.heap().charge(static_cast<size_t>(selected.count) * sizeof(Value));
  for (int64_t k = 0; k < selected.count; ++k) {
    out.push_back(items[static_cast<size_t>(selected.start + k * selected.step)]);
  }
  return runtime.heap().sequence(object.kind, std::move(out));
}

}  // namespace tandem::jinja
