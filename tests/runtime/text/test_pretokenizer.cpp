// Words against the cuts that Hugging Face's tokenizers make (tests/golden/tokenizer/generate_words.py).
#include "runtime/text/pretokenizer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "ops/core/error.h"

namespace tandem {
namespace {

nlohmann::json golden() {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  if (root == nullptr) throw std::runtime_error("TANDEM_SOURCE_DIR is not set: run this by ctest");
  std::ifstream file(std::string(root) + "/tests/golden/tokenizer/words.json");
  return nlohmann::json::parse(file);
}

std::vector<size_t> cuts(const PreTokenizer& pretokenizer, const std::string& text) {
  std::vector<size_t> sizes;
  std::string together;
  for (const std::string_view word : pretokenizer.split(text)) {
    sizes.push_back(word.size());
    together += word;
  }
  EXPECT_EQ(together, text);
  return sizes;
}

TEST(PreTokenizer, CutsAsTheOriginalsDo) {
  const nlohmann::json words = golden();
  const auto texts = words["texts"].get<std::vector<std::string>>();
  size_t n_families = 0;
  for (const auto& [name, expected] : words["cuts"].items()) {
    const PreTokenizerSpec* spec = find_pre_tokenizer(name);
    ASSERT_NE(spec, nullptr) << name;
    // The matcher without JIT is what runs where memory can't be made executable.
    const PreTokenizer with_jit(spec->pattern);
    const PreTokenizer without_jit(spec->pattern, false);
    ASSERT_EQ(expected.size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(cuts(with_jit, texts[i]), expected[i].get<std::vector<size_t>>()) << name << ": " << texts[i];
      EXPECT_EQ(cuts(without_jit, texts[i]), expected[i].get<std::vector<size_t>>())
          << name << ": " << texts[i];
    }
    ++n_families;
  }
  EXPECT_EQ(n_families, 15u);
}

TEST(PreTokenizer, FamiliesDiffer) {
  // If two families cut every text alike, the texts don't test them.
  const nlohmann::json words = golden();
  for (const auto& [name, cuts_of_one] : words["cuts"].items()) {
    for (const auto& [other, cuts_of_other] : words["cuts"].items()) {
      if (find_pre_tokenizer(name)->pattern == find_pre_tokenizer(other)->pattern) continue;
      EXPECT_NE(cuts_of_one, cuts_of_other) << name << " and " << other;
    }
  }
}

TEST(PreTokenizer, KnowsItsNames) {
  EXPECT_EQ(find_pre_tokenizer("no-such"), nullptr);
  EXPECT_EQ(find_pre_tokenizer(""), nullptr);
  ASSERT_NE(find_pre_tokenizer("llama3"), nullptr);
  EXPECT_EQ(find_pre_tokenizer("llama3")->pattern, find_pre_tokenizer("llama-bpe")->pattern);
  EXPECT_NE(known_pre_tokenizers().find("qwen2, "), std::string::npos);
}

TEST(PreTokenizer, DoesNotTakeTheMongolianSeparatorForASpace) {
  // PCRE2's \s does; Unicode has not since version 6.3.
  const PreTokenizer pretokenizer(WordPattern::gpt2);
  EXPECT_EQ(cuts(pretokenizer, "a\u180E"), (std::vector<size_t>{1, 3}));
  EXPECT_EQ(cuts(pretokenizer, " \u180E"), (std::vector<size_t>{4}));
}

TEST(Regex, StopsPatternsThatExplode) {
  const std::string text = std::string(3000, 'a') + "cb";
  for (const bool use_jit : {true, false}) {
    const Regex regex("(?:a|a)+b|(?:a+)+b", use_jit);
    EXPECT_THROW(regex.split({text}), Error);
  }
}

TEST(Regex, CutsEachTextByItself) {
  const Regex regex("b+");
  EXPECT_EQ(regex.split({"abba", "", "b", "ca"}), (std::vector<std::string_view>{"a", "bb", "a", "b", "ca"}));
  EXPECT_EQ(regex.split({}), std::vector<std::string_view>{});
}

}  // namespace
}  // namespace tandem
