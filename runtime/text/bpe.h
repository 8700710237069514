// Byte-level BPE: words of a pre-tokenizer, merged pair by pair in the order of the file's list of merges.
// Called by tokenizer.cpp. Sees text only; special tokens have been taken out before.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/pretokenizer.h"
#include "runtime/text/string_index.h"
#include "runtime/text/vocab.h"
#include "runtime/text/word_cache.h"

namespace tandem {

class GgufFile;

/// The merges: (left symbol, right symbol) → (rank, symbol of both). Open addressing.
class MergeTable {
 public:
  struct Merge {
    int32_t rank = -1;  ///< −1: these two don't merge
    int32_t symbol = -1;
  };
  void reserve(size_t n_merges);
  /// Keeps the first of equal pairs.
  void insert(int32_t left, int32_t right, Merge merge);
  Merge find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t pair = kFree;
    Merge merge;
  };
  static constexpr uint64_t kFree = ~uint64_t{0};
  static uint64_t pack(int32_t left, int32_t right);
  size_t start(uint64_t pair) const;
  std::vector<Slot> slots_;  // a power of two of them, never full
};

class BpeModel {
 public:
  /// Throws Error(bad_data) on missing or malformed merges. `vocab` must outlive this.
  BpeModel(const Vocab& vocab, const GgufFile& file);

  class Encoder;

 private:
  int32_t symbol_of(std::string_view text);
  void append_symbol(int32_t symbol, std::vector<int32_t>& ids) const;
  int32_t whole_word(std::string_view word, std::string& buffer) const;

  const Vocab& vocab_;
  PreTokenizer pretokenizer_;
  // Symbols are token ids, and from n_tokens on texts that merges name but the vocabulary doesn't offer.
  std::vector<std::string> extra_text_;
  StringIndex extra_index_;
  std::array<int32_t, 256> byte_symbol_{};
  MergeTable merges_;
};

/// One call's state: appends the ids of one stretch of text after another.
class BpeModel::Encoder {
 public:
  /// `text_bytes`: of all the texts to come, which must outlive this.
  Encoder(const BpeModel& model, size_t text_bytes, std::vector<int32_t>& ids)
      : model_(model), ids_(ids), cache_(text_bytes, ids) {}

  /// `text` must be valid UTF-8. A byte that the vocabulary has no token for is left out, as the vocabulary's
  /// authors left it out. Throws Error(bad_data) as PreTokenizer::split does.
  void append(std::string_view text);

 private:
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;  // −1 at the end
  };
  /// A pair that may merge.
  struct Candidate {
    int32_t rank;
    int32_t left;  // place of the left symbol
    int32_t left_symbol;
    int32_t right_symbol;
    int32_t merged;
    bool operator<(const Candidate& other) const {  // std's heaps have their largest on top
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };

  void append_word(std::string_view word);
  void consider(int32_t left);
  void merge();
  Symbol& at(int32_t place) { return symbols_[static_cast<size_t>(place)]; }

  const BpeModel& model_;
  std::vector<int32_t>& ids_;
  WordCache cache_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
  std::string buffer_;
};

}  // namespace tandem
