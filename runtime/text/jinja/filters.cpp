// Finding filters by name, and what several of them share. See filters.h.
#include "runtime/text/jinja/filters.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_map>

#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

/// jinja2 has these as well; no chat template needs them.
constexpr std::array<std::string_view, 6> kNotOffered = {"pprint", "random",   "striptags",
                                                         "urlize", "wordwrap", "xmlattr"};

template <size_t I>
Value not_offered(Runtime& /*runtime*/, const Value& /*input*/, const CallArgs& /*args*/) {
  throw Fault(FaultKind::runtime,
              fmt::format("the filter '{}' is not supported in chat templates", kNotOffered[I]));
}

template <size_t... I>
void add_not_offered(std::unordered_map<std::string_view, FilterFunction>& table,
                     std::index_sequence<I...> /*i*/) {
  (table.emplace(kNotOffered[I], &not_offered<I>), ...);
}

std::unordered_map<std::string_view, FilterFunction> make_table() {
  std::unordered_map<std::string_view, FilterFunction> table;
  for (const auto entries : {text_filters(), number_filters(), sequence_filters(), selection_filters()}) {
    for (const FilterEntry& entry : entries) table.emplace(entry.name, entry.function);
  }
  add_not_offered(table, std::make_index_sequence<kNotOffered.size()>());
  return table;
}

Value path_part(Runtime& runtime, std::string_view part) {
  const bool digits =
      !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!digits) return runtime.string(std::string(part));
  int64_t index = 0;
  if (std::from_chars(part.data(), part.data() + part.size(), index).ec != std::errc()) {
    throw Fault(FaultKind::overflow, "an integer goes beyond 64 bits, which templates may not use here");
  }
  return Value::from_int(index);
}

}  // namespace

FilterFunction find_filter(std::string_view name) {
  static const auto entries_by_name = make_table();
  const auto it = entries_by_name.find(name);
  return it == entries_by_name.end() ? nullptr : it->second;
}

Value call_filter(Runtime& runtime, std::string_view name, const Value& input, const CallArgs& args) {
  const FilterFunction function = find_filter(name);
  if (function == nullptr) throw Fault(FaultKind::runtime, fmt::format("No filter named '{}'.", name));
  return function(runtime, input, args);
}

bool call_test(Runtime& runtime, std::string_view name, const Value& input, const CallArgs& args) {
  const TestFunction function = find_test(name);
  if (function == nullptr) throw Fault(FaultKind::runtime, fmt::format("No test named '{}'.", name));
  return function(runtime, input, args);
}

std::vector<Value> attribute_path(Runtime& runtime, const Value& attribute) {
  if (attribute.is(Kind::missing) || attribute.is(Kind::none)) return {};
  if (!attribute.is(Kind::string)) return {attribute};
  std::vector<Value> path;
  std::string_view rest = attribute.view();
  while (true) {
    const size_t dot = rest.find('.');
    path.push_back(path_part(runtime, rest.substr(0, dot)));
    if (dot == std::string_view::npos) return path;
    rest.remove_prefix(dot + 1);
  }
}

Value follow_path(Runtime& runtime, Value item, const std::vector<Value>& path, const Value* fallback) {
  for (const Value& key : path) {
    item = get_item(runtime, item, key);
    if (item.is(Kind::undefined) && fallback != nullptr) item = *fallback;
  }
  return item;
}

Value ignore_case(Runtime& runtime, const Value& value) {
  if (!value.is(Kind::string)) return value;
  runtime.scan(value.view().size() * 8);
  return runtime.string(to_lower(value.view()));
}

}  // namespace tandem::jinja
