// One compiled pattern over UTF-8 text: PCRE2 with its JIT where the machine has it, without where not.
// Called by the pre-tokenizer. Safe to share between threads.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

class Regex {
 public:
  /// `pattern` is one of our own: one that PCRE2 refuses is a bug. `use_jit` is off in tests that compare
  /// both ways.
  explicit Regex(const std::string& pattern, bool use_jit = true);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// Cuts every one of `texts` (valid UTF-8) into its matches and what lies between them, in order and
  /// without gaps; nothing outside a text is looked at. Throws Error(bad_data) where one drives the pattern
  /// over its limits.
  std::vector<std::string_view> split(const std::vector<std::string_view>& texts) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace tandem
