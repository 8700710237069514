// Iteration, arguments and small makers. See runtime.h.
#include "runtime/text/jinja/runtime.h"

#include <fmt/format.h>

#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

Value Runtime::undefined(std::string message, bool security) {
  heap_.charge(message.size());
  auto* info = heap_.make<UndefinedInfo>();
  info->message = std::move(message);
  info->security = security;
  return Value::from_object(Kind::undefined, info);
}

Value Runtime::iterator(std::string_view type, Iterator::Advance advance) {
  heap_.charge(128);  // what the closure may hold
  auto* iterator = heap_.make<Iterator>();
  iterator->type_name = type;
  iterator->advance = std::move(advance);
  return Value::from_object(Kind::iterator, iterator);
}

Cursor::Cursor(Runtime& /*runtime*/, const Value& iterable) : source_(iterable) {
  if (!is_iterable(iterable)) {
    throw Fault(FaultKind::type, fmt::format("'{}' object is not iterable", type_name(iterable)));
  }
}

bool Cursor::next(Runtime& runtime, Value& out) {
  runtime.step();
  switch (source_.kind) {
    case Kind::list:
    case Kind::tuple: {
      const auto& items = source_.sequence().items;
      if (index_ >= items.size()) return false;
      out = items[index_++];
      return true;
    }
    case Kind::string: {
      const std::string_view bytes = source_.view();
      if (index_ >= bytes.size()) return false;
      const size_t begin = index_;
      decode(bytes, index_);
      out = runtime.heap().character(bytes.substr(begin, index_ - begin));
      return true;
    }
    case Kind::dict:
    case Kind::view: {
      const bool plain = source_.is(Kind::dict);
      const Dict& dict = plain ? source_.dict() : *source_.as<View>().dict;
      if (index_ >= dict.entries.size()) return false;
      const auto& [key, value] = dict.entries[index_++];
      const View::Part part = plain ? View::Part::keys : source_.as<View>().part;
      if (part == View::Part::items) {
        out = runtime.tuple({key, value});
      } else {
        out = part == View::Part::keys ? key : value;
      }
      return true;
    }
    case Kind::range: {
      const auto& range = source_.as<Range>();
      if (static_cast<int64_t>(index_) >= range.length) return false;
      out = Value::from_int(range.at(static_cast<int64_t>(index_++)));
      return true;
    }
    case Kind::iterator: {
      const Runtime::Deeper deeper(runtime);  // an iterator over an iterator over …
      return source_.as<Iterator>().advance(runtime, out);
    }
    default:
      return false;  // undefined: empty
  }
}

std::vector<Value> collect(Runtime& runtime, const Value& iterable) {
  std::vector<Value> items;
  Cursor cursor(runtime, iterable);
  Value item;
  while (cursor.next(runtime, item)) {
    runtime.heap().charge(sizeof(Value));
    items.push_back(item);
  }
  return items;
}

Arguments::Arguments(std::string_view callee, const CallArgs& args, std::span<const std::string_view> names,
                     size_t n_required)
    : callee_(callee), values_(names.size()) {
  if (args.positional.size() > names.size()) {
    throw Fault(FaultKind::type, fmt::format("{}() takes at most {} arguments ({} given)", callee,
                                             names.size(), args.positional.size()));
  }
  for (size_t i = 0; i < args.positional.size(); ++i) values_[i] = args.positional[i];
  for (const auto& [name, value] : args.keywords) {
    size_t i = 0;
    while (i < names.size() && (names[i].empty() || names[i] != name)) ++i;
    if (i == names.size()) {
      throw Fault(FaultKind::type, fmt::format("{}() got an unexpected keyword argument '{}'", callee, name));
    }
    if (given(i)) {
      throw Fault(FaultKind::type, fmt::format("{}() got multiple values for argument '{}'", callee, name));
    }
    values_[i] = value;
  }
  for (size_t i = 0; i < n_required; ++i) {
    if (!given(i)) {
      throw Fault(FaultKind::type, fmt::format("{}() misses its argument {}{}{}", callee, i + 1,
                                               names[i].empty() ? "" : " ", names[i]));
    }
  }
}

bool Arguments::truth(size_t i, bool fallback) const {
  return given(i) ? jinja::truth(values_[i]) : fallback;
}

int64_t Arguments::integer(size_t i, int64_t fallback) const {
  if (!given(i)) return fallback;
  if (!values_[i].is_int_like()) {
    throw Fault(FaultKind::type, fmt::format("{}(): '{}' object cannot be interpreted as an integer", callee_,
                                             type_name(values_[i])));
  }
  return values_[i].as_int();
}

const Text& Arguments::text(size_t i) const {
  if (!values_[i].is(Kind::string)) {
    throw Fault(FaultKind::type,
                fmt::format("{}() argument {} must be str, not {}", callee_, i + 1, type_name(values_[i])));
  }
  return values_[i].text();
}

void refuse_arguments(std::string_view callee, const CallArgs& args) {
  if (args.positional.empty() && args.keywords.empty()) return;
  throw Fault(FaultKind::type, fmt::format("{}() takes no arguments", callee));
}

}  // namespace tandem::jinja
