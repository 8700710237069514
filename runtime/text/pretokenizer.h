// Cuts text into the words that byte-level BPE merges within, as the named pre-tokenizer was taught.
// Called by vocab (which names exist) and bpe. Holds patterns only, never a vocabulary.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/regex.h"

namespace tandem {

/// Families of pre-tokenizers that cut alike.
enum class WordPattern : uint8_t {
  gpt2,
  digits_gpt2,
  unnamed,
  llama3,
  qwen2,
  qwen35,
  falcon,
  deepseek_llm,
  deepseek_coder,
  deepseek_v3,
  tekken,
  gpt4o,
  bloom,
  viking,
  seed_coder,
};

/// What a value of tokenizer.ggml.pre stands for.
struct PreTokenizerSpec {
  std::string_view name;
  WordPattern pattern = WordPattern::gpt2;
  bool prefers_whole_words = false;  ///< a word that is a token is not merged together
  bool adds_bos = false;             ///< the default of add_bos_token
};

/// Null where the name is unknown.
const PreTokenizerSpec* find_pre_tokenizer(std::string_view name);

/// All names, separated by commas.
std::string known_pre_tokenizers();

/// The patterns of a family; each cuts further what the one before has left.
std::vector<std::string> word_patterns(WordPattern pattern);

class PreTokenizer {
 public:
  explicit PreTokenizer(WordPattern pattern, bool use_jit = true);

  /// The words of `text` (valid UTF-8), in order and without gaps. Throws Error(bad_data) as Regex::split
  /// does.
  std::vector<std::string_view> split(std::string_view text) const;

 private:
  std::vector<Regex> stages_;
};

}  // namespace tandem
