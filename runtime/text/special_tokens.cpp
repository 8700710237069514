// Which tokens steer the model, and which of them end an answer. Files are often incomplete here, so besides
// the keys the well-known texts count.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <span>

#include "runtime/gguf/gguf.h"
#include "runtime/text/vocab.h"

namespace tandem {
namespace {

// Texts that end a turn, a message or the whole answer, whatever the file says of them.
constexpr std::array<std::string_view, 23> kEndTexts = {"<|eot_id|>",
                                                        "<|eom_id|>",
                                                        "<|end_of_text|>",
                                                        "<|im_end|>",
                                                        "<|endoftext|>",
                                                        "<|end|>",
                                                        "<end_of_turn>",
                                                        "</s>",
                                                        "<EOT>",
                                                        "_<EOT>",
                                                        "[EOT]",
                                                        "[EOS]",
                                                        "<|return|>",
                                                        "<|call|>",
                                                        "<|calls|>",
                                                        "<|flush|>",
                                                        "<eos>",
                                                        "<turn|>",
                                                        "<|tool_response>",
                                                        "<end_of_utterance>",
                                                        "[e~[",
                                                        "<｜end▁of▁sentence｜>",
                                                        "<|END_OF_TURN_TOKEN|>"};

// Fill-in-the-middle tokens. Padding, repository and file marks also end an answer: behind them a model
// starts another document.
struct FillToken {
  std::string_view key;
  bool ends_generation;
  std::array<std::string_view, 8> texts;  // empty ones at the end
};

constexpr std::array<FillToken, 6> kFillTokens = {{
    {"tokenizer.ggml.fim_pre_token_id",
     false,
     {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
      "<|code_prefix|>", "<|prefix|>"}},
    {"tokenizer.ggml.fim_suf_token_id",
     false,
     {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
      "<|code_suffix|>", "<|suffix|>"}},
    {"tokenizer.ggml.fim_mid_token_id",
     false,
     {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
      "<|middle|>"}},
    {"tokenizer.ggml.fim_pad_token_id", true, {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
    {"tokenizer.ggml.fim_rep_token_id",
     true,
     {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
    {"tokenizer.ggml.fim_sep_token_id", true, {"<|file_sep|>"}},
}};

// Marks inside an answer that carry its structure: they must stay visible.
constexpr std::array<std::string_view, 4> kStructureTexts = {"<|channel|>", "<|message|>", "<|start|>",
                                                             "<|constrain|>"};

/// The id under `key`, checked; the fallback (where the vocabulary reaches so far) if the key is missing.
int32_t read_id(const Vocab& vocab, const GgufFile& file, std::string_view key, int32_t fallback) {
  if (!file.has(key)) return vocab.contains(fallback) ? fallback : -1;
  const int64_t id =
      file.get_int(key, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  if (id < 0 || id >= vocab.n_tokens()) {
    fail_vocab(vocab.path, key,
               fmt::format("is {}, but the vocabulary ends at {}", id, vocab.n_tokens() - 1));
  }
  return static_cast<int32_t>(id);
}

class Resolver {
 public:
  Resolver(Vocab& vocab, const GgufFile& file) : vocab_(vocab), file_(file) {}

  void run() {
    const bool is_spm = vocab_.model == TokenizerModel::spm;
    vocab_.bos = read_id(vocab_, file_, "tokenizer.ggml.bos_token_id", is_spm ? 1 : -1);
    vocab_.eos = read_id(vocab_, file_, "tokenizer.ggml.eos_token_id", is_spm ? 2 : -1);
    const bool is_typed = file_.has("tokenizer.ggml.token_type");
    const bool begins_unknown = is_spm && (!is_typed || vocab_.type_of(0) == TokenType::unknown);
    vocab_.unknown = read_id(vocab_, file_, "tokenizer.ggml.unknown_token_id", begins_unknown ? 0 : -1);
    if (!is_typed) mark_untyped();
    end_with(vocab_.eos);
    end_with(read_id(vocab_, file_, "tokenizer.ggml.eot_token_id", -1));
    end_with(read_id(vocab_, file_, "tokenizer.ggml.eom_token_id", -1));
    for (const std::string_view text : kEndTexts) end_with_text(text);
    for (const FillToken& token : kFillTokens) resolve(token);
    for (const std::string_view text : kStructureTexts) {
      if (const int32_t id = vocab_.find(text); id >= 0) set_type(id, TokenType::user_defined);
    }
    make_exceptions();
    read_add_rules();
    auto& ends = vocab_.end_of_generation;
    std::sort(ends.begin(), ends.end());
    ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  }

 private:
  void set_type(int32_t id, TokenType type) { vocab_.type[static_cast<size_t>(id)] = type; }

  void end_with(int32_t id) {
    if (id >= 0) vocab_.end_of_generation.push_back(id);
  }

  void end_with_text(std::string_view text) {
    const int32_t id = vocab_.find(text);
    if (id < 0) return;
    // As a piece of text in its own right it is the end of HTML's <s> (Gemma has all of HTML's marks).
    if (text == "</s>" && vocab_.type_of(id) == TokenType::user_defined && id != vocab_.eos) return;
    set_type(id, TokenType::control);
    end_with(id);
  }

  /// A file without kinds: what the ids name must not be taken for text.
  void mark_untyped() {
    if (vocab_.bos >= 0) set_type(vocab_.bos, TokenType::control);
    if (vocab_.eos >= 0) set_type(vocab_.eos, TokenType::control);
    if (vocab_.unknown >= 0) set_type(vocab_.unknown, TokenType::unknown);
  }

  void resolve(const FillToken& token) {
    int32_t id = -1;
    if (file_.has(token.key)) {
      id = read_id(vocab_, file_, token.key, -1);
    } else {
      for (const std::string_view text : token.texts) {
        if (text.empty() || id >= 0) break;
        id = vocab_.find(text);
        if (id >= 0) set_type(id, TokenType::control);
      }
    }
    if (token.ends_generation) end_with(id);
  }

  /// A text that ends an answer in most vocabularies, but not beside certain others.
  void make_exceptions() {
    const auto ends = [this](std::string_view text) { return vocab_.find(text) >= 0; };
    const bool has_calls = ends("<|call|>") || ends("<|calls|>");
    if ((has_calls && ends("<|return|>")) || (has_calls && ends("<|flush|>"))) {
      do_not_end("<|end|>", TokenType::user_defined);  // ends a channel there, not the answer
    }
    if (ends("<|tool_response>")) do_not_end("</s>", TokenType::normal);  // HTML there
  }

  void do_not_end(std::string_view text, TokenType type) {
    const int32_t id = vocab_.find(text);
    if (id < 0 || id == vocab_.eos) return;
    std::erase(vocab_.end_of_generation, id);
    set_type(id, type);
  }

  void read_add_rules() {
    constexpr std::string_view kAddBos = "tokenizer.ggml.add_bos_token";
    constexpr std::string_view kAddEos = "tokenizer.ggml.add_eos_token";
    // For byte-level vocabularies the default hangs on the pre-tokenizer: read_vocab() has set it.
    const bool add_by_default = vocab_.model == TokenizerModel::spm || vocab_.add_bos;
    vocab_.add_bos = file_.get_bool_or(kAddBos, add_by_default && vocab_.bos >= 0);
    vocab_.add_eos = file_.get_bool_or(kAddEos, false);
    if (vocab_.add_bos && vocab_.bos < 0)
      fail_vocab(vocab_.path, kAddBos, "is true, but there is no BOS token");
    if (vocab_.add_eos && vocab_.eos < 0)
      fail_vocab(vocab_.path, kAddEos, "is true, but there is no EOS token");
  }

  Vocab& vocab_;
  const GgufFile& file_;
};

}  // namespace

void resolve_special_tokens(Vocab& vocab, const GgufFile& file) {
  Resolver(vocab, file).run();
}

}  // namespace tandem
