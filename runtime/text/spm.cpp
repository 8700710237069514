#include "runtime/text/spm.h"

#include <fmt/format.h>

#include <algorithm>

#include "ops/core/check.h"
#include "runtime/text/utf8.h"

namespace tandem {
namespace {

/// The bytes of the character at the front of `text`, or 1 where there is none: that byte is spelled by
/// itself.
size_t character_bytes(std::string_view text) {
  const Utf8Step step = utf8_step(text);
  return step.valid ? step.n_bytes : 1;
}

}  // namespace

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

void SpmModel::append_bytes(std::string_view character, std::vector<int32_t>& ids) const {
  const auto token = [this](char byte) { return byte_token_[static_cast<uint8_t>(byte)]; };
  if (std::any_of(character.begin(), character.end(), [&](char byte) { return token(byte) < 0; })) {
    ids.push_back(vocab_.unknown);
    return;
  }
  for (const char byte : character) ids.push_back(token(byte));
}

SpmModel::Encoder::Encoder(const SpmModel& model, size_t text_bytes, size_t n_texts,
                           std::vector<int32_t>& ids)
    : model_(model), ids_(ids), cache_(text_bytes, ids) {
  marked_.reserve((text_bytes + n_texts) * kSpaceMark.size());
}

std::string_view SpmModel::Encoder::mark_spaces(std::string_view text, bool with_space_prefix) {
  const size_t begin = marked_.size();
  const char* const before = marked_.data();
  if (with_space_prefix) marked_.append(kSpaceMark);
  while (!text.empty()) {
    const size_t n = std::min(text.find(' '), text.size());
    marked_.append(text.substr(0, n));
    text.remove_prefix(n);
    if (text.empty()) break;
    marked_.append(kSpaceMark);
    text.remove_prefix(1);
  }
  require(marked_.data() == before, "more text came than was announced");
  return std::string_view(marked_).substr(begin);
}

void SpmModel::Encoder::append(std::string_view text, bool with_space_prefix) {
  text = mark_spaces(text, with_space_prefix);
  const auto encode = [this](std::string_view word) { append_word(word); };
  size_t begin = 0;
  bool behind_space = true;
  for (size_t i = 0; i < text.size();) {
    const size_t n = character_bytes(text.substr(i));
    const bool is_space = n == kSpaceMark.size() && text.substr(i, n) == kSpaceMark;
    if (is_space && !behind_space && !model_.joins_space_[static_cast<uint8_t>(text[i - 1])]) {
      cache_.append(text.substr(begin, i - begin), encode);
      begin = i;
    }
    behind_space = is_space;
    i += n;
  }
  if (begin < text.size()) cache_.append(text.substr(begin), encode);
}

void SpmModel::Encoder::append_word(std::string_view word) {
  symbols_.clear();
  for (size_t i = 0; i < word.size();) {
    const size_t n = character_bytes(word.substr(i));
    const int32_t place = static_cast<int32_t>(symbols_.size());
    symbols_.push_back({word.substr(i, n), place - 1, place + 1});
    i += n;
  }
  symbols_.back().next = -1;
  merge();
  for (int32_t i = 0; i >= 0; i = at(i).next) {
    const int32_t id = model_.token_of(at(i).text);
    if (id >= 0) {
      ids_.push_back(id);
    } else {
      model_.append_bytes(at(i).text, ids_);
    }
  }
}

/// Makes the symbol at `left` and the next one a candidate, if their text is a token.
void SpmModel::Encoder::consider(int32_t left) {
  if (left < 0 || at(left).next < 0) return;
  const size_t n_bytes = at(left).text.size() + at(at(left).next).text.size();
  const int32_t id = model_.token_of({at(left).text.data(), n_bytes});
  if (id < 0) return;
  heap_.push_back({model_.vocab_.score[static_cast<size_t>(id)], left, static_cast<uint32_t>(n_bytes)});
  std::push_heap(heap_.begin(), heap_.end());
}

void SpmModel::Encoder::merge() {
  heap_.clear();
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols_.size()); ++i) consider(i);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end());
    const Candidate best = heap_.back();
    heap_.pop_back();
    Symbol& left = at(best.left);
    if (left.text.empty() || left.next < 0) continue;
    Symbol& right = at(left.next);
    if (left.text.size() + right.text.size() != best.n_bytes) continue;
    left.text = {left.text.data(), best.n_bytes};
    left.next = right.next;
    right.text = {};
    if (left.next >= 0) at(left.next).previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
}

}  // namespace tandem
