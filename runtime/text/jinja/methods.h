// The methods of Python's str, dict, list, tuple and float that templates may call, and those of jinja2's own
// objects. What changes its object is not among them. Called by attributes.cpp.
#pragma once

#include <span>
#include <string_view>

#include "runtime/text/jinja/runtime.h"

namespace tandem::jinja {

struct MethodEntry {
  std::string_view name;
  MethodFunction function;
};

std::span<const MethodEntry> string_methods();
std::span<const MethodEntry> string_search_methods();

/// The bound method, or missing. Throws Fault(runtime) for a method of Python's that isn't offered here.
Value find_method(Runtime& runtime, const Value& object, std::string_view name);

}  // namespace tandem::jinja
