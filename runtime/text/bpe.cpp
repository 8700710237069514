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

void BpeModel::Encoder::append(std::string_view text) {
  const auto encode = [this](std::string_view word) { append_word(word); };
  for (const std::string_view word : model_.pretokenizer_.split(text)) cache_.append(word, encode);
}

void BpeModel::Encoder::append_word(std::string_view word) {
  if (model_.vocab_.pre->prefers_whole_words) {
    if (const int32_t id = model_.whole_word(word, buffer_); id >= 0) return ids_.push_back(id);
  }
  symbols_.clear();
  for (const char byte : word) {
    const int32_t place = static_cast<int32_t>(symbols_.size());
    symbols_.push_back({model_.byte_symbol_[static_cast<uint8_t>(byte)], place - 1, place + 1});
  }
  symbols_.back().next = -1;
  merge();
  for (int32_t i = 0; i >= 0; i = at(i).next) model_.append_symbol(at(i).id, ids_);
}

/// Makes the symbol at `left` and the next one a candidate, if they are two that merge.
void BpeModel::Encoder::consider(int32_t left) {
  if (left < 0 || at(left).next < 0) return;
  const int32_t left_id = at(left).id;
  const int32_t right_id = at(at(left).next).id;
  const MergeTable::Merge merge = model_.merges_.find(left_id, right_id);
  if (merge.rank < 0) return;
  heap_.push_back({merge.rank, left, left_id, right_id, merge.symbol});
  std::push_heap(heap_.begin(), heap_.end());
}

void BpeModel::Encoder::merge() {
  heap_.clear();
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols_.size()); ++i) consider(i);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end());
    const Candidate best = heap_.back();
    heap_.pop_back();
    Symbol& left = at(best.left);
    // Outdated where either has been merged meanwhile: a merged symbol's text is longer, so its id is
    // another.
    if (left.id != best.left_symbol || left.next < 0) continue;
    Symbol& right = at(left.next);
    if (right.id != best.right_symbol) continue;
    left.id = best.merged;
    left.next = right.next;
    right.id = kMerged;
    if (left.next >= 0) at(left.next).previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
}

}  // namespace tandem
