// Truth, equality, order, membership and hash. See operators.h.
#include "runtime/text/jinja/operators.h"

#include <fmt/format.h>

#include <cmath>

#include "runtime/text/jinja/runtime.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

constexpr double kTwoTo63 = 9223372036854775808.0;

/// Exact, unlike a comparison after conversion.
std::partial_ordering order_int_real(int64_t i, double d) {
  if (std::isnan(d)) return std::partial_ordering::unordered;
  if (d >= kTwoTo63) return std::partial_ordering::less;
  if (d < -kTwoTo63) return std::partial_ordering::greater;
  const double whole = std::trunc(d);
  const auto w = static_cast<int64_t>(whole);
  if (i != w) return i <=> w;
  return 0.0 <=> (d - whole);
}

std::partial_ordering order_numbers(const Value& a, const Value& b) {
  if (a.is_int_like() && b.is_int_like()) return a.as_int() <=> b.as_int();
  if (a.is_int_like()) return order_int_real(a.as_int(), b.real);
  if (b.is_int_like()) return 0 <=> order_int_real(b.as_int(), a.real);
  return a.real <=> b.real;
}

bool equal_items(Runtime& runtime, const std::vector<Value>& a, const std::vector<Value>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!equal(runtime, a[i], b[i])) return false;
  }
  return true;
}

bool equal_dicts(Runtime& runtime, const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(runtime, key);
    if (other == nullptr || !equal(runtime, value, *other)) return false;
  }
  return true;
}

bool equal_ranges(const Range& a, const Range& b) {
  if (a.length != b.length) return false;
  return a.length == 0 || (a.start == b.start && (a.length == 1 || a.step == b.step));
}

}  // namespace

void fail_undefined(const Value& value) {
  const auto& info = value.as<UndefinedInfo>();
  throw Fault(info.security ? FaultKind::security : FaultKind::undefined, info.message);
}

bool truth(const Value& value) {
  switch (value.kind) {
    case Kind::missing:
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
      return value.boolean;
    case Kind::integer:
      return value.integer != 0;
    case Kind::real:
      return value.real != 0.0;
    case Kind::string:
      return !value.view().empty();
    case Kind::list:
    case Kind::tuple:
      return !value.sequence().items.empty();
    case Kind::dict:
      return !value.dict().entries.empty();
    case Kind::range:
      return value.as<Range>().length != 0;
    case Kind::view:
      return !value.as<View>().dict->entries.empty();
    default:
      return true;
  }
}

bool equal(Runtime& runtime, const Value& a, const Value& b) {
  runtime.step();
  if (a.is_number() && b.is_number()) return order_numbers(a, b) == std::partial_ordering::equivalent;
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Kind::missing:
    case Kind::undefined:
    case Kind::none:
      return true;
    case Kind::string:
      runtime.scan(a.view().size());
      return a.view() == b.view();
    case Kind::range:
      return equal_ranges(a.as<Range>(), b.as<Range>());
    default:
      break;
  }
  if (a.object == b.object) return true;
  const Runtime::Deeper deeper(runtime);
  if (a.is_sequence()) return equal_items(runtime, a.sequence().items, b.sequence().items);
  if (a.is(Kind::dict)) return equal_dicts(runtime, a.dict(), b.dict());
  if (a.is(Kind::view)) {
    const auto& va = a.as<View>();
    const auto& vb = b.as<View>();
    if (va.part != vb.part || va.part == View::Part::values) return false;
    if (va.part == View::Part::items) return equal_dicts(runtime, *va.dict, *vb.dict);
    for (const auto& [key, value] : va.dict->entries) {
      if (vb.dict->find(runtime, key) == nullptr) return false;
    }
    return va.dict->entries.size() == vb.dict->entries.size();
  }
  return false;
}

std::partial_ordering order(Runtime& runtime, const Value& a, const Value& b, std::string_view symbol) {
  runtime.step();
  if (a.is(Kind::undefined)) fail_undefined(a);
  if (b.is(Kind::undefined)) fail_undefined(b);
  if (a.is_number() && b.is_number()) return order_numbers(a, b);
  if (a.is(Kind::string) && b.is(Kind::string)) {
    runtime.scan(std::min(a.view().size(), b.view().size()));
    return a.view() <=> b.view();  // UTF-8 sorts as its code points do
  }
  if (a.is_sequence() && a.kind == b.kind) {
    const Runtime::Deeper deeper(runtime);
    const auto& x = a.sequence().items;
    const auto& y = b.sequence().items;
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!equal(runtime, x[i], y[i])) return order(runtime, x[i], y[i], symbol);
    }
    return x.size() <=> y.size();
  }
  throw Fault(FaultKind::type, fmt::format("'{}' not supported between instances of '{}' and '{}'", symbol,
                                           type_name(a), type_name(b)));
}

bool less(Runtime& runtime, const Value& a, const Value& b) {
  return order(runtime, a, b) == std::partial_ordering::less;
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  switch (container.kind) {
    case Kind::string:
      if (!item.is(Kind::string)) {
        throw Fault(FaultKind::type,
                    fmt::format("'in <string>' requires string as left operand, not {}", type_name(item)));
      }
      runtime.scan(container.view().size());
      return find_bytes(container.view(), item.view()) != std::string_view::npos;
    case Kind::dict:
      return container.dict().find(runtime, item) != nullptr;
    case Kind::view:
      if (container.as<View>().part == View::Part::keys) {
        return container.as<View>().dict->find(runtime, item) != nullptr;
      }
      break;
    case Kind::range:
      if (item.is_int_like()) {
        const auto& range = container.as<Range>();
        const int64_t i = item.as_int();
        const bool inside =
            range.step > 0 ? i >= range.start && i < range.stop : i <= range.start && i > range.stop;
        return inside && (i - range.start) % range.step == 0;
      }
      break;
    default:
      break;
  }
  if (!is_iterable(container)) {
    throw Fault(FaultKind::type, fmt::format("argument of type '{}' is not iterable", type_name(container)));
  }
  Cursor cursor(runtime, container);
  Value candidate;
  while (cursor.next(runtime, candidate)) {
    if (equal(runtime, candidate, item)) return true;
  }
  return false;
}

size_t hash_string(std::string_view bytes) {
  return std::hash<std::string_view>()(bytes);
}

size_t hash(Runtime& runtime, const Value& value) {
  runtime.step();
  switch (value.kind) {
    case Kind::boolean:
    case Kind::integer:
      return std::hash<int64_t>()(value.as_int());
    case Kind::real: {
      const double d = value.real;
      const bool whole = d == std::trunc(d) && d >= -kTwoTo63 && d < kTwoTo63;
      return whole ? std::hash<int64_t>()(static_cast<int64_t>(d)) : std::hash<double>()(d);
    }
    case Kind::string:
      runtime.scan(value.view().size());
      return hash_string(value.view());
    case Kind::missing:
    case Kind::undefined:
    case Kind::none:
      return static_cast<size_t>(value.kind);
    case Kind::tuple: {
      const Runtime::Deeper deeper(runtime);
      size_t h = 0x9e3779b9;
      for (const Value& item : value.sequence().items) h = h * 1000003 ^ hash(runtime, item);
      return h;
    }
    case Kind::range:
      return std::hash<int64_t>()(value.as<Range>().length);
    case Kind::list:
    case Kind::dict:
    case Kind::view:
      throw Fault(FaultKind::type, fmt::format("unhashable type: '{}'", type_name(value)));
    default:
      return std::hash<const void*>()(value.object);
  }
}

bool is_iterable(const Value& value) {
  switch (value.kind) {
    case Kind::undefined:
    case Kind::string:
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::range:
    case Kind::view:
    case Kind::iterator:
      return true;
    default:
      return false;
  }
}

bool is_callable(const Value& value) {
  switch (value.kind) {
    case Kind::undefined:
    case Kind::macro:
    case Kind::method:
    case Kind::function:
    case Kind::loop:
    case Kind::joiner:
      return true;
    default:
      return false;
  }
}

int64_t length(Runtime& runtime, const Value& value) {
  switch (value.kind) {
    case Kind::undefined:
      return 0;
    case Kind::string:
      return static_cast<int64_t>(value.text().n_chars);
    case Kind::list:
    case Kind::tuple:
      return static_cast<int64_t>(value.sequence().items.size());
    case Kind::dict:
      return static_cast<int64_t>(value.dict().entries.size());
    case Kind::view:
      return static_cast<int64_t>(value.as<View>().dict->entries.size());
    case Kind::range:
      return value.as<Range>().length;
    case Kind::loop:
      return runtime.loop_length(value.as<Loop>());
    default:
      throw Fault(FaultKind::type, fmt::format("object of type '{}' has no len()", type_name(value)));
  }
}

}  // namespace tandem::jinja
