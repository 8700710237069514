// Split GGUF files: which part a file is, and what the others are called. No file access.
// Used by runtime/gguf/gguf.cpp alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tandem {

/// A file name of the form PREFIX-00002-of-00005.gguf.
struct SplitName {
  std::string prefix;  ///< with its folder
  int64_t number = 0;  ///< from 1
  int64_t count = 0;
};

/// Empty where `path` has another form or number > count.
std::optional<SplitName> parse_split_name(std::string_view path);

/// The path of part `number` (from 1) of `count`.
std::string make_split_path(const std::string& prefix, int64_t number, int64_t count);

}  // namespace tandem
