// What a vocabulary's keys mean, and that hostile vocabularies are refused with a line that names the key.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "ops/core/error.h"
#include "tests/runtime/text/small_vocabulary.h"

namespace tandem {
namespace {

using test::GgufWriter;
using test::TokenList;
using Ids = std::vector<int32_t>;

Ids end_ids(const Tokenizer& tokenizer) {
  Ids ids;
  for (int32_t id = -1; id <= tokenizer.n_tokens(); ++id) {
    if (tokenizer.is_end_of_generation(id)) ids.push_back(id);
  }
  return ids;
}

TEST(Vocab, SpmHasDefaultsForItsSpecialIds) {
  const auto tokenizer = test::tokenizer_of(test::spm_file(test::spm_tokens()));
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_FALSE(tokenizer->add_eos());
  EXPECT_EQ(end_ids(*tokenizer), (Ids{2}));
  EXPECT_TRUE(tokenizer->warnings().empty());
  EXPECT_EQ(tokenizer->n_tokens(), 259);
}

TEST(Vocab, ByteLevelHasNone) {
  const auto tokenizer = test::tokenizer_of(test::byte_level_file(test::byte_level_tokens(), {}));
  EXPECT_EQ(tokenizer->bos(), -1);
  EXPECT_EQ(tokenizer->eos(), -1);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_EQ(end_ids(*tokenizer), Ids{});
}

TEST(Vocab, KeysComeBeforeDefaults) {
  auto file = test::spm_file(test::spm_tokens());
  file.add<uint32_t>("tokenizer.ggml.bos_token_id", 7);
  file.add<uint32_t>("tokenizer.ggml.eos_token_id", 8);
  file.add<uint32_t>("tokenizer.ggml.eot_token_id", 9);
  file.add<uint32_t>("tokenizer.ggml.eom_token_id", 10);
  file.add("tokenizer.ggml.add_bos_token", false);
  file.add("tokenizer.ggml.add_eos_token", true);
  const auto tokenizer = test::tokenizer_of(file);
  EXPECT_EQ(tokenizer->bos(), 7);
  EXPECT_EQ(tokenizer->eos(), 8);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_EQ(tokenizer->encode(""), (Ids{8}));
  EXPECT_EQ(end_ids(*tokenizer), (Ids{2, 8, 9, 10}));  // </s> ends it too
}

TEST(Vocab, ThePreTokenizerDecidesOnBos) {
  TokenList tokens = test::byte_level_tokens();
  const int32_t bos = tokens.add("<|begin_of_text|>", test::kControl);
  for (const bool asks : {false, true}) {
    auto file = test::byte_level_file(tokens, {}, asks ? "llama-bpe" : "qwen2");
    EXPECT_FALSE(test::tokenizer_of(file)->add_bos());  // no id
    file.add<uint32_t>("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(bos));
    EXPECT_EQ(test::tokenizer_of(file)->add_bos(), asks);
  }
}

TEST(Vocab, WellKnownTextsEndAnAnswerAndAreControlTokens) {
  for (const char* text :
       {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|endoftext|>", "<|end|>", "<EOT>",
        "</s>", "<|end_of_text|>", "<|return|>", "<\uff5cend\u2581of\u2581sentence\uff5c>"}) {
    TokenList tokens = test::byte_level_tokens();
    tokens.add("<other>", test::kControl);
    const int32_t id = tokens.add(text);
    const auto tokenizer = test::tokenizer_of(test::byte_level_file(tokens, {}));
    EXPECT_EQ(end_ids(*tokenizer), (Ids{id})) << text;
    EXPECT_TRUE(tokenizer->is_control(id)) << text;
  }
}

TEST(Vocab, SomeTextsEndAnAnswerInSomeVocabulariesOnly) {
  TokenList html = test::byte_level_tokens();
  const int32_t strike = html.add("</s>", test::kUserDefined);
  const auto with_html = test::tokenizer_of(test::byte_level_file(html, {}));
  EXPECT_EQ(end_ids(*with_html), Ids{});
  EXPECT_EQ(with_html->encode("</s>", {.add_special = false, .parse_special = false}), (Ids{strike}));

  TokenList channels = test::byte_level_tokens();
  const int32_t end = channels.add("<|end|>", test::kControl);
  const int32_t call = channels.add("<|call|>", test::kControl);
  const int32_t done = channels.add("<|return|>", test::kControl);
  const int32_t channel = channels.add("<|channel|>", test::kControl);
  const auto with_channels = test::tokenizer_of(test::byte_level_file(channels, {}));
  EXPECT_EQ(end_ids(*with_channels), (Ids{call, done}));
  EXPECT_EQ(with_channels->decode(Ids{channel, end}), "<|channel|><|end|>");
}

TEST(Vocab, FillTokensThatStartAnotherDocumentEndAnAnswer) {
  TokenList tokens = test::byte_level_tokens();
  const int32_t middle = tokens.add("<|fim_middle|>", test::kUserDefined);
  const int32_t repository = tokens.add("<|repo_name|>", test::kUserDefined);
  const int32_t separator = tokens.add("<|file_sep|>", test::kUserDefined);
  const auto by_text = test::tokenizer_of(test::byte_level_file(tokens, {}));
  EXPECT_EQ(end_ids(*by_text), (Ids{repository, separator}));
  EXPECT_TRUE(by_text->is_control(middle));
  auto file = test::byte_level_file(tokens, {});
  file.add<uint32_t>("tokenizer.ggml.fim_rep_token_id", static_cast<uint32_t>(middle));
  EXPECT_EQ(end_ids(*test::tokenizer_of(file)), (Ids{middle, separator}));
}

TEST(Vocab, SomeModelsSpecialTokensEatTheSpaceBehindThem) {
  TokenList tokens = test::byte_level_tokens();
  const int32_t end = tokens.add("<|end|>", test::kControl);
  const int32_t text_end = tokens.add("<|endoftext|>", test::kControl);
  const auto plain = test::tokenizer_of(test::byte_level_file(tokens, {}));
  EXPECT_EQ(plain->encode("<|end|> \nx"), (Ids{end, ' ', '\n', 'x'}));
  const auto phi = test::tokenizer_of(test::byte_level_file(tokens, {}).add("general.name", "Phi-3 Mini"));
  EXPECT_EQ(phi->encode("<|end|> \nx<|endoftext|> <|end|>  "), (Ids{end, 'x', text_end, ' ', end}));
}

TEST(Vocab, OldFilesWithoutKindsStillHaveByteTokens) {
  const TokenList tokens = test::spm_tokens();
  GgufWriter file;
  file.add("tokenizer.ggml.model", "llama");
  file.add_array("tokenizer.ggml.tokens", tokens.text);
  file.add_array("tokenizer.ggml.scores", tokens.score);
  const auto tokenizer = test::tokenizer_of(file);
  EXPECT_EQ(tokenizer->decode(Ids{1, 3 + 'x', 2}), "x");
  EXPECT_TRUE(tokenizer->is_control(1));
}

TEST(Vocab, AMissingPreTokenizerIsAWarning) {
  const auto tokenizer = test::tokenizer_of(test::byte_level_file(test::byte_level_tokens(), {}, ""));
  ASSERT_EQ(tokenizer->warnings().size(), 1u);
  EXPECT_NE(tokenizer->warnings()[0].find("tokenizer.ggml.pre"), std::string::npos);
}

// ---- hostile vocabularies ----

struct Hostile {
  const char* name;
  const char* key;   // that the message must name
  const char* word;  // and something that it must say
  std::function<GgufWriter()> file;
};

GgufWriter spm_with(std::string_view token, int32_t type = test::kNormal, float score = 0) {
  TokenList tokens = test::spm_tokens();
  tokens.add(token, type, score);
  return test::spm_file(tokens);
}

GgufWriter bpe_with_merges(const std::vector<std::string>& merges) {
  return test::byte_level_file(test::byte_level_tokens(), merges);
}

GgufWriter spm_with_id(std::string_view key, int64_t id) {
  auto file = test::spm_file(test::spm_tokens());
  file.add(key, id);
  return file;
}

/// The three arrays as they are, or another instead of one.
struct Parts {
  bool has_tokens = true;
  bool has_scores = true;
  bool has_types = true;
  GgufWriter writer() const {
    const TokenList tokens = test::spm_tokens();
    GgufWriter file;
    file.add("tokenizer.ggml.model", "llama");
    if (has_tokens) file.add_array("tokenizer.ggml.tokens", tokens.text);
    if (has_scores) file.add_array("tokenizer.ggml.scores", tokens.score);
    if (has_types) file.add_array("tokenizer.ggml.token_type", tokens.type);
    return file;
  }
};

std::vector<Hostile> more_arrays() {
  return {
      {"no_tokens", "tokenizer.ggml.tokens", "missing", [] { return Parts{.has_tokens = false}.writer(); }},
      {"tokens_of_numbers", "tokenizer.ggml.tokens", "array of i32",
       [] {
         return Parts{.has_tokens = false}.writer().add_array<int32_t>("tokenizer.ggml.tokens", {1, 2});
       }},
      {"no_token_at_all", "tokenizer.ggml.tokens", "empty",
       [] {
         return Parts{.has_tokens = false}.writer().add_array<std::string>("tokenizer.ggml.tokens", {});
       }},
      {"ten_million_tokens", "tokenizer.ggml.tokens", "",
       [] {
         return Parts{.has_tokens = false}.writer().add_array("tokenizer.ggml.tokens",
                                                              std::vector<std::string>(10'000'000, "x"));
       }},
      {"no_scores", "tokenizer.ggml.scores", "missing", [] { return Parts{.has_scores = false}.writer(); }},
      {"short_scores", "tokenizer.ggml.scores", "2 values for 259 tokens",
       [] {
         return Parts{.has_scores = false}.writer().add_array<float>("tokenizer.ggml.scores", {1, 2});
       }},
      {"long_scores", "tokenizer.ggml.scores", "260 values",
       [] {
         return Parts{.has_scores = false}.writer().add_array("tokenizer.ggml.scores",
                                                              std::vector<float>(260));
       }},
      {"scores_of_text", "tokenizer.ggml.scores", "array of string",
       [] {
         return Parts{.has_scores = false}.writer().add_array<std::string>("tokenizer.ggml.scores", {"1"});
       }},
      {"short_types", "tokenizer.ggml.token_type", "1 values for 259 tokens",
       [] {
         return Parts{.has_types = false}.writer().add_array<int32_t>("tokenizer.ggml.token_type", {1});
       }},
      {"types_of_floats", "tokenizer.ggml.token_type", "array of f32",
       [] {
         return Parts{.has_types = false}.writer().add_array("tokenizer.ggml.token_type",
                                                             std::vector<float>(259, 1));
       }},
      {"types_are_no_array", "tokenizer.ggml.token_type", "must be an array",
       [] { return Parts{.has_types = false}.writer().add<int32_t>("tokenizer.ggml.token_type", 1); }},
  };
}

std::vector<Hostile> more_tokens() {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  return {
      {"negative_type", "tokenizer.ggml.token_type", "type -1", [] { return spm_with("x", -1); }},
      {"unknown_type", "tokenizer.ggml.token_type", "type 7", [] { return spm_with("x", 7); }},
      {"duplicate", "tokenizer.ggml.tokens", "tokens 1 and 259", [] { return spm_with("<s>"); }},
      {"empty", "tokenizer.ggml.tokens", "token 259 is empty", [] { return spm_with(""); }},
      {"nan_score", "tokenizer.ggml.scores", "token 259", [] { return spm_with("x", test::kNormal, kNan); }},
      {"infinite_score", "tokenizer.ggml.scores", "inf",
       [] { return spm_with("x", test::kNormal, std::numeric_limits<float>::infinity()); }},
      {"negative_byte", "tokenizer.ggml.tokens", "<0x-1>", [] { return spm_with("<0x-1>", test::kByte); }},
      {"no_byte", "tokenizer.ggml.tokens", "<0xZZ>", [] { return spm_with("<0xZZ>", test::kByte); }},
      {"byte_too_long", "tokenizer.ggml.tokens", "<0x100>", [] { return spm_with("<0x100>", test::kByte); }},
      {"byte_too_short", "tokenizer.ggml.tokens", "'x'", [] { return spm_with("x", test::kByte); }},
      {"second_byte", "tokenizer.ggml.tokens", "second byte 0x0A",
       [] { return spm_with("<0x0a>", test::kByte); }},
      {"terminal_escape", "tokenizer.ggml.tokens", "\\x1b[2J",
       [] { return spm_with("\x1B[2J\n", test::kByte); }},
      {"long_special", "tokenizer.ggml.tokens", "1000000 bytes",
       [] { return spm_with(std::string(1'000'000, 'x'), test::kControl); }},
      {"cannot_spell", "tokenizer.ggml.tokens", "byte 0x00",
       [] {
         TokenList tokens;
         for (const char* text : {"a", "b"}) tokens.add(text);
         return test::spm_file(tokens);
       }},
  };
}

std::vector<Hostile> more_keys() {
  return {
      {"no_model", "tokenizer.ggml.model", "missing", [] { return GgufWriter(); }},
      {"unknown_model", "tokenizer.ggml.model", "known are",
       [] { return GgufWriter().add("tokenizer.ggml.model", "bert"); }},
      {"model_is_a_number", "tokenizer.ggml.model", "u32",
       [] { return GgufWriter().add<uint32_t>("tokenizer.ggml.model", 1); }},
      {"unknown_pre", "tokenizer.ggml.pre", "'no-such'",
       [] { return test::byte_level_file(test::byte_level_tokens(), {}, "no-such"); }},
      {"no_merges", "tokenizer.ggml.merges", "missing",
       [] {
         GgufWriter file;
         file.add("tokenizer.ggml.model", "gpt2").add("tokenizer.ggml.pre", "gpt-2");
         test::byte_level_tokens().write(file);
         return file;
       }},
      {"merge_without_space", "tokenizer.ggml.merges", "'ab'",
       [] {
         return bpe_with_merges({"a b", "ab"});
       }},
      {"merge_with_one_part", "tokenizer.ggml.merges", "merge 0", [] { return bpe_with_merges({"a "}); }},
      {"merge_of_nothing", "tokenizer.ggml.merges", "merge 0", [] { return bpe_with_merges({" "}); }},
      {"empty_merge", "tokenizer.ggml.merges", "merge 0", [] { return bpe_with_merges({""}); }},
      {"bos_beyond", "tokenizer.ggml.bos_token_id", "259",
       [] { return spm_with_id("tokenizer.ggml.bos_token_id", 259); }},
      {"bos_negative", "tokenizer.ggml.bos_token_id", "-5",
       [] { return spm_with_id("tokenizer.ggml.bos_token_id", -5); }},
      {"eos_beyond", "tokenizer.ggml.eos_token_id", "4294967295",
       [] { return spm_with_id("tokenizer.ggml.eos_token_id", 4294967295); }},
      {"eot_beyond", "tokenizer.ggml.eot_token_id", "",
       [] { return spm_with_id("tokenizer.ggml.eot_token_id", 1 << 30); }},
      {"unknown_beyond", "tokenizer.ggml.unknown_token_id", "",
       [] { return spm_with_id("tokenizer.ggml.unknown_token_id", 300); }},
      {"separator_beyond", "tokenizer.ggml.fim_sep_token_id", "",
       [] { return spm_with_id("tokenizer.ggml.fim_sep_token_id", 300); }},
      {"bos_is_text", "tokenizer.ggml.bos_token_id", "string",
       [] { return test::spm_file(test::spm_tokens()).add("tokenizer.ggml.bos_token_id", "1"); }},
      {"add_bos_is_a_number", "tokenizer.ggml.add_bos_token", "bool",
       [] { return test::spm_file(test::spm_tokens()).add<uint32_t>("tokenizer.ggml.add_bos_token", 1); }},
      {"adds_no_bos", "tokenizer.ggml.add_bos_token", "no BOS",
       [] { return bpe_with_merges({}).add("tokenizer.ggml.add_bos_token", true); }},
      {"adds_no_eos", "tokenizer.ggml.add_eos_token", "no EOS",
       [] { return bpe_with_merges({}).add("tokenizer.ggml.add_eos_token", true); }},
  };
}

void expect_refused(const Hostile& hostile) {
  SCOPED_TRACE(hostile.name);
  const test::Bytes bytes = hostile.file().bytes();
  try {
    const GgufFile file = GgufFile::parse(bytes, "m.gguf");
    Tokenizer::from_gguf(file);
    ADD_FAILURE() << "was taken";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_TRUE(what.starts_with("m.gguf: ")) << what;
    EXPECT_NE(what.find(hostile.key), std::string::npos) << what;
    EXPECT_NE(what.find(hostile.word), std::string::npos) << what;
    EXPECT_LT(what.size(), 400u) << what;
    for (const char c : what) EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F) << what;
  }
}

TEST(HostileVocab, Arrays) {
  for (const Hostile& hostile : more_arrays()) expect_refused(hostile);
}
TEST(HostileVocab, Tokens) {
  for (const Hostile& hostile : more_tokens()) expect_refused(hostile);
}
TEST(HostileVocab, Keys) {
  for (const Hostile& hostile : more_keys()) expect_refused(hostile);
}

TEST(HostileVocab, UnknownPreTokenizersAreToldWhichAreKnown) {
  try {
    test::tokenizer_of(test::byte_level_file(test::byte_level_tokens(), {}, "no-such"));
    ADD_FAILURE() << "was taken";
  } catch (const Error& error) {
    for (const char* name :
         {"llama-bpe", "qwen2", "smollm", "gpt-2", "falcon", "deepseek-llm", "deepseek-coder"}) {
      EXPECT_NE(error.hint().find(name), std::string::npos) << name;
    }
  }
}

}  // namespace
}  // namespace tandem
