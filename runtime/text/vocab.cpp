#include "runtime/text/vocab.h"

#include <fmt/format.h>

#include <bitset>
#include <cmath>

#include "ops/core/error.h"
#include "runtime/gguf/gguf.h"
#include "runtime/gguf/printable.h"
#include "runtime/text/pretokenizer.h"

namespace tandem {
namespace {

constexpr size_t kMaxTokens = size_t{1} << 22;  // sixteen times the largest known
constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kScoresKey = "tokenizer.ggml.scores";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";

TokenizerModel read_model(const GgufFile& file) {
  constexpr std::string_view kKey = "tokenizer.ggml.model";
  const std::string& name = file.get_string(kKey);
  if (name == "llama") return TokenizerModel::spm;
  if (name == "gpt2") return TokenizerModel::byte_level_bpe;
  fail_vocab(file.path(), kKey, fmt::format("is {}; known are llama and gpt2", in_quotes(name)));
}

void read_tokens(Vocab& vocab, const GgufFile& file) {
  const std::vector<std::string>* tokens = file.find_strings(kTokensKey);
  if (tokens == nullptr) fail_vocab(file.path(), kTokensKey, "is missing");
  if (tokens->empty()) fail_vocab(file.path(), kTokensKey, "is empty");
  if (tokens->size() > kMaxTokens) {
    fail_vocab(file.path(), kTokensKey,
               fmt::format("has {} tokens, more than {}", tokens->size(), kMaxTokens));
  }
  vocab.text = *tokens;
  vocab.index.reserve(tokens->size());
  for (int32_t id = 0; id < vocab.n_tokens(); ++id) {
    const std::string& token = vocab.text[static_cast<size_t>(id)];
    if (token.empty()) fail_vocab(file.path(), kTokensKey, fmt::format("token {} is empty", id));
    const int32_t first = vocab.index.insert(id, vocab.text);
    if (first != id) {
      fail_vocab(file.path(), kTokensKey,
                 fmt::format("tokens {} and {} are both {}", first, id, in_quotes(token)));
    }
  }
}

void read_types(Vocab& vocab, const GgufFile& file) {
  vocab.type.assign(vocab.text.size(), TokenType::normal);
  const std::vector<int32_t>* types = file.find_ints(kTypesKey);
  if (types == nullptr) {
    // Old files have none. Byte tokens can be told by their text.
    if (vocab.model != TokenizerModel::spm) return;
    for (size_t id = 0; id < vocab.text.size(); ++id) {
      if (byte_of_token_text(vocab.text[id]) >= 0) vocab.type[id] = TokenType::byte;
    }
    return;
  }
  if (types->size() != vocab.text.size()) {
    fail_vocab(file.path(), kTypesKey,
               fmt::format("has {} values for {} tokens", types->size(), vocab.text.size()));
  }
  for (size_t id = 0; id < types->size(); ++id) {
    const int32_t type = (*types)[id];
    if (type < 0 || type > static_cast<int32_t>(TokenType::byte)) {
      fail_vocab(file.path(), kTypesKey, fmt::format("token {} has type {}, must be in 0 … 6", id, type));
    }
    vocab.type[id] = static_cast<TokenType>(type);
  }
}

void read_scores(Vocab& vocab, const GgufFile& file) {
  const std::vector<float>* scores = file.find_floats(kScoresKey);
  if (scores == nullptr) {
    if (vocab.model == TokenizerModel::spm) fail_vocab(file.path(), kScoresKey, "is missing");
    return;
  }
  if (scores->size() != vocab.text.size()) {
    fail_vocab(file.path(), kScoresKey,
               fmt::format("has {} values for {} tokens", scores->size(), vocab.text.size()));
  }
  for (size_t id = 0; id < scores->size(); ++id) {
    if (!std::isfinite((*scores)[id])) {
      fail_vocab(file.path(), kScoresKey, fmt::format("token {} has the score {}", id, (*scores)[id]));
    }
  }
  vocab.score = *scores;
}

void check_byte_tokens(const Vocab& vocab) {
  std::bitset<256> seen;
  for (size_t id = 0; id < vocab.text.size(); ++id) {
    if (vocab.type[id] != TokenType::byte) continue;
    const int byte = byte_of_token_text(vocab.text[id]);
    if (byte < 0) {
      fail_vocab(vocab.path, kTokensKey,
                 fmt::format("token {} has the type byte but is {}, not '<0x00>' … '<0xFF>'", id,
                             in_quotes(vocab.text[id])));
    }
    if (seen[static_cast<size_t>(byte)]) {
      fail_vocab(vocab.path, kTokensKey, fmt::format("token {} is a second byte 0x{:02X}", id, byte));
    }
    seen.set(static_cast<size_t>(byte));
  }
}

void read_pre_tokenizer(Vocab& vocab, const GgufFile& file) {
  constexpr std::string_view kKey = "tokenizer.ggml.pre";
  const std::string name = file.get_string_or(kKey, "");
  const std::string_view asked = name.empty() ? "default" : std::string_view(name);
  vocab.pre = find_pre_tokenizer(asked);
  if (vocab.pre == nullptr) {
    fail_vocab(file.path(), kKey, fmt::format("{} is unknown", in_quotes(name)),
               fmt::format("known are {}", known_pre_tokenizers()));
  }
  if (asked == "default") {
    vocab.warnings.push_back(
        fmt::format("{}: key {} names no pre-tokenizer; text may be cut otherwise than the model was taught",
                    printable(file.path(), kPathCharacters), in_quotes(kKey)));
  }
  vocab.add_bos = vocab.pre->adds_bos;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

void fail_vocab(std::string_view path, std::string_view key, std::string_view what, std::string hint) {
  throw Error(ExitCode::bad_data,
              fmt::format("{}: key {}: {}", printable(path, kPathCharacters), in_quotes(key), what),
              std::move(hint));
}

int byte_of_token_text(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const int high = hex_digit(text[3]);
  const int low = hex_digit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

Vocab read_vocab(const GgufFile& file) {
  Vocab vocab;
  vocab.path = file.path();
  vocab.model = read_model(file);
  vocab.model_name = file.get_string_or("general.name", "");
  read_tokens(vocab, file);
  read_types(vocab, file);
  read_scores(vocab, file);
  check_byte_tokens(vocab);
  const bool is_spm = vocab.model == TokenizerModel::spm;
  if (!is_spm) read_pre_tokenizer(vocab, file);
  // The key is written for byte-level vocabularies too, where only some checkpoints' own code heeds it.
  vocab.add_space_prefix = is_spm && file.get_bool_or("tokenizer.ggml.add_space_prefix", true);
  vocab.remove_extra_whitespaces =
      is_spm && file.get_bool_or("tokenizer.ggml.remove_extra_whitespaces", false);
  resolve_special_tokens(vocab, file);
  return vocab;
}

}  // namespace tandem
