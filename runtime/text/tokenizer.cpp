// The Tokenizer that from_gguf() makes: special tokens are cut out of the text, the rest goes to SPM or BPE.
#include "runtime/text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "ops/core/check.h"
#include "ops/core/error.h"
#include "runtime/text/bpe.h"
#include "runtime/text/byte_level.h"
#include "runtime/text/special_matcher.h"
#include "runtime/text/spm.h"
#include "runtime/text/utf8.h"
#include "runtime/text/vocab.h"

namespace tandem {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;  // places in a text are int32

std::string unmark_spaces(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const bool is_mark = text.starts_with(kSpaceMark);
    out.push_back(is_mark ? ' ' : text.front());
    text.remove_prefix(is_mark ? kSpaceMark.size() : 1);
  }
  return out;
}

/// Runs of spaces made one, those at the ends dropped.
std::string without_extra_spaces(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (c != ' ' || (!out.empty() && out.back() != ' ')) out.push_back(c);
  }
  if (out.ends_with(' ')) out.pop_back();
  return out;
}

class VocabTokenizer final : public Tokenizer {
 public:
  explicit VocabTokenizer(const GgufFile& file)
      : vocab_(read_vocab(file)), user_defined_(vocab_, false), all_special_(vocab_, true) {
    if (vocab_.model == TokenizerModel::spm) {
      spm_.emplace(vocab_);
    } else {
      bpe_.emplace(vocab_, file);
    }
    spell_tokens();
  }

  std::vector<int32_t> encode(std::string_view text, TokenizeOptions options) const override {
    if (text.size() > kMaxTextBytes) {
      throw Error(ExitCode::bad_data,
                  fmt::format("the text has {} bytes, more than {}", text.size(), kMaxTextBytes));
    }
    std::string cleaned;
    if (vocab_.remove_extra_whitespaces) text = cleaned = without_extra_spaces(text);
    // SPM spells bytes that are not UTF-8; the patterns of BPE can't read them.
    if (bpe_ && valid_utf8_prefix(text) < text.size()) text = cleaned = replace_invalid_bytes(text);
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3 + 8);
    if (options.add_special && vocab_.add_bos) ids.push_back(vocab_.bos);
    const SpecialMatcher& matcher = options.parse_special ? all_special_ : user_defined_;
    const std::vector<Fragment> fragments = matcher.partition(text);
    if (spm_) {
      SpmModel::Encoder encoder(*spm_, text.size(), fragments.size(), ids);
      bool behind_special = true;  // as is the start of the text
      for (const Fragment& fragment : fragments) {
        if (fragment.token >= 0) {
          ids.push_back(fragment.token);
        } else {
          encoder.append(fragment.text, vocab_.add_space_prefix && behind_special);
        }
        behind_special = fragment.token >= 0;
      }
    } else {
      BpeModel::Encoder encoder(*bpe_, text.size(), ids);
      for (const Fragment& fragment : fragments) {
        if (fragment.token >= 0) {
          ids.push_back(fragment.token);
        } else {
          encoder.append(fragment.text);
        }
      }
    }
    if (options.add_special && vocab_.add_eos) ids.push_back(vocab_.eos);
    return ids;
  }

  std::string token_bytes(int32_t id, bool show_special) const override {
    return std::string(spelling(id, show_special));
  }

  std::string decode(std::span<const int32_t> ids, bool show_special) const override {
    std::string text;
    bool drops_space = vocab_.add_space_prefix;
    for (const int32_t id : ids) {
      std::string_view bytes = spelling(id, show_special);
      if (bytes.empty()) continue;
      if (drops_space && bytes.front() == ' ') bytes.remove_prefix(1);
      drops_space = false;
      text.append(bytes);
    }
    return text;
  }

  int32_t n_tokens() const override { return vocab_.n_tokens(); }

  const std::string& token_text(int32_t id) const override {
    require(vocab_.contains(id), "token_text() asked for a token that there isn't:", id, "of", n_tokens());
    return vocab_.text[static_cast<size_t>(id)];
  }

  bool is_control(int32_t id) const override {
    return vocab_.contains(id) && vocab_.type_of(id) == TokenType::control;
  }

  int32_t bos() const override { return vocab_.bos; }
  int32_t eos() const override { return vocab_.eos; }
  bool add_bos() const override { return vocab_.add_bos; }
  bool add_eos() const override { return vocab_.add_eos; }

  bool is_end_of_generation(int32_t id) const override {
    return std::binary_search(vocab_.end_of_generation.begin(), vocab_.end_of_generation.end(), id);
  }

  const std::vector<std::string>& warnings() const override { return vocab_.warnings; }

 private:
  /// Every token's bytes, one behind the other.
  void spell_tokens() {
    spelling_begin_.reserve(vocab_.text.size() + 1);
    for (int32_t id = 0; id < vocab_.n_tokens(); ++id) {
      spelling_begin_.push_back(spellings_.size());
      spellings_.append(spell(id));
    }
    spelling_begin_.push_back(spellings_.size());
  }

  std::string spell(int32_t id) const {
    const std::string& text = vocab_.text[static_cast<size_t>(id)];
    switch (vocab_.type_of(id)) {
      case TokenType::unknown:
      case TokenType::control:
      case TokenType::user_defined:
        return text;
      case TokenType::unused:
        return {};
      case TokenType::byte:
        return std::string(1, static_cast<char>(byte_of_token_text(text)));
      case TokenType::undefined:
      case TokenType::normal:
        break;
    }
    return spm_ ? unmark_spaces(text) : decode_byte_level(text);
  }

  std::string_view spelling(int32_t id, bool show_special) const {
    if (!vocab_.contains(id) || (!show_special && vocab_.is_hidden(id))) return {};
    const size_t begin = spelling_begin_[static_cast<size_t>(id)];
    return std::string_view(spellings_).substr(begin, spelling_begin_[static_cast<size_t>(id) + 1] - begin);
  }

  Vocab vocab_;
  SpecialMatcher user_defined_;
  SpecialMatcher all_special_;
  std::optional<SpmModel> spm_;  // one of these two
  std::optional<BpeModel> bpe_;
  std::string spellings_;
  std::vector<size_t> spelling_begin_;  // (n_tokens + 1)
};

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::from_gguf(const GgufFile& file) {
  return std::make_unique<VocabTokenizer>(file);
}

}  // namespace tandem
