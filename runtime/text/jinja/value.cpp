// Values and the heap they live in. See value.h.
#include "runtime/text/jinja/value.h"

#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/runtime.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

const Text& Value::text() const {
  return *static_cast<const Text*>(object);
}
std::string_view Value::view() const {
  return text().bytes;
}
const Sequence& Value::sequence() const {
  return *static_cast<const Sequence*>(object);
}
const Dict& Value::dict() const {
  return *static_cast<const Dict*>(object);
}

Text::Text(std::string bytes_in) : bytes(std::move(bytes_in)), n_chars(count_chars(bytes)) {}

const Value* Dict::find(Runtime& runtime, const Value& key) const {
  const size_t wanted = hash(runtime, key);
  if (entries.size() < kIndexFrom) {
    for (const auto& [k, v] : entries) {
      if (equal(runtime, k, key)) return &v;
    }
    return nullptr;
  }
  const auto [begin, end] = index_.equal_range(wanted);
  for (auto it = begin; it != end; ++it) {
    runtime.step();
    if (equal(runtime, entries[it->second].first, key)) return &entries[it->second].second;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  if (entries.size() < kIndexFrom) {
    for (const auto& [k, v] : entries) {
      if (k.is(Kind::string) && k.view() == key) return &v;
    }
    return nullptr;
  }
  const auto [begin, end] = index_.equal_range(hash_string(key));
  for (auto it = begin; it != end; ++it) {
    const auto& [k, v] = entries[it->second];
    if (k.is(Kind::string) && k.view() == key) return &v;
  }
  return nullptr;
}

void Dict::set(Runtime& runtime, const Value& key, const Value& value) {
  if (const Value* present = find(runtime, key)) {
    *const_cast<Value*>(present) = value;
    return;
  }
  runtime.heap().charge(sizeof(entries[0]) * 2);
  entries.emplace_back(key, value);
  if (entries.size() < kIndexFrom) return;
  // The first time that the index is needed, all entries go in.
  for (size_t i = index_.size(); i < entries.size(); ++i) {
    runtime.heap().charge(sizeof(size_t) * 6);
    index_.emplace(hash(runtime, entries[i].first), i);
  }
}

void Heap::charge(size_t bytes) {
  if (bytes > bytes_left_) {
    throw Fault(FaultKind::limit, "the template needs more memory than its limit allows");
  }
  bytes_left_ -= bytes;
}

Value Heap::string(std::string bytes, bool markup) {
  charge(bytes.size());
  Text* text = make<Text>(std::move(bytes));
  text->markup = markup;
  return Value::from_object(Kind::string, text);
}

Value Heap::character(std::string_view bytes) {
  if (bytes.size() != 1) return string(std::string(bytes));
  Text*& text = ascii_[static_cast<unsigned char>(bytes[0]) & 0x7f];
  if (text == nullptr) text = make<Text>(std::string(bytes));
  return Value::from_object(Kind::string, text);
}

Value Heap::sequence(Kind kind, std::vector<Value> items) {
  charge(items.size() * sizeof(Value));
  auto* sequence = make<Sequence>();
  sequence->items = std::move(items);
  return Value::from_object(kind, sequence);
}

std::string_view type_name(const Value& value) {
  switch (value.kind) {
    case Kind::missing:
    case Kind::undefined:
      return "Undefined";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
      return "int";
    case Kind::real:
      return "float";
    case Kind::string:
      return "str";
    case Kind::list:
      return "list";
    case Kind::tuple:
      return "tuple";
    case Kind::dict:
      return "dict";
    case Kind::range:
      return "range";
    case Kind::view:
      switch (value.as<View>().part) {
        case View::Part::keys:
          return "dict_keys";
        case View::Part::values:
          return "dict_values";
        case View::Part::items:
          return "dict_items";
      }
      return "dict_view";
    case Kind::iterator:
      return value.as<Iterator>().type_name;
    case Kind::name_space:
      return "Namespace";
    case Kind::macro:
      return "Macro";
    case Kind::method:
      return "builtin_function_or_method";
    case Kind::function:
      return "function";
    case Kind::loop:
      return "LoopContext";
    case Kind::cycler:
      return "Cycler";
    case Kind::joiner:
      return "Joiner";
  }
  return "object";
}

}  // namespace tandem::jinja
