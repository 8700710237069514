// Finds special tokens written out in a text: the leftmost first, of those the longest.
// Called by tokenizer.cpp before any merging. Looks at each byte at most as often as the longest token is
// long, which is bounded.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/text/vocab.h"

namespace tandem {

/// A stretch of text, or a special token in its place.
struct Fragment {
  std::string_view text;
  int32_t token = -1;  ///< −1: text
};

class SpecialMatcher {
 public:
  /// User-defined tokens, and with `with_hidden` control and unknown tokens too. `vocab` must outlive this.
  /// Throws Error(bad_data) where one of them is unreasonably long.
  SpecialMatcher(const Vocab& vocab, bool with_hidden);

  /// `text` cut at its special tokens. Text fragments are never empty.
  std::vector<Fragment> partition(std::string_view text) const;

 private:
  struct Special {
    std::string_view text;
    int32_t id = -1;
    bool eats_space_before = false;
    bool eats_space_behind = false;
  };
  struct Bounds {
    uint32_t begin = 0;
    uint32_t end = 0;
  };

  const Special* longest_at(std::string_view rest) const;
  static void set_space_rule(const Vocab& vocab, Special& special);

  std::vector<Special> specials_;            // sorted by text
  std::array<Bounds, 256> by_first_byte_{};  // their range in specials_
};

}  // namespace tandem
