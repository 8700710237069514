// Real vocabularies against ids that others made.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include "runtime/gguf/gguf.h"
#include "runtime/text/tokenizer.h"

namespace tandem {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> read_cases(const std::string& path) {
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::vector<std::string> cases;
  std::string text = read_file(path);
  for (size_t end = text.find(separator); end != std::string::npos; end = text.find(separator)) {
    cases.push_back(text.substr(0, end));
    text.erase(0, end + separator.size());
  }
  return cases;
}

std::vector<std::vector<int32_t>> read_ids(const std::string& path) {
  std::vector<std::vector<int32_t>> lines;
  std::istringstream text(read_file(path));
  for (std::string line; std::getline(text, line);) {
    std::istringstream numbers(line);
    lines.emplace_back(std::istream_iterator<int32_t>(numbers), std::istream_iterator<int32_t>());
  }
  return lines;
}

class SharedVocabulary : public testing::TestWithParam<const char*> {};

TEST_P(SharedVocabulary, EncodesEveryCaseAsListed) {
  const char* folder = std::getenv("TANDEM_SHARED");
  if (folder == nullptr) GTEST_SKIP() << "TANDEM_SHARED is not set";
  const std::string path = fmt::format("{}/vocab/ggml-vocab-{}.gguf", folder, GetParam());
  const auto tokenizer = Tokenizer::from_gguf(GgufFile::open(path));
  const std::vector<std::string> cases = read_cases(path + ".inp");
  const std::vector<std::vector<int32_t>> expected = read_ids(path + ".out");
  ASSERT_EQ(cases.size(), expected.size());
  ASSERT_GT(cases.size(), 40u);
  for (size_t i = 0; i < cases.size(); ++i) {
    const std::vector<int32_t> ids =
        tokenizer->encode(cases[i], {.add_special = false, .parse_special = false});
    EXPECT_EQ(ids, expected[i]) << "case " << i << ": " << cases[i];
    EXPECT_EQ(tokenizer->decode(ids), cases[i]) << "case " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, SharedVocabulary,
                         testing::Values("llama-spm", "llama-bpe", "qwen2", "gpt-2", "falcon",
                                         "deepseek-llm"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace tandem
