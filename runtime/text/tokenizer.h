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
  /// Throws Error(bad_data) on a vocabulary that is missing, unknown or inconsistent.
  static std::unique_ptr<Tokenizer> from_gguf(const GgufFile& file);
  virtual ~Tokenizer() = default;

  virtual std::vector<int32_t> encode(std::string_view text, TokenizeOptions options = {}) const = 0;

  /// The bytes of one token (may be a part of a UTF-8 sequence). Control tokens give "" unless `show_special`.
  virtual std::string token_bytes(int32_t id, bool show_special = false) const = 0;

  /// The bytes of `ids`, with the vocabulary's own rule for the leading space.
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
};

/// Feeds tokens in, gives text out, never splitting a UTF-8 sequence. Invalid bytes become U+FFFD.
class StreamingDetokenizer {
 public:
  explicit StreamingDetokenizer(const Tokenizer& tokenizer, bool show_special = false)
      : tokenizer_(tokenizer), show_special_(show_special) {}
  /// The text that has become complete with this token (possibly empty).
  std::string push(int32_t id);
  /// What is left at the end, incomplete sequences replaced.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool show_special_;
  bool first_ = true;
  std::string pending_;
};

}  // namespace tandem
