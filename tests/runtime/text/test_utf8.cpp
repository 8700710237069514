// UTF-8 steps: every code point, every sequence of two and three bytes against the standard's own table.
#include "runtime/text/utf8.h"

#include <gtest/gtest.h>

#include <array>

namespace tandem {
namespace {

/// Table 3-7 of the Unicode standard: the well-formed sequences by the ranges of their bytes.
struct WellFormed {
  std::array<std::pair<int, int>, 4> ranges;
  size_t n_bytes;
};
constexpr std::pair<int, int> kTail{0x80, 0xBF};
constexpr std::array<WellFormed, 9> kTable = {{
    {{{{0x00, 0x7F}}}, 1},
    {{{{0xC2, 0xDF}, kTail}}, 2},
    {{{{0xE0, 0xE0}, {0xA0, 0xBF}, kTail}}, 3},
    {{{{0xE1, 0xEC}, kTail, kTail}}, 3},
    {{{{0xED, 0xED}, {0x80, 0x9F}, kTail}}, 3},
    {{{{0xEE, 0xEF}, kTail, kTail}}, 3},
    {{{{0xF0, 0xF0}, {0x90, 0xBF}, kTail, kTail}}, 4},
    {{{{0xF1, 0xF3}, kTail, kTail, kTail}}, 4},
    {{{{0xF4, 0xF4}, {0x80, 0x8F}, kTail, kTail}}, 4},
}};

Utf8Step step_by_table(const std::string& text) {
  size_t longest = 1;
  bool truncated = false;
  for (const WellFormed& row : kTable) {
    size_t n = 0;
    while (n < row.n_bytes && n < text.size()) {
      const int byte = static_cast<uint8_t>(text[n]);
      if (byte < row.ranges[n].first || byte > row.ranges[n].second) break;
      ++n;
    }
    if (n == row.n_bytes) return {n, true, false};
    if (n > 0) longest = n;
    if (n > 0 && n == text.size()) truncated = true;
  }
  return {longest, false, truncated};
}

void expect_as_by_table(const std::string& text) {
  const Utf8Step step = utf8_step(text);
  const Utf8Step expected = step_by_table(text);
  ASSERT_EQ(step.n_bytes, expected.n_bytes) << testing::PrintToString(text);
  ASSERT_EQ(step.valid, expected.valid) << testing::PrintToString(text);
  ASSERT_EQ(step.truncated, expected.truncated) << testing::PrintToString(text);
}

TEST(Utf8, StepsAsTheStandardsTableSays) {
  for (int first = 0; first < 256; ++first) {
    const std::string one(1, static_cast<char>(first));
    expect_as_by_table(one);
    for (int second = 0; second < 256; ++second) {
      const std::string two = one + static_cast<char>(second);
      expect_as_by_table(two);
      for (const int third :
           {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC3, 0xE2, 0xF0, 0xFF}) {
        const std::string three = two + static_cast<char>(third);
        expect_as_by_table(three);
        for (const int fourth : {0x41, 0x80, 0xBF, 0xC0})
          expect_as_by_table(three + static_cast<char>(fourth));
      }
    }
  }
}

TEST(Utf8, WritesAndReadsEveryCodePoint) {
  std::string all;
  for (char32_t point = 0; point <= 0x10FFFF; ++point) {
    if (point >= 0xD800 && point <= 0xDFFF) continue;
    std::string one;
    append_utf8(one, point);
    const Utf8Step step = utf8_step(one);
    ASSERT_TRUE(step.valid);
    ASSERT_EQ(step.n_bytes, one.size());
    ASSERT_EQ(utf8_code_point(one), point);
    all += one;
  }
  EXPECT_EQ(valid_utf8_prefix(all), all.size());
  EXPECT_EQ(replace_invalid_bytes(all), all);
}

TEST(Utf8, FindsTheFirstInvalidByteWhereverItStands) {
  for (const std::string around :
       {"", "a", "1234567", "12345678", "123456789012345678901234567890", "\u00e9\u4f60"}) {
    for (const std::string bad : {"\xFF", "\x80", "\xC3"}) {
      EXPECT_EQ(valid_utf8_prefix(around + bad + "!" + around), around.size());
      EXPECT_EQ(replace_invalid_bytes(around + bad + "!" + around), around + "\uFFFD!" + around);
    }
  }
  EXPECT_EQ(replace_invalid_bytes("\xE2\x82"), "\uFFFD\uFFFD");  // one each
}

}  // namespace
}  // namespace tandem
