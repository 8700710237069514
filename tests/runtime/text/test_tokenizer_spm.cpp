// SPM on vocabularies small enough to merge by hand, and against a slow merger of whole texts.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "tests/runtime/text/small_vocabulary.h"

namespace tandem {
namespace {

using test::TokenList;
using Ids = std::vector<int32_t>;

constexpr TokenizeOptions kPlain{.add_special = false, .parse_special = false};
constexpr TokenizeOptions kBare{.add_special = false, .parse_special = true};
constexpr int32_t kFirstByte = 3;  // the id of <0x00>

/// The alphabet a b c and some words; keeps their ids by name.
struct Words {
  TokenList tokens = test::spm_tokens();
  std::map<std::string, int32_t> id;

  Words() {
    for (const char* text : {"a", "b", "c", "\u2581"}) add(text, -10);
  }
  void add(const std::string& text, float score, int32_t type = test::kNormal) {
    id[text] = tokens.add(text, type, score);
  }
};

TEST(Spm, MergesTheHighestScoreFirst) {
  Words words;
  words.add("ab", -2);
  words.add("bc", -1);
  words.add("abc", -9);
  const auto tokenizer =
      test::tokenizer_of(test::spm_file(words.tokens).add("tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(tokenizer->encode("abc", kPlain), (Ids{words.id["abc"]}));  // a+bc
  EXPECT_EQ(tokenizer->encode("abb", kPlain), (Ids{words.id["ab"], words.id["b"]}));
  EXPECT_EQ(tokenizer->encode("abcb", kPlain), (Ids{words.id["abc"], words.id["b"]}));
}

TEST(Spm, BreaksTiesFromLeftToRight) {
  Words words;
  words.add("aa", -1);
  const auto tokenizer =
      test::tokenizer_of(test::spm_file(words.tokens).add("tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(tokenizer->encode("aaa", kPlain), (Ids{words.id["aa"], words.id["a"]}));
  EXPECT_EQ(tokenizer->encode("aaaaa", kPlain), (Ids{words.id["aa"], words.id["aa"], words.id["a"]}));
}

TEST(Spm, SpellsInBytesWhatIsNoToken) {
  Words words;
  const auto tokenizer =
      test::tokenizer_of(test::spm_file(words.tokens).add("tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(tokenizer->encode("a\u00e9", kPlain), (Ids{words.id["a"], kFirstByte + 0xC3, kFirstByte + 0xA9}));
  EXPECT_EQ(tokenizer->encode("\xFF", kPlain), (Ids{kFirstByte + 0xFF}));
  EXPECT_EQ(tokenizer->decode(Ids{kFirstByte + 0xC3, kFirstByte + 0xA9}), "\u00e9");
}

TEST(Spm, SaysUnknownOnceACharacterWithoutByteTokens) {
  TokenList tokens;
  tokens.add("<unk>", test::kUnknown);
  tokens.add("<s>", test::kControl);
  tokens.add("</s>", test::kControl);
  const int32_t a = tokens.add("a");
  const auto tokenizer =
      test::tokenizer_of(test::spm_file(tokens).add("tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(tokenizer->encode("a\u00e9\U0001F600", kPlain), (Ids{a, 0, 0}));
}

TEST(Spm, PutsASpaceBeforeTextAndBehindSpecialTokens) {
  Words words;
  words.add("\u2581a", -1);
  const auto tokenizer = test::tokenizer_of(test::spm_file(words.tokens));
  const int32_t with_space = words.id["\u2581a"];
  EXPECT_EQ(tokenizer->encode("a"), (Ids{1, with_space}));
  EXPECT_EQ(tokenizer->encode("a</s>a", kBare), (Ids{with_space, 2, with_space}));
  EXPECT_EQ(tokenizer->encode(" a", kPlain), (Ids{words.id["\u2581"], with_space}));
  EXPECT_EQ(tokenizer->encode(""), (Ids{1}));
  EXPECT_EQ(tokenizer->decode(Ids{1, with_space, with_space}), "a a");
  EXPECT_EQ(tokenizer->decode(Ids{1, with_space}, true), "<s> a");
  EXPECT_EQ(tokenizer->token_bytes(with_space), " a");
}

TEST(Spm, KeepsToTheKeyForTheSpacePrefix) {
  Words words;
  words.add("\u2581a", -1);
  const auto tokenizer =
      test::tokenizer_of(test::spm_file(words.tokens).add("tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(tokenizer->encode("a a", kPlain), (Ids{words.id["a"], words.id["\u2581a"]}));
  EXPECT_EQ(tokenizer->decode(Ids{words.id["\u2581a"]}), " a");
}

TEST(Spm, RemovesExtraSpacesWhereTheKeySaysSo) {
  Words words;
  words.add("\u2581a", -1);
  const auto tokenizer =
      test::tokenizer_of(test::spm_file(words.tokens).add("tokenizer.ggml.remove_extra_whitespaces", true));
  const int32_t with_space = words.id["\u2581a"];
  EXPECT_EQ(tokenizer->encode("  a    a  ", kPlain), (Ids{with_space, with_space}));
  EXPECT_EQ(tokenizer->encode("   ", kPlain), Ids{});
}

TEST(Spm, NeverMergesTextIntoHiddenTokens) {
  Words words;
  for (const char* text : {"<", ">", "s", "<s", "/", "</", "</s"}) words.add(text, -1);
  words.add("<x", 0, test::kUnused);
  words.add("x", -1);
  const auto tokenizer =
      test::tokenizer_of(test::spm_file(words.tokens).add("tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(tokenizer->encode("<s></s>", kPlain),
            (Ids{words.id["<s"], words.id[">"], words.id["</s"], words.id[">"]}));
  EXPECT_EQ(tokenizer->encode("<x", kPlain), (Ids{words.id["<"], words.id["x"]}));
  EXPECT_EQ(tokenizer->encode("<s></s>", kBare), (Ids{1, 2}));
}

TEST(Spm, TakesUserDefinedTokensFirst) {
  Words words;
  words.add("ab", -1);
  words.add("bcb", -1, test::kUserDefined);
  words.add("bcbcb", -1, test::kUserDefined);
  const auto tokenizer =
      test::tokenizer_of(test::spm_file(words.tokens).add("tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(tokenizer->encode("abcb", kPlain), (Ids{words.id["a"], words.id["bcb"]}));
  EXPECT_EQ(tokenizer->encode("abcbcb", kPlain), (Ids{words.id["a"], words.id["bcbcb"]}));
  EXPECT_EQ(tokenizer->encode("abcbc", kPlain), (Ids{words.id["a"], words.id["bcb"], words.id["c"]}));
}

/// Merges a whole text at once, looking for the best pair anew each time.
Ids merge_slowly(const TokenList& tokens, const std::string& text) {
  std::map<std::string, int32_t> ids;
  for (size_t id = 0; id < tokens.text.size(); ++id) {
    if (tokens.type[id] == test::kNormal) ids[tokens.text[id]] = static_cast<int32_t>(id);
  }
  std::vector<std::string> symbols;
  for (const char c : text) symbols.push_back(c == ' ' ? "\u2581" : std::string(1, c));
  while (true) {
    size_t best = symbols.size();
    float best_score = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = ids.find(symbols[i] + symbols[i + 1]);
      if (found == ids.end()) continue;
      const float score = tokens.score[static_cast<size_t>(found->second)];
      if (best < symbols.size() && score <= best_score) continue;
      best = i;
      best_score = score;
    }
    if (best == symbols.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
  Ids out;
  for (const std::string& symbol : symbols) out.push_back(ids.at(symbol));
  return out;
}

TEST(Spm, MergesAsASlowMergerOfTheWholeTextDoes) {
  std::mt19937 random(20260102);
  const auto random_text = [&](size_t n) {
    std::string text;
    while (text.size() < n) text += "abc  "[random() % 5];
    return text;
  };
  for (int round = 0; round < 60; ++round) {
    Words words;
    // Pieces with a space in the middle in every other round: words must not be cut there.
    for (int i = 0; i < 25; ++i) {
      std::string text = random_text(2 + random() % 4);
      if (round % 2 == 0) text.erase(std::remove(text.begin() + 1, text.end(), ' '), text.end());
      std::string piece;
      for (const char c : text) piece += c == ' ' ? "\u2581" : std::string(1, c);
      if (words.id.count(piece) == 0) words.add(piece, -static_cast<float>(random() % 12));
    }
    const auto tokenizer =
        test::tokenizer_of(test::spm_file(words.tokens).add("tokenizer.ggml.add_space_prefix", false));
    for (int i = 0; i < 20; ++i) {
      const std::string text = random_text(1 + random() % 60);
      ASSERT_EQ(tokenizer->encode(text, kPlain), merge_slowly(words.tokens, text)) << "'" << text << "'";
    }
  }
}

TEST(Spm, TakesAnyBytes) {
  Words words;
  words.add("ab", -1);
  words.add("\u2581a", -1);
  words.add("\u00e9", -1);
  const auto tokenizer = test::tokenizer_of(test::spm_file(words.tokens));
  std::mt19937 random(20260103);
  for (int round = 0; round < 3000; ++round) {
    std::string text;  // without E2, so that no space mark comes about, which would become a space
    for (size_t n = random() % 40; n > 0; --n) text += "ab \xC3\xA9\x96\x81\xF0\xFF\x00<s>"[random() % 13];
    const Ids ids = tokenizer->encode(text, kPlain);
    for (const int32_t id : ids) ASSERT_FALSE(tokenizer->is_control(id));
    ASSERT_EQ(tokenizer->decode(ids), text);
  }
}

TEST(Spm, EndsOnLongRuns) {
  Words words;
  words.add("aa", -1);
  words.add("aaaa", -2);
  words.add("\u2581\u2581", -1);
  const auto tokenizer =
      test::tokenizer_of(test::spm_file(words.tokens).add("tokenizer.ggml.add_space_prefix", false));
  constexpr size_t kRun = size_t{1} << 20;
  EXPECT_EQ(tokenizer->encode(std::string(kRun, 'a'), kPlain), Ids(kRun / 4, words.id["aaaa"]));
  EXPECT_EQ(tokenizer->encode(std::string(kRun, ' '), kPlain), Ids(kRun / 2, words.id["\u2581\u2581"]));
  EXPECT_EQ(tokenizer->encode(std::string(kRun, '\xFF'), kPlain), Ids(kRun, kFirstByte + 0xFF));
}

}  // namespace
}  // namespace tandem
