// SPM: characters merged pair by pair, the pair whose token has the highest score first; what is no token in
// the end falls back to byte tokens. Called by tokenizer.cpp. Sees text only, special tokens are out before.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/vocab.h"

namespace tandem {

/// U+2581, what SPM vocabularies write for a space.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

class SpmModel {
 public:
  /// Throws Error(bad_data) where the vocabulary can't spell every byte. `vocab` must outlive this.
  explicit SpmModel(const Vocab& vocab);

  /// Appends the ids of `text` (any bytes), with a space before it where `with_space_prefix`.
  void encode(std::string_view text, bool with_space_prefix, std::vector<int32_t>& ids) const;

 private:
  struct Scratch;
  void find_byte_tokens();
  void find_word_ends();
  int32_t token_of(std::string_view text) const;
  std::vector<std::string_view> words(std::string_view text) const;
  void merge_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;
  void append_bytes(std::string_view character, std::vector<int32_t>& ids) const;

  const Vocab& vocab_;
  size_t max_token_bytes_ = 0;             // of the tokens that text may become
  std::array<int32_t, 256> byte_token_{};  // −1: none
  std::bitset<256> joins_space_;           // bytes behind which some token has a space mark
};

}  // namespace tandem
