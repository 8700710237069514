// The filters, tests and global functions that templates may name. Each is one function, found by name; the
// tables stand in filters_*.cpp, is_tests.cpp and globals.cpp. Used by the interpreter and by scope.cpp.
#pragma once

#include <span>
#include <string_view>

#include "runtime/text/jinja/runtime.h"

namespace tandem::jinja {

using FilterFunction = Value (*)(Runtime&, const Value& input, const CallArgs&);
using TestFunction = bool (*)(Runtime&, const Value& input, const CallArgs&);

struct FilterEntry {
  std::string_view name;
  FilterFunction function;
};

struct GlobalEntry {
  std::string_view name;
  GlobalFunction function;
};

std::span<const FilterEntry> text_filters();
std::span<const FilterEntry> number_filters();
std::span<const FilterEntry> sequence_filters();
std::span<const FilterEntry> selection_filters();
std::span<const GlobalEntry> global_functions();

/// Null where there is none of that name.
FilterFunction find_filter(std::string_view name);
TestFunction find_test(std::string_view name);

/// By a name that the template has computed. Throw Fault(runtime) where there is none.
Value call_filter(Runtime& runtime, std::string_view name, const Value& input, const CallArgs& args);
bool call_test(Runtime& runtime, std::string_view name, const Value& input, const CallArgs& args);

/// "a.0.b" (or an integer) -> the keys to follow; none for None.
std::vector<Value> attribute_path(Runtime& runtime, const Value& attribute);
Value follow_path(Runtime& runtime, Value item, const std::vector<Value>& path,
                  const Value* fallback = nullptr);
/// Strings in lower case, all else as it is: how filters compare unless told otherwise.
Value ignore_case(Runtime& runtime, const Value& value);

}  // namespace tandem::jinja
