// A checked vocabulary: tokens, their kinds and scores, the special ids and the rules that a file gives.
// Called by the tokenizers of this folder. Trusts nothing in the file; holds no algorithm.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/string_index.h"

namespace tandem {

class GgufFile;
struct PreTokenizerSpec;

/// What a token is; the numbers are the file format's.
enum class TokenType : uint8_t { undefined, normal, unknown, control, user_defined, unused, byte };

enum class TokenizerModel : uint8_t { spm, byte_level_bpe };

struct Vocab {
  std::string path;                       ///< of the file, for messages
  const PreTokenizerSpec* pre = nullptr;  ///< of byte-level BPE; a constant of the program
  std::string model_name;                 ///< general.name
  TokenizerModel model = TokenizerModel::spm;
  std::vector<std::string> text;  ///< (n_tokens) as the file spells them
  std::vector<TokenType> type;    ///< (n_tokens)
  std::vector<float> score;       ///< (n_tokens) for SPM, finite; may be empty for BPE
  StringIndex index;              ///< text → id

  int32_t bos = -1;
  int32_t eos = -1;
  int32_t unknown = -1;
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = false;           ///< a space before the text and behind each special token
  bool remove_extra_whitespaces = false;   ///< runs of spaces become one, spaces at the ends go
  std::vector<int32_t> end_of_generation;  ///< ascending
  std::vector<std::string> warnings;

  int32_t n_tokens() const { return static_cast<int32_t>(text.size()); }
  bool contains(int32_t id) const { return id >= 0 && id < n_tokens(); }
  /// The id of a token by its text, or −1.
  int32_t find(std::string_view token) const { return index.find(token, text); }
  TokenType type_of(int32_t id) const { return type[static_cast<size_t>(id)]; }
  /// Never shown and never made from text by merges: a token that steers the model.
  bool is_hidden(int32_t id) const {
    return type_of(id) == TokenType::control || type_of(id) == TokenType::unknown;
  }
  /// Text may be merged into it.
  bool is_mergeable(int32_t id) const {
    return !is_hidden(id) && type_of(id) != TokenType::unused && type_of(id) != TokenType::byte;
  }
};

/// Reads and checks a file's vocabulary. Throws Error(bad_data) naming the file and the key.
Vocab read_vocab(const GgufFile& file);

/// Ids, kinds and the set that ends a generation: from the file's keys, then from well-known texts.
/// The second step of read_vocab().
void resolve_special_tokens(Vocab& vocab, const GgufFile& file);

/// The byte of a byte token's text "<0xNN>", or −1.
int byte_of_token_text(std::string_view text);

/// Throws Error(bad_data) in the form that GgufFile uses: file, key, what is wrong.
[[noreturn]] void fail_vocab(std::string_view path, std::string_view key, std::string_view what,
                             std::string hint = {});

}  // namespace tandem
