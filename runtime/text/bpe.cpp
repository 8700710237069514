#include "runtime/text/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <optional>

#include "runtime/gguf/gguf.h"
#include "runtime/gguf/printable.h"
#include "runtime/text/byte_level.h"
#include "runtime/text/utf8.h"
#include "runtime/text/word_cache.h"

namespace tandem {
namespace {

constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";
constexpr size_t kMaxMerges = size_t{1} << 23;

/// A pair that may merge. Lower ranks first, then from left to right.
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

struct Symbol {
  int32_t id;
  int32_t previous;
  int32_t next;  // −1 at the end
};

constexpr int32_t kMerged = -1;  // the id of a symbol that is part of its left neighbour now

}  // namespace

void MergeTable::reserve(size_t n_merges) {
  slots_.resize(std::bit_ceil(n_merges + n_merges / 2 + 2));
}

uint64_t MergeTable::pack(int32_t left, int32_t right) {
  return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
}

size_t MergeTable::start(uint64_t pair) const {
  pair *= 0x9E3779B97F4A7C15;  // 2^64 over the golden ratio; the high bits are the well mixed ones
  return (pair ^ (pair >> 32)) & (slots_.size() - 1);
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t pair = pack(left, right);
  size_t i = start(pair);
  while (slots_[i].pair != kFree) {
    if (slots_[i].pair == pair) return;
    i = (i + 1) & (slots_.size() - 1);
  }
  slots_[i] = {pair, merge};
}

MergeTable::Merge MergeTable::find(int32_t left, int32_t right) const {
  const uint64_t pair = pack(left, right);
  for (size_t i = start(pair); slots_[i].pair != kFree; i = (i + 1) & (slots_.size() - 1)) {
    if (slots_[i].pair == pair) return slots_[i].merge;
  }
  return {};
}

struct BpeModel::Scratch {
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::string buffer;
};

BpeModel::BpeModel(const Vocab& vocab, const GgufFile& file)
    : vocab_(vocab), pretokenizer_(vocab.pre->pattern) {
  const std::vector<std::string>* merges = file.find_strings(kMergesKey);
  if (merges == nullptr) fail_vocab(vocab.path, kMergesKey, "is missing");
  if (merges->size() > kMaxMerges) {
    fail_vocab(vocab.path, kMergesKey,
               fmt::format("has {} merges, more than {}", merges->size(), kMaxMerges));
  }
  for (size_t byte = 0; byte < 256; ++byte) byte_symbol_[byte] = symbol_of(byte_characters()[byte]);
  merges_.reserve(merges->size());
  for (size_t rank = 0; rank < merges->size(); ++rank) {
    const std::string& line = (*merges)[rank];
    const size_t space = line.find(' ', 1);
    if (space == std::string::npos || space + 1 == line.size()) {
      fail_vocab(vocab.path, kMergesKey,
                 fmt::format("merge {} is {}, not two parts and a space between", rank, in_quotes(line)));
    }
    const std::string_view left = std::string_view(line).substr(0, space);
    const std::string_view right = std::string_view(line).substr(space + 1);
    const int32_t left_symbol = symbol_of(left);
    const int32_t right_symbol = symbol_of(right);
    const int32_t merged = symbol_of(std::string(left).append(right));
    merges_.insert(left_symbol, right_symbol, {static_cast<int32_t>(rank), merged});
  }
}

/// The symbol that `text` stands for, a new one where the vocabulary has no token that text may become.
int32_t BpeModel::symbol_of(std::string_view text) {
  const int32_t id = vocab_.find(text);
  if (id >= 0 && vocab_.is_mergeable(id)) return id;
  const int32_t known = extra_index_.find(text, extra_text_);
  if (known >= 0) return vocab_.n_tokens() + known;
  extra_text_.emplace_back(text);
  return vocab_.n_tokens() + extra_index_.insert(static_cast<int32_t>(extra_text_.size()) - 1, extra_text_);
}

void BpeModel::append_symbol(int32_t symbol, std::vector<int32_t>& ids) const {
  if (vocab_.contains(symbol)) {
    ids.push_back(symbol);
    return;
  }
  // No token: its bytes', as far as there are any.
  for (const char byte : decode_byte_level(extra_text_[static_cast<size_t>(symbol - vocab_.n_tokens())])) {
    const int32_t id = byte_symbol_[static_cast<uint8_t>(byte)];
    if (vocab_.contains(id)) ids.push_back(id);
  }
}

int32_t BpeModel::whole_word(std::string_view word, std::string& buffer) const {
  buffer.clear();
  append_byte_level(buffer, word);
  const int32_t id = vocab_.find(buffer);
  return id >= 0 && vocab_.is_mergeable(id) ? id : -1;
}

void BpeModel::merge_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (vocab_.pre->prefers_whole_words) {
    if (const int32_t id = whole_word(word, scratch.buffer); id >= 0) return ids.push_back(id);
  }
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& heap = scratch.heap;
  symbols.clear();
  heap.clear();
  for (const char byte : word) {
    const int32_t place = static_cast<int32_t>(symbols.size());
    symbols.push_back({byte_symbol_[static_cast<uint8_t>(byte)], place - 1, place + 1});
  }
  symbols.back().next = -1;
  const auto consider = [&](int32_t left) {
    if (left < 0 || symbols[static_cast<size_t>(left)].next < 0) return;
    const Symbol& symbol = symbols[static_cast<size_t>(left)];
    const int32_t right_id = symbols[static_cast<size_t>(symbol.next)].id;
    const MergeTable::Merge merge = merges_.find(symbol.id, right_id);
    if (merge.rank >= 0) heap.push_back({merge.rank, left, symbol.id, right_id, merge.symbol});
  };
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i) consider(i);
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = symbols[static_cast<size_t>(best.left)];
    // Outdated where either has been merged meanwhile. A merged symbol's text is longer, so its id is
    // another.
    if (left.id != best.left_symbol || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (right.id != best.right_symbol) continue;
    left.id = best.merged;
    left.next = right.next;
    right.id = kMerged;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.left;
    for (const int32_t place : {left.previous, best.left}) {
      const size_t n_before = heap.size();
      consider(place);
      if (heap.size() > n_before) std::push_heap(heap.begin(), heap.end());
    }
  }
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    append_symbol(symbols[static_cast<size_t>(i)].id, ids);
  }
}

void BpeModel::encode(std::string_view text, std::vector<int32_t>& ids) const {
  std::string repaired;
  if (valid_utf8_prefix(text) < text.size()) {
    repaired = replace_invalid_bytes(text);
    text = repaired;
  }
  WordCache cache(text.size(), ids);
  Scratch scratch;
  const auto merge = [&](std::string_view word) { merge_word(word, scratch, ids); };
  for (const std::string_view word : pretokenizer_.split(text)) cache.append(word, merge);
}

}  // namespace tandem
