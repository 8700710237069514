#include "runtime/text/spm.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/text/word_cache.h"

namespace tandem {
namespace {

/// A pair whose text is a token. Higher scores first, then from left to right.
struct Candidate {
  float score;
  int32_t left;      // place of the left symbol
  uint32_t n_bytes;  // of both: other by the time it is looked at, and the candidate is outdated
  bool operator<(const Candidate& other) const {  // std's heaps have their largest on top
    return score != other.score ? score < other.score : left > other.left;
  }
};

struct Symbol {
  std::string_view text;  // empty once it is part of its left neighbour
  int32_t previous;
  int32_t next;  // −1 at the end
};

/// The bytes of the character at the front of `text` by its first byte alone; text that isn't UTF-8 is
/// spelled in bytes in the end, whatever is said here.
size_t character_bytes(std::string_view text) {
  const uint8_t lead = static_cast<uint8_t>(text[0]);
  const size_t n = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  return std::min(n, text.size());
}

std::string mark_spaces(std::string_view text, bool with_space_prefix) {
  std::string marked;
  marked.reserve(text.size() + text.size() / 2 + kSpaceMark.size());
  if (with_space_prefix) marked.append(kSpaceMark);
  for (const char c : text) {
    if (c == ' ') {
      marked.append(kSpaceMark);
    } else {
      marked.push_back(c);
    }
  }
  return marked;
}

}  // namespace

struct SpmModel::Scratch {
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

SpmModel::SpmModel(const Vocab& vocab) : vocab_(vocab) {
  for (int32_t id = 0; id < vocab.n_tokens(); ++id) {
    if (vocab.is_mergeable(id)) {
      max_token_bytes_ = std::max(max_token_bytes_, vocab.text[static_cast<size_t>(id)].size());
    }
  }
  find_byte_tokens();
  find_word_ends();
}

void SpmModel::find_byte_tokens() {
  for (size_t byte = 0; byte < 256; ++byte) {
    int32_t& token = byte_token_[byte];
    token = vocab_.find(fmt::format("<0x{:02X}>", byte));
    if (token < 0) token = vocab_.find(fmt::format("<0x{:02x}>", byte));
    if (token < 0 && byte < 0x80) token = token_of(std::string(1, static_cast<char>(byte)));
    if (token < 0 && vocab_.unknown < 0) {
      fail_vocab(vocab_.path, "tokenizer.ggml.tokens",
                 fmt::format("has neither a token for byte 0x{:02X} nor an unknown token", byte));
    }
  }
}

/// Words end where a space mark begins behind another character, unless some token joins the two.
void SpmModel::find_word_ends() {
  for (int32_t id = 0; id < vocab_.n_tokens(); ++id) {
    if (!vocab_.is_mergeable(id)) continue;
    const std::string_view text = vocab_.text[static_cast<size_t>(id)];
    for (size_t at = text.find(kSpaceMark, 1); at != std::string_view::npos;
         at = text.find(kSpaceMark, at + 1)) {
      if (!text.substr(0, at).ends_with(kSpaceMark)) joins_space_.set(static_cast<uint8_t>(text[at - 1]));
    }
  }
}

int32_t SpmModel::token_of(std::string_view text) const {
  if (text.size() > max_token_bytes_) return -1;
  const int32_t id = vocab_.find(text);
  return id >= 0 && vocab_.is_mergeable(id) ? id : -1;
}

std::vector<std::string_view> SpmModel::words(std::string_view text) const {
  std::vector<std::string_view> found;
  found.reserve(text.size() / 6 + 1);
  size_t begin = 0;
  bool behind_space = true;
  for (size_t at = 0; at < text.size();) {
    const size_t n = character_bytes(text.substr(at));
    const bool is_space = text.substr(at, n) == kSpaceMark;
    if (is_space && !behind_space && !joins_space_[static_cast<uint8_t>(text[at - 1])]) {
      found.push_back(text.substr(begin, at - begin));
      begin = at;
    }
    behind_space = is_space;
    at += n;
  }
  if (begin < text.size()) found.push_back(text.substr(begin));
  return found;
}

void SpmModel::append_bytes(std::string_view character, std::vector<int32_t>& ids) const {
  const auto token = [this](char byte) { return byte_token_[static_cast<uint8_t>(byte)]; };
  if (std::any_of(character.begin(), character.end(), [&](char byte) { return token(byte) < 0; })) {
    ids.push_back(vocab_.unknown);
    return;
  }
  for (const char byte : character) ids.push_back(token(byte));
}

void SpmModel::merge_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& heap = scratch.heap;
  symbols.clear();
  heap.clear();
  for (size_t at = 0; at < word.size();) {
    const size_t n = character_bytes(word.substr(at));
    const int32_t place = static_cast<int32_t>(symbols.size());
    symbols.push_back({word.substr(at, n), place - 1, place + 1});
    at += n;
  }
  symbols.back().next = -1;
  const auto consider = [&](int32_t left) {
    if (left < 0 || symbols[static_cast<size_t>(left)].next < 0) return;
    const Symbol& symbol = symbols[static_cast<size_t>(left)];
    const size_t n_bytes = symbol.text.size() + symbols[static_cast<size_t>(symbol.next)].text.size();
    const int32_t id = token_of({symbol.text.data(), n_bytes});
    if (id >= 0)
      heap.push_back({vocab_.score[static_cast<size_t>(id)], left, static_cast<uint32_t>(n_bytes)});
  };
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i) consider(i);
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = symbols[static_cast<size_t>(best.left)];
    if (left.text.empty() || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (left.text.size() + right.text.size() != best.n_bytes) continue;
    left.text = {left.text.data(), best.n_bytes};
    left.next = right.next;
    right.text = {};
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.left;
    for (const int32_t place : {left.previous, best.left}) {
      const size_t n_before = heap.size();
      consider(place);
      if (heap.size() > n_before) std::push_heap(heap.begin(), heap.end());
    }
  }
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    const std::string_view text = symbols[static_cast<size_t>(i)].text;
    const int32_t id = token_of(text);
    if (id >= 0) {
      ids.push_back(id);
    } else {
      append_bytes(text, ids);
    }
  }
}

void SpmModel::encode(std::string_view text, bool with_space_prefix, std::vector<int32_t>& ids) const {
  const std::string marked = mark_spaces(text, with_space_prefix);
  WordCache cache(marked.size(), ids);
  Scratch scratch;
  const auto merge = [&](std::string_view word) { merge_word(word, scratch, ids); };
  for (const std::string_view word : words(marked)) cache.append(word, merge);
}

}  // namespace tandem
