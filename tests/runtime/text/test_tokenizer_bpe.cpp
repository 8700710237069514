// Byte-level BPE on vocabularies small enough to merge by hand, and against a slow merger.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "runtime/text/byte_level.h"
#include "tests/runtime/text/small_vocabulary.h"

namespace tandem {
namespace {

using test::TokenList;
using Ids = std::vector<int32_t>;

constexpr TokenizeOptions kPlain{.add_special = false, .parse_special = false};
constexpr TokenizeOptions kBare{.add_special = false, .parse_special = true};

TEST(ByteLevel, AlphabetGoesThereAndBack) {
  const TokenList tokens = test::byte_level_tokens();
  for (size_t byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(byte_characters()[byte], tokens.text[byte]);
    EXPECT_EQ(decode_byte_level(tokens.text[byte]), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(byte_of_character(0x144), std::nullopt);  // one beyond the alphabet's end
  EXPECT_EQ(decode_byte_level("\u0120\u4f60\xFF"), " \u4f60\xFF");
}

TEST(Bpe, MergesInTheOrderOfTheList) {
  TokenList tokens = test::byte_level_tokens();
  const int32_t ab = tokens.add("ab");
  const int32_t bc = tokens.add("bc");
  const int32_t abc = tokens.add("abc");
  const auto first = test::tokenizer_of(test::byte_level_file(tokens, {"a b", "b c", "ab c"}));
  EXPECT_EQ(first->encode("abc", kPlain), (Ids{abc}));
  EXPECT_EQ(first->encode("bcab", kPlain), (Ids{bc, ab}));
  EXPECT_EQ(first->encode("abb", kPlain), (Ids{ab, 'b'}));
  const auto second = test::tokenizer_of(test::byte_level_file(tokens, {"b c", "a b", "ab c"}));
  EXPECT_EQ(second->encode("abc", kPlain), (Ids{'a', bc}));  // nothing makes a+bc a token
}

TEST(Bpe, TakesTheFirstOfEqualMerges) {
  TokenList tokens = test::byte_level_tokens();
  const int32_t ab = tokens.add("ab");
  tokens.add("bc");
  const auto tokenizer = test::tokenizer_of(test::byte_level_file(tokens, {"a b", "b c", "a b"}));
  EXPECT_EQ(tokenizer->encode("abc", kPlain), (Ids{ab, 'c'}));
}

TEST(Bpe, DoesNotMergeAcrossWords) {
  TokenList tokens = test::byte_level_tokens();
  const int32_t space_a = tokens.add("\u0120a");
  tokens.add("a\u0120");
  const auto tokenizer = test::tokenizer_of(test::byte_level_file(tokens, {"a \u0120", "\u0120 a"}));
  EXPECT_EQ(tokenizer->encode("a a", kPlain), (Ids{'a', space_a}));
}

TEST(Bpe, SpellsMergesThatAreNoTokens) {
  TokenList tokens = test::byte_level_tokens();
  const int32_t abcd = tokens.add("abcd");
  const auto tokenizer = test::tokenizer_of(test::byte_level_file(tokens, {"a b", "c d", "ab cd"}));
  EXPECT_EQ(tokenizer->encode("abcd", kPlain), (Ids{abcd}));
  EXPECT_EQ(tokenizer->encode("abc", kPlain), (Ids{'a', 'b', 'c'}));
}

TEST(Bpe, LeavesOutBytesWithoutAToken) {
  TokenList tokens = test::byte_level_tokens();
  tokens.text[7] = "[not the bell]";
  const auto tokenizer = test::tokenizer_of(test::byte_level_file(tokens, {}));
  EXPECT_EQ(tokenizer->encode("a\ab", kPlain), (Ids{'a', 'b'}));
}

TEST(Bpe, PrefersWholeWordsWherePreTokenizersDo) {
  TokenList tokens = test::byte_level_tokens();
  const int32_t ab = tokens.add("ab");
  const int32_t abc = tokens.add("abc");
  const int32_t hidden = tokens.add("bca", test::kControl);
  const std::vector<std::string> merges = {"a b"};
  EXPECT_EQ(test::tokenizer_of(test::byte_level_file(tokens, merges, "gpt-2"))->encode("abc", kPlain),
            (Ids{ab, 'c'}));
  const auto tokenizer = test::tokenizer_of(test::byte_level_file(tokens, merges, "llama-bpe"));
  EXPECT_EQ(tokenizer->encode("abc", kPlain), (Ids{abc}));
  EXPECT_EQ(tokenizer->encode("bca", kPlain), (Ids{'b', 'c', 'a'}));
  EXPECT_EQ(tokenizer->encode("bca", kBare), (Ids{hidden}));
}

TEST(Bpe, ReadsBytesThatAreNoUtf8AsReplacementCharacters) {
  const auto tokenizer = test::tokenizer_of(test::byte_level_file(test::byte_level_tokens(), {}));
  EXPECT_EQ(tokenizer->encode("a\xE2\x82z", kPlain), (Ids{'a', 0xEF, 0xBF, 0xBD, 0xEF, 0xBF, 0xBD, 'z'}));
  EXPECT_EQ(tokenizer->encode("\xED\xA0\x80", kPlain).size(), 9u);  // a surrogate
}

TEST(Bpe, KnowsItsSpecialTokens) {
  TokenList tokens = test::byte_level_tokens();
  const int32_t start = tokens.add("<|im_start|>", test::kControl);
  const int32_t end = tokens.add("<|im_end|>", test::kControl);
  const int32_t call = tokens.add("<call>", test::kUserDefined);
  auto file = test::byte_level_file(tokens, {});
  file.add<uint32_t>("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(start));
  file.add<uint32_t>("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(end));
  file.add("tokenizer.ggml.add_bos_token", true);
  file.add("tokenizer.ggml.add_eos_token", true);
  const auto tokenizer = test::tokenizer_of(file);
  EXPECT_EQ(tokenizer->encode("x<|im_end|>"), (Ids{start, 'x', end, end}));
  EXPECT_EQ(tokenizer->encode("<|im", kBare).size(), 4u);
  EXPECT_EQ(tokenizer->encode("<|im_end|>", kPlain).size(), 10u);
  EXPECT_EQ(tokenizer->encode("a<call>b", kPlain), (Ids{'a', call, 'b'}));
  EXPECT_EQ(tokenizer->decode(Ids{start, 'x', call, end}), "x<call>");
  EXPECT_EQ(tokenizer->decode(Ids{start, 'x', call, end}, true), "<|im_start|>x<call><|im_end|>");
  EXPECT_EQ(tokenizer->token_bytes(end), "");
  EXPECT_EQ(tokenizer->token_bytes(-1, true), "");
  EXPECT_EQ(tokenizer->token_bytes(tokenizer->n_tokens(), true), "");
  EXPECT_EQ(tokenizer->token_text(end), "<|im_end|>");
  EXPECT_TRUE(tokenizer->is_control(end));
  EXPECT_FALSE(tokenizer->is_control(call));
}

/// Looks for the first merge of the list that fits anywhere, anew each time.
std::vector<std::string> merge_slowly(const std::vector<std::pair<std::string, std::string>>& merges,
                                      const std::string& word) {
  std::vector<std::string> symbols;
  for (const char c : word) symbols.emplace_back(1, c);
  const auto merge_one = [&] {
    for (const auto& [left, right] : merges) {
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        if (symbols[i] != left || symbols[i + 1] != right) continue;
        symbols[i] += symbols[i + 1];
        symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(i) + 1);
        return true;
      }
    }
    return false;
  };
  while (merge_one()) {
  }
  return symbols;
}

TEST(Bpe, MergesAsASlowMergerDoes) {
  std::mt19937 random(20260104);
  for (int round = 0; round < 60; ++round) {
    TokenList tokens = test::byte_level_tokens();
    std::vector<std::string> known = {"a", "b", "c"};
    std::vector<std::pair<std::string, std::string>> merges;
    std::vector<std::string> lines;
    std::map<std::string, int32_t> ids = {{"a", 'a'}, {"b", 'b'}, {"c", 'c'}};
    for (int i = 0; i < 30; ++i) {
      const std::string left = known[random() % known.size()];
      const std::string right = known[random() % known.size()];
      if (left.size() + right.size() > 8) continue;
      merges.emplace_back(left, right);
      lines.push_back(left + " " + right);
      if (ids.count(left + right) > 0) continue;
      ids[left + right] = tokens.add(left + right);
      known.push_back(left + right);
    }
    const auto tokenizer = test::tokenizer_of(test::byte_level_file(tokens, lines));
    for (int i = 0; i < 20; ++i) {
      std::string word;
      for (size_t n = 1 + random() % 60; n > 0; --n) word += "abc"[random() % 3];
      Ids expected;
      for (const std::string& symbol : merge_slowly(merges, word)) expected.push_back(ids.at(symbol));
      ASSERT_EQ(tokenizer->encode(word, kPlain), expected) << word;
    }
  }
}

TEST(Bpe, GivesBackEveryValidText) {
  TokenList tokens = test::byte_level_tokens();
  tokens.add("\u0120a");
  tokens.add("\u00c3\u00a9");
  tokens.add("<|end|>", test::kControl);
  std::mt19937 random(20260105);
  for (const char* pre : {"gpt-2", "llama-bpe", "qwen2", "smollm", "falcon", "deepseek-llm", "deepseek-coder",
                          "deepseek-v3", "tekken", "gpt-4o", "default"}) {
    const auto tokenizer =
        test::tokenizer_of(test::byte_level_file(tokens, {"\u0120 a", "\u00c3 \u00a9"}, pre)
                               .add("tokenizer.ggml.add_bos_token", false));
    for (int round = 0; round < 300; ++round) {
      std::string text;
      for (size_t n = random() % 30; n > 0; --n) {
        constexpr const char* kParts[] = {"a",          " ",  "\n",      "\u00e9", "7",  "\u4f60",
                                          "\U0001F600", "'s", "<|end|>", "!",      "\t", "\u0301",
                                          "\u3000",     "Z",  "\r\n",    "\u2029"};
        text += kParts[random() % std::size(kParts)];
      }
      ASSERT_EQ(tokenizer->decode(tokenizer->encode(text, kPlain)), text) << pre;
      ASSERT_EQ(tokenizer->decode(tokenizer->encode(text, kBare), true), text) << pre;
    }
  }
}

TEST(Bpe, TakesAnyBytes) {
  TokenList tokens = test::byte_level_tokens();
  tokens.add("<|end|>", test::kControl);
  const auto tokenizer = test::tokenizer_of(test::byte_level_file(tokens, {"a b"}, "llama-bpe"));
  std::mt19937 random(20260106);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (size_t n = random() % 60; n > 0; --n) text += static_cast<char>(random());
    const Ids ids = tokenizer->encode(text, kPlain);
    for (const int32_t id : ids) ASSERT_FALSE(tokenizer->is_control(id));
    ASSERT_GE(ids.size(), text.size());
  }
}

TEST(Bpe, EndsOnLongRuns) {
  TokenList tokens = test::byte_level_tokens();
  const int32_t aa = tokens.add("aa");
  const int32_t spaces = tokens.add("\u0120\u0120");
  for (const char* pre : {"gpt-2", "llama-bpe", "qwen2", "smollm", "falcon", "deepseek-llm", "deepseek-coder",
                          "deepseek-v3", "tekken", "gpt-4o"}) {
    // One of the names at full length; had another gone quadratic, a quarter would show it as well.
    const size_t run = size_t{1} << (std::string_view(pre) == "llama-bpe" ? 20 : 18);
    const auto tokenizer = test::tokenizer_of(test::byte_level_file(tokens, {"a a", "\u0120 \u0120"}, pre)
                                                  .add("tokenizer.ggml.add_bos_token", false));
    EXPECT_EQ(tokenizer->encode(std::string(run, 'a'), kPlain), Ids(run / 2, aa)) << pre;
    EXPECT_EQ(tokenizer->encode(std::string(run, ' '), kPlain), Ids(run / 2, spaces)) << pre;
    const Ids before_word = tokenizer->encode(std::string(run, ' ') + "x", kPlain);
    EXPECT_GE(before_word.size(), run / 2 + 1) << pre;
    EXPECT_EQ(before_word.back(), 'x') << pre;
    EXPECT_EQ(tokenizer->encode(std::string(run, '\xFF'), kPlain).size(), 3 * run) << pre;
  }
}

}  // namespace
}  // namespace tandem
