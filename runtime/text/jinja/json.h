// JSON in and out: a conversation's data become values; |tojson writes them as Python's json.dumps does.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

/// Throws Fault(value) for what JSON text can't hold (bytes that aren't UTF-8, integers beyond 64 bits
/// signed).
Value from_json(Runtime& runtime, const nlohmann::ordered_json& data);

struct JsonStyle {
  bool ascii_only = false;
  bool pretty = false;  ///< one item a line, each level indented by `indent`
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};

/// Throws Fault(type) for what json.dumps refuses.
std::string to_json(Runtime& runtime, const Value& value, const JsonStyle& style);

}  // namespace tandem::jinja
