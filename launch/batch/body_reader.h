// Typed look-ups in the body of a request: each gives the value, the fallback where the key is missing or
// null, or throws BatchFault (caught in request.cpp, nowhere else) that names the key. Used by
// launch/batch/request.cpp.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/batch/request.h"

namespace tandem {

/// A fault of the body: status 400.
[[noreturn]] void fail_body(const std::string& param, const std::string& message,
                            const std::string& code = "invalid_value");

class BodyReader {
 public:
  explicit BodyReader(const nlohmann::ordered_json& body) : body_(body) {}

  /// The value, or null where it is missing or null.
  const nlohmann::ordered_json* find(const char* name) const;
  double number(const char* name, double fallback, double low, double high) const;
  int64_t integer(const char* name, int64_t fallback, int64_t low, int64_t high) const;
  bool boolean(const char* name, bool fallback) const;
  std::string text(const char* name, const std::string& fallback) const;
  /// A text, or a list of texts.
  std::vector<std::string> texts(const char* name, const std::vector<std::string>& fallback,
                                 size_t most) const;

 private:
  const nlohmann::ordered_json& body_;
};

/// "a text", "a number", "null" …, for messages.
std::string kind_of(const nlohmann::ordered_json& value);

}  // namespace tandem
