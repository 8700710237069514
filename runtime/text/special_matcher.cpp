#include "runtime/text/special_matcher.h"

#include <fmt/format.h>

#include <algorithm>

namespace tandem {
namespace {

constexpr size_t kMaxSpecialBytes = 1024;
constexpr std::string_view kAsciiSpaces = " \t\n\v\f\r";

bool contains_any(std::string_view text, std::initializer_list<std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [text](std::string_view part) { return text.find(part) != std::string_view::npos; });
}

std::string lower_ascii(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

}  // namespace

/// Files don't carry these rules; they are known for a few models by name.
void SpecialMatcher::set_space_rule(const Vocab& vocab, Special& special) {
  if (contains_any(lower_ascii(vocab.model_name), {"phi-3", "phi3"})) {
    const std::string_view text = special.text;
    special.eats_space_behind = text != "<unk>" && text != "<s>" && text != "<|endoftext|>";
  }
}

SpecialMatcher::SpecialMatcher(const Vocab& vocab, bool with_hidden) {
  for (int32_t id = 0; id < vocab.n_tokens(); ++id) {
    const bool is_user_defined = vocab.type_of(id) == TokenType::user_defined;
    if (!is_user_defined && !(with_hidden && vocab.is_hidden(id))) continue;
    Special special{vocab.text[static_cast<size_t>(id)], id};
    if (special.text.size() > kMaxSpecialBytes) {
      fail_vocab(vocab.path, "tokenizer.ggml.tokens",
                 fmt::format("special token {} has {} bytes, more than {}", id, special.text.size(),
                             kMaxSpecialBytes));
    }
    set_space_rule(vocab, special);
    specials_.push_back(special);
  }
  std::sort(specials_.begin(), specials_.end(),
            [](const Special& a, const Special& b) { return a.text < b.text; });
  for (uint32_t i = 0; i < specials_.size(); ++i) {
    Bounds& bounds = by_first_byte_[static_cast<uint8_t>(specials_[i].text[0])];
    if (bounds.end == 0) bounds.begin = i;
    bounds.end = i + 1;
  }
}

const SpecialMatcher::Special* SpecialMatcher::longest_at(std::string_view rest) const {
  const Bounds& bounds = by_first_byte_[static_cast<uint8_t>(rest[0])];
  const Special* begin = specials_.data() + bounds.begin;
  const Special* end = specials_.data() + bounds.end;
  const Special* longest = nullptr;
  // Invariant: begin … end are the tokens that share the first `depth` bytes of `rest`; the shortest is in
  // front.
  for (size_t depth = 1; begin != end; ++depth) {
    if (begin->text.size() == depth) longest = begin++;
    if (depth == rest.size()) break;
    const auto before = [depth](const Special& special, uint8_t byte) {
      return static_cast<uint8_t>(special.text[depth]) < byte;
    };
    const auto behind = [depth](uint8_t byte, const Special& special) {
      return byte < static_cast<uint8_t>(special.text[depth]);
    };
    const uint8_t byte = static_cast<uint8_t>(rest[depth]);
    begin = std::lower_bound(begin, end, byte, before);
    end = std::upper_bound(begin, end, byte, behind);
  }
  return longest;
}

std::vector<Fragment> SpecialMatcher::partition(std::string_view text) const {
  std::vector<Fragment> fragments;
  size_t begin = 0;  // of the text not yet in a fragment
  for (size_t at = 0; at < text.size();) {
    if (by_first_byte_[static_cast<uint8_t>(text[at])].end == 0) {
      ++at;
      continue;
    }
    const Special* special = longest_at(text.substr(at));
    if (special == nullptr) {
      ++at;
      continue;
    }
    std::string_view before = text.substr(begin, at - begin);
    if (special->eats_space_before) before = before.substr(0, before.find_last_not_of(kAsciiSpaces) + 1);
    if (!before.empty()) fragments.push_back({before});
    fragments.push_back({{}, special->id});
    at += special->text.size();
    if (special->eats_space_behind) at = std::min(text.find_first_not_of(kAsciiSpaces, at), text.size());
    begin = at;
  }
  if (begin < text.size()) fragments.push_back({text.substr(begin)});
  return fragments;
}

}  // namespace tandem
