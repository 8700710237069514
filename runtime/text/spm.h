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
#include "runtime/text/word_cache.h"

namespace tandem {

/// U+2581, what SPM vocabularies write for a space.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

class SpmModel {
 public:
  /// Throws Error(bad_data) where the vocabulary can't spell every byte. `vocab` must outlive this.
  explicit SpmModel(const Vocab& vocab);

  class Encoder;

 private:
  void find_byte_tokens();
  void find_word_ends();
  int32_t token_of(std::string_view text) const;
  void append_bytes(std::string_view character, std::vector<int32_t>& ids) const;

  const Vocab& vocab_;
  size_t max_token_bytes_ = 0;             // of the tokens that text may become
  std::array<int32_t, 256> byte_token_{};  // −1: none
  std::bitset<256> joins_space_;           // bytes behind which some token has a space mark
};

/// One call's state: appends the ids of one stretch of text after another.
class SpmModel::Encoder {
 public:
  /// `n_texts` with `text_bytes` together are to come.
  Encoder(const SpmModel& model, size_t text_bytes, size_t n_texts, std::vector<int32_t>& ids);

  /// `text` may be any bytes; a space goes before it where `with_space_prefix`.
  void append(std::string_view text, bool with_space_prefix);

 private:
  struct Symbol {
    std::string_view text;  // empty once it is part of its left neighbour
    int32_t previous;
    int32_t next;  // −1 at the end
  };
  /// A pair whose text is a token.
  struct Candidate {
    float score;
    int32_t left;      // place of the left symbol
    uint32_t n_bytes;  // of both: other by the time it is looked at, and the candidate is outdated
    bool operator<(const Candidate& other) const {  // std's heaps have their largest on top
      return score != other.score ? score < other.score : left > other.left;
    }
  };

  std::string_view mark_spaces(std::string_view text, bool with_space_prefix);
  void append_word(std::string_view word);
  void consider(int32_t left);
  void merge();
  Symbol& at(int32_t place) { return symbols_[static_cast<size_t>(place)]; }

  const SpmModel& model_;
  std::vector<int32_t>& ids_;
  WordCache cache_;
  std::string marked_;  // all texts so far; never grows beyond what it reserved, for words point into it
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

}  // namespace tandem
