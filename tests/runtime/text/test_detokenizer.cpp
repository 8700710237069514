// Text as it becomes complete: never half a character, nothing lost.
#include <gtest/gtest.h>

#include <random>

#include "runtime/text/utf8.h"
#include "tests/runtime/text/small_vocabulary.h"

namespace tandem {
namespace {

using Ids = std::vector<int32_t>;

std::vector<std::string> stream(const Tokenizer& tokenizer, const Ids& ids, bool show_special = false,
                                bool at_start = true) {
  StreamingDetokenizer detokenizer(tokenizer, show_special, at_start);
  std::vector<std::string> parts;
  for (const int32_t id : ids) parts.push_back(detokenizer.push(id));
  parts.push_back(detokenizer.finish());
  return parts;
}

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += part;
  return text;
}

std::unique_ptr<Tokenizer> bytes_tokenizer() {
  return test::tokenizer_of(test::byte_level_file(test::byte_level_tokens(), {}));
}

TEST(StreamingDetokenizer, HoldsBackHalfACharacter) {
  const auto tokenizer = bytes_tokenizer();
  EXPECT_EQ(stream(*tokenizer, {'a', 0xF0, 0x9F, 0x98, 0x80, 'b'}),
            (std::vector<std::string>{"a", "", "", "", "\U0001F600", "b", ""}));
}

TEST(StreamingDetokenizer, ReplacesWhatCanBecomeNoCharacter) {
  const auto tokenizer = bytes_tokenizer();
  EXPECT_EQ(stream(*tokenizer, {0xE2, 0x82, 'x'}), (std::vector<std::string>{"", "", "\uFFFDx", ""}));
  EXPECT_EQ(stream(*tokenizer, {0xE2, 0x82}), (std::vector<std::string>{"", "", "\uFFFD"}));
  EXPECT_EQ(stream(*tokenizer, {0x80, 0xFF}), (std::vector<std::string>{"\uFFFD", "\uFFFD", ""}));
  EXPECT_EQ(stream(*tokenizer, {0xE2, 0xE2, 0x82, 0xAC}),
            (std::vector<std::string>{"", "\uFFFD", "", "\u20AC", ""}));
  EXPECT_EQ(stream(*tokenizer, {0xED, 0xA0, 0x80}),  // a surrogate: its second byte fits no sequence
            (std::vector<std::string>{"", "\uFFFD\uFFFD", "\uFFFD", ""}));
  EXPECT_EQ(stream(*tokenizer, {0xC3}), (std::vector<std::string>{"", "\uFFFD"}));
}

TEST(StreamingDetokenizer, DropsTheLeadingSpaceAsDecodeDoes) {
  test::TokenList tokens = test::spm_tokens();
  const int32_t word = tokens.add("\u2581a");
  const int32_t space = tokens.add("\u2581");
  const auto tokenizer = test::tokenizer_of(test::spm_file(tokens));
  EXPECT_EQ(stream(*tokenizer, {1, word, word}), (std::vector<std::string>{"", "a", " a", ""}));
  EXPECT_EQ(stream(*tokenizer, {1, word}, true), (std::vector<std::string>{"<s>", " a", ""}));
  EXPECT_EQ(stream(*tokenizer, {word, word}, false, false), (std::vector<std::string>{" a", " a", ""}));
  for (const Ids& ids :
       {Ids{1, space, word}, Ids{space, space}, Ids{2, 1, 3 + 'x', word}, Ids{3 + ' ', word}}) {
    for (const bool show_special : {false, true}) {
      EXPECT_EQ(joined(stream(*tokenizer, ids, show_special)), tokenizer->decode(ids, show_special));
    }
  }
}

TEST(StreamingDetokenizer, GivesInPiecesWhatDecodeGivesAtOnce) {
  const auto tokenizer = bytes_tokenizer();
  std::mt19937 random(20260107);
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (size_t n = random() % 30; n > 0; --n) {
      constexpr char32_t kPoints[] = {'a',    ' ',    0xE9,   0x7FF,   0x800,   0x4F60,
                                      0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF};
      append_utf8(text, kPoints[random() % std::size(kPoints)]);
    }
    Ids ids;
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
    const std::vector<std::string> parts = stream(*tokenizer, ids);
    for (const std::string& part : parts) ASSERT_EQ(valid_utf8_prefix(part), part.size());
    ASSERT_EQ(joined(parts), text);
    ASSERT_EQ(tokenizer->decode(ids), text);
  }
}

TEST(StreamingDetokenizer, AlwaysGivesValidText) {
  const auto tokenizer = bytes_tokenizer();
  std::mt19937 random(20260108);
  for (int round = 0; round < 2000; ++round) {
    Ids ids;
    for (size_t n = random() % 20; n > 0; --n)
      ids.push_back("\x80\xBF\xC3\xE2\xED\xA0\xF0\x9F\xF4\x90\xFF\x41"[random() % 12] & 0xFF);
    for (const std::string& part : stream(*tokenizer, ids)) ASSERT_EQ(valid_utf8_prefix(part), part.size());
  }
}

}  // namespace
}  // namespace tandem
