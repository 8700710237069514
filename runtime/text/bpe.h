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

  /// Appends the ids of `text` (any bytes; those that are not UTF-8 count as U+FFFD, one each). A byte that
  /// the vocabulary has no token for is left out, as the vocabulary's authors left it out of their training
  /// text. Throws Error(bad_data) as PreTokenizer::split does.
  void encode(std::string_view text, std::vector<int32_t>& ids) const;

 private:
  struct Scratch;
  int32_t symbol_of(std::string_view text);
  void merge_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;
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

}  // namespace tandem
