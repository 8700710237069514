// Where a batch's lines are, which names come twice, and what becomes of lines that are no good.
#include "launch/batch/input.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "ops/core/error.h"
#include "tests/launch/batch/scratch_folder.h"

namespace tandem::test {
namespace {

struct Expected {
  uint64_t number;
  std::string text;
};

void expect_lines(const std::string& content, InputKind kind, const std::vector<Expected>& expected) {
  const ScratchFolder folder;
  write_file(folder.file("in"), content);
  const BatchInput input(folder.file("in"), kind);
  EXPECT_EQ(input.n_bytes(), content.size());
  EXPECT_EQ(input.hash(), hash128(content));
  ASSERT_EQ(input.n_lines(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const InputLine line = input.line(i);
    EXPECT_EQ(line.number, expected[i].number);
    EXPECT_EQ(input.number(i), expected[i].number);
    EXPECT_EQ(line.text, expected[i].text);
    EXPECT_FALSE(line.too_long);
    EXPECT_EQ(line.repeats, 0u);
  }
}

TEST(BatchInput, FindsLines) {
  expect_lines("", InputKind::requests, {});
  expect_lines("\n \t\r\n\n", InputKind::requests, {});
  expect_lines("one", InputKind::prompts, {{1, "one"}});
  expect_lines("one\n", InputKind::prompts, {{1, "one"}});
  expect_lines("one\r\n\r\n two \nthree", InputKind::prompts, {{1, "one"}, {3, " two "}, {4, "three"}});
  expect_lines("\xEF\xBB\xBFone\n\xEF\xBB\xBFtwo\n", InputKind::prompts,
               {{1, "one"}, {2, "\xEF\xBB\xBFtwo"}});
  expect_lines(std::string("a\0b\n\xFF\n", 6), InputKind::prompts,
               {{1, std::string("a\0b", 3)}, {2, "\xFF"}});
  // Lines across the pieces in which the file is read.
  const std::string long_line(3'000'000, 'x');
  expect_lines(long_line + "\n" + long_line + "y\n", InputKind::prompts,
               {{1, long_line}, {2, long_line + "y"}});
}

TEST(BatchInput, FindsNamesThatComeTwice) {
  const ScratchFolder folder;
  write_file(folder.file("in"),
             "{\"custom_id\":\"a\"}\n"
             "{\"custom_id\":\"b\", \"body\":{\"custom_id\":\"a\"}}\n"
             "{\"custom_id\":\"a\"} broken\n"
             "{\"x\":1, \"custom_id\":\"a\"}\n"
             "{\"custom_id\":\"\\u0061\"}\n"
             "{\"custom_id\":7}\n{\"custom_id\":7}\n"
             "[\"custom_id\",\"a\"]\n");
  const BatchInput input(folder.file("in"), InputKind::requests);
  std::vector<uint64_t> repeats;
  for (uint64_t i = 0; i < input.n_lines(); ++i) repeats.push_back(input.line(i).repeats);
  EXPECT_EQ(repeats, (std::vector<uint64_t>{0, 0, 0, 1, 1, 0, 0, 0}));
}

TEST(BatchInput, FindsACustomIdAsTheParserDoes) {
  EXPECT_EQ(find_custom_id(R"({"custom_id": "x\ny"})"), "x\ny");
  EXPECT_EQ(find_custom_id(R"({"custom_id": "x", "custom_id": "y"})"), "y");
  EXPECT_EQ(find_custom_id(R"({"custom_id": "x", "custom_id": null})"), "");
  EXPECT_EQ(find_custom_id(R"({"custom_id": ["x"]})"), "");
  EXPECT_EQ(find_custom_id(R"({"a": {"custom_id": "x"}})"), "");
  EXPECT_EQ(find_custom_id(R"(["custom_id", "x"])"), "");
  EXPECT_EQ(find_custom_id(R"({"custom_id": "x")"), "");
  EXPECT_EQ(find_custom_id("\"custom_id\""), "");
}

TEST(BatchInput, DoesNotHoldALineThatIsTooLong) {
  const ScratchFolder folder;
  {
    std::ofstream out(folder.file("in"), std::ios::binary);
    out << "one\n"
        << std::string(kMostLineBytes + 1, ' ') << "\n"
        << std::string(kMostLineBytes, 'y') << "\nlast";
  }
  const BatchInput input(folder.file("in"), InputKind::prompts);
  ASSERT_EQ(input.n_lines(), 4u);
  EXPECT_TRUE(input.line(1).too_long);
  EXPECT_EQ(input.line(1).text, "");
  EXPECT_EQ(input.line(2).text.size(), kMostLineBytes);
  EXPECT_EQ(input.line(3).text, "last");
  EXPECT_EQ(input.line(3).number, 4u);
}

TEST(BatchInput, NoticesThatTheFileWasChanged) {
  const ScratchFolder folder;
  write_file(folder.file("in"), "one\ntwo\n");
  const BatchInput input(folder.file("in"), InputKind::prompts);
  write_file(folder.file("in"), "one\ntwO\n");
  EXPECT_EQ(input.line(0).text, "one");
  EXPECT_THROW(input.line(1), Error);
  write_file(folder.file("in"), "on");
  EXPECT_THROW(input.line(0), Error);
}

TEST(BatchInput, WantsAFileThatCanBeReadTwice) {
  const ScratchFolder folder;
  EXPECT_THROW(BatchInput(folder.file("none"), InputKind::prompts), Error);
  EXPECT_THROW(BatchInput("/dev/null", InputKind::prompts), Error);
  EXPECT_THROW(BatchInput(folder.file("."), InputKind::prompts), Error);
}

}  // namespace
}  // namespace tandem::test
