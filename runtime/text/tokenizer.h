// Text to token ids and back, from the vocabulary that a GGUF file carries.
// Called by launch/commands and runtime/engine. Rank 0 alone needs it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

class GgufFile;

struct TokenizeOptions {
  bool add_special = true;    ///< add BOS/EOS where the vocabulary asks for it
  bool parse_special = true;  ///< control tokens written out in the text ("<|im_start|>") become their ids
};

/// A vocabulary and its algorithm (SPM or byte-level BPE). Immutable, safe to share between threads.
class Tokenizer {
 public:
  /// Throws Error(bad_data), with one line that names the file and the key, on a vocabulary that is missing,
  /// unknown or inconsistent.
  static std::unique_ptr<Tokenizer> from_gguf(const GgufFile& file);
  virtual ~Tokenizer() = default;

  /// Any bytes are taken. Control tokens come from parse_special and add_special only, never out of plain
  /// text. Throws Error(bad_data) where the text is too long (1 GiB) or drives a pattern over its limits.
  virtual std::vector<int32_t> encode(std::string_view text, TokenizeOptions options = {}) const = 0;

  /// The bytes of one token (may be a part of a UTF-8 sequence). Control tokens give "" unless
  /// `show_special`, ids outside the vocabulary (a model's table may have more rows) always.
  virtual std::string token_bytes(int32_t id, bool show_special = false) const = 0;

  /// The bytes of `ids`, with the vocabulary's own rule for the leading space: where it puts one before a
  /// text, it is taken away again.
  virtual std::string decode(std::span<const int32_t> ids, bool show_special = false) const = 0;

  virtual int32_t n_tokens() const = 0;
  virtual const std::string& token_text(int32_t id) const = 0;  ///< as the file spells it
  virtual bool is_control(int32_t id) const = 0;

  // −1 where the vocabulary has none.
  virtual int32_t bos() const = 0;
  virtual int32_t eos() const = 0;
  virtual bool add_bos() const = 0;
  virtual bool add_eos() const = 0;
  /// End of generation: EOS, EOT and every other token that ends an answer in this vocabulary
  /// (<|im_end|>, <|eot_id|>, <end_of_turn>, <|endoftext|>, …).
  virtual bool is_end_of_generation(int32_t id) const = 0;

  /// What is doubtful about the vocabulary, a line each, for whoever has a log.
  virtual const std::vector<std::string>& warnings() const = 0;
};

/// Feeds tokens in, gives text out, never splitting a UTF-8 sequence. Invalid bytes become U+FFFD (one for
/// the longest part that could have begun a sequence, as Unicode advises). For valid text, all that push()
/// and finish() return is what decode() gives for the whole.
class StreamingDetokenizer {
 public:
  /// `at_start`: the vocabulary's rule for the leading space holds for the first token. False where the
  /// tokens go on with a text, such as a prompt that is shown before them.
  explicit StreamingDetokenizer(const Tokenizer& tokenizer, bool show_special = false, bool at_start = true)
      : tokenizer_(tokenizer), show_special_(show_special), at_start_(at_start) {}
  /// The text that has become complete with this token (possibly empty).
  std::string push(int32_t id);
  /// What is left at the end, incomplete sequences replaced. Nothing is pushed after it.
  std::string finish();

 private:
  std::string take(bool is_end);

  const Tokenizer& tokenizer_;
  bool show_special_;
  bool at_start_;
  std::string pending_;  // the front of a sequence that isn't complete
};

}  // namespace tandem
