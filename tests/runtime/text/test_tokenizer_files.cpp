// Real vocabularies against ids that others made.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
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

std::string text_of(const nlohmann::json& entry) {
  if (entry.contains("text")) return entry["text"];
  const std::string hex = entry["hex"];
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

/// Of a vocabulary of ids.json: "" where its folder isn't given.
std::string path_of(const std::string& name) {
  const bool is_vocabulary = name.starts_with("ggml-vocab-");
  const char* folder = std::getenv(is_vocabulary ? "TANDEM_SHARED" : "TANDEM_MODELS");
  return folder == nullptr ? "" : fmt::format("{}{}/{}", folder, is_vocabulary ? "/vocab" : "", name);
}

nlohmann::json golden_ids() {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  if (root == nullptr) throw std::runtime_error("TANDEM_SOURCE_DIR is not set: run this by ctest");
  return nlohmann::json::parse(read_file(std::string(root) + "/tests/golden/tokenizer/ids.json"));
}

/// Gemma has HTML's </s> among its user-defined tokens; llama.cpp takes it for an end mark, tandem for the
/// text that it is. So the two differ on that text where special tokens aren't parsed.
bool differs_on_purpose(const std::string& name, const std::string& way, const std::string& text) {
  return name.starts_with("gemma") && way == "plain" && text.find("</s>") != std::string::npos;
}

TEST(GoldenIds, TrickyTextsGiveLlamaCppsIds) {
  const nlohmann::json golden = golden_ids();
  size_t n_compared = 0;
  for (const auto& [name, ways] : golden["ids"].items()) {
    const std::string path = path_of(name);
    if (path.empty()) continue;
    const auto tokenizer = Tokenizer::from_gguf(GgufFile::open(path));
    for (const auto& [way, ids] : ways.items()) {
      const bool special = way == "special";
      ASSERT_EQ(ids.size(), golden["texts"].size());
      for (size_t i = 0; i < ids.size(); ++i) {
        const std::string text = text_of(golden["texts"][i]);
        if (differs_on_purpose(name, way, text)) continue;
        EXPECT_EQ(tokenizer->encode(text, {.add_special = special, .parse_special = special}),
                  ids[i].get<std::vector<int32_t>>())
            << name << ", " << way << ", text " << i << ": " << text;
        ++n_compared;
      }
    }
  }
  if (n_compared == 0) GTEST_SKIP() << "neither TANDEM_SHARED nor TANDEM_MODELS is set";
  EXPECT_GT(n_compared, 100u);
}

}  // namespace
}  // namespace tandem
