#include "runtime/gguf/split.h"

#include <fmt/format.h>

namespace tandem {
namespace {

constexpr size_t kDigits = 5;

/// Five decimal digits, or −1.
int64_t parse_digits(std::string_view text) {
  int64_t number = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return -1;
    number = number * 10 + (c - '0');
  }
  return text.size() == kDigits ? number : -1;
}

}  // namespace

std::optional<SplitName> parse_split_name(std::string_view path) {
  constexpr std::string_view kOf = "-of-";
  constexpr std::string_view kSuffix = ".gguf";
  constexpr size_t kTail = 1 + kDigits + kOf.size() + kDigits + kSuffix.size();
  if (path.size() < kTail) return std::nullopt;
  const std::string_view tail = path.substr(path.size() - kTail);
  if (tail.front() != '-' || tail.substr(1 + kDigits, kOf.size()) != kOf || !tail.ends_with(kSuffix)) {
    return std::nullopt;
  }
  SplitName name;
  name.prefix = path.substr(0, path.size() - kTail);
  name.number = parse_digits(tail.substr(1, kDigits));
  name.count = parse_digits(tail.substr(1 + kDigits + kOf.size(), kDigits));
  if (name.number < 1 || name.count < name.number) return std::nullopt;
  return name;
}

std::string make_split_path(const std::string& prefix, int64_t number, int64_t count) {
  return fmt::format("{}-{:05}-of-{:05}.gguf", prefix, number, count);
}

}  // namespace tandem
