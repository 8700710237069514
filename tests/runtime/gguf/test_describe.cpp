// The tables that people read.
#include "runtime/gguf/describe.h"

#include <gtest/gtest.h>

#include <cstddef>

#include "runtime/gguf/printable.h"
#include "tests/support/gguf_writer.h"

namespace tandem {
namespace {

using test::Bytes;
using test::GgufWriter;
using test::TemporaryFolder;

TEST(Printable, PlainTextStays) {
  EXPECT_EQ(printable("blk.0.attn_q.weight", 100), "blk.0.attn_q.weight");
  EXPECT_EQ(printable("é € 😀 ▁the", 100), "é € 😀 ▁the");
  EXPECT_EQ(printable("", 0), "");
}

TEST(Printable, WhatATerminalObeysIsWrittenOut) {
  EXPECT_EQ(printable("a\nb\tc\rd", 100), "a\\nb\\tc\\x0dd");
  EXPECT_EQ(printable("\x1b[31mred\x7f", 100), "\\x1b[31mred\\x7f");
  EXPECT_EQ(printable(std::string_view("a\0b", 3), 100), "a\\x00b");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m",
                      100),
            "\\u{9b}31m");  // C1: the one-character escape
  EXPECT_EQ(printable("\xe2\x80\xae"
                      "abc",
                      100),
            "\\u{202e}abc");  // right-to-left override
  EXPECT_EQ(printable("a\\nb", 100), "a\\\\nb");
}

TEST(Printable, BytesThatAreNoUtf8AreWrittenOut) {
  EXPECT_EQ(printable("a\xff\xfe", 100), "a\\xff\\xfe");
  EXPECT_EQ(printable("\xe2\x82", 100), "\\xe2\\x82");  // cut short
  EXPECT_EQ(printable("\xe2\x82"
                      "a",
                      100),
            "\\xe2\\x82a");                                               // cut off
  EXPECT_EQ(printable("\xc0\xaf", 100), "\\xc0\\xaf");                    // overlong
  EXPECT_EQ(printable("\xe0\x80\xaf", 100), "\\xe0\\x80\\xaf");           // overlong
  EXPECT_EQ(printable("\xed\xa0\x80", 100), "\\xed\\xa0\\x80");           // surrogate
  EXPECT_EQ(printable("\xf4\x90\x80\x80", 100), "\\xf4\\x90\\x80\\x80");  // above U+10FFFF
  EXPECT_EQ(printable("\x80", 100), "\\x80");
}

TEST(Printable, LongTextIsElidedByCharacters) {
  EXPECT_EQ(printable("€€€€", 4), "€€€€");
  EXPECT_EQ(printable("€€€€€", 4), "€€€€…");
  EXPECT_EQ(in_quotes(std::string(100, 'a')), "'" + std::string(80, 'a') + "…'");
}

TEST(Describe, BytesHaveAFittingUnit) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.00 KiB");
  EXPECT_EQ(format_bytes(1536), "1.50 KiB");
  EXPECT_EQ(format_bytes((uint64_t{1} << 20) - 1), "1.00 MiB");
  EXPECT_EQ(format_bytes(uint64_t{42'500'000'000}), "39.58 GiB");
  EXPECT_EQ(format_bytes(~uint64_t{0}), "16.00 EiB");
}

TEST(Describe, MetadataIsATable) {
  GgufWriter writer;
  writer.add("general.name", "Tiny\x1b[2J").add<uint32_t>("n", 3).add<int8_t>("negative", -5);
  writer.add<float>("theta", 0.1F).add<double>("tiny", 1e-300).add<bool>("yes", true);
  writer.add_array<std::string>("words", {"a", "b\n", "c"}).add_array<std::string>("none", {});
  writer.add_array<int32_t>("types", {1, 2, 3, 4}).add_array<bool>("flags", {true, false});
  writer.add("template", std::string(30, 'x'));
  const GgufFile file = GgufFile::parse(writer.bytes(), "m.gguf");
  const std::string expected = "GGUF version 3, 11 keys, 0 tensors, " + std::to_string(file.total_bytes()) +
                               " bytes (" + format_bytes(file.total_bytes()) +
                               ")\n"
                               "\n"
                               "KEY           TYPE             VALUE\n"
                               "flags         array of bool    [true, false]\n"
                               "general.name  string           Tiny\\x1b[2J\n"
                               "n             u32              3\n"
                               "negative      i8               -5\n"
                               "none          array of string  []\n"
                               "template      string           xxxxxxxxxxxx…\n"
                               "theta         f32              0.1\n"
                               "tiny          f64              1e-300\n"
                               "types         array of i32     [1, 2, 3, … 4 in all]\n"
                               "words         array of string  [\"a\", \"b\\n\", \"c\"]\n"
                               "yes           bool             true\n";
  EXPECT_EQ(describe_metadata(file, {.max_characters = 12, .max_elements = 3}), expected);
}

TEST(Describe, TensorsAreATable) {
  GgufWriter writer;
  writer.add_tensor("token_embd.weight", TensorType::q8_0, {64, 10}, Bytes(680));
  writer.add_tensor("é", TensorType::f32, {256}, Bytes(1024));
  writer.add_tensor("experts", TensorType::q4_k, {256, 2, 8}, Bytes(2304));
  writer.add_tensor("scale", TensorType::f32, {}, Bytes(4));
  const GgufFile file = GgufFile::parse(writer.bytes(), "m.gguf");
  EXPECT_EQ(describe_tensors(file),
            "TENSOR             SHAPE        TYPE  BITS/WEIGHT  BYTES      SIZE\n"
            "token_embd.weight  64 × 10      Q8_0         8.50    680     680 B\n"
            "é                  256          F32         32.00   1024  1.00 KiB\n"
            "experts            256 × 2 × 8  Q4_K         4.50   2304  2.25 KiB\n"
            "scale              scalar       F32         32.00      4       4 B\n"
            "\n"
            "TYPE   TENSORS  WEIGHTS  BITS/WEIGHT  BYTES    GiB\n"
            "Q4_K         1     4096         4.50   2304  0.000\n"
            "F32          2      257        32.00   1028  0.000\n"
            "Q8_0         1      640         8.50    680  0.000\n"
            "total        4     4993         6.43   4012  0.000\n");
}

TEST(Describe, PartsAreNumbered) {
  const TemporaryFolder folder;
  for (uint16_t i = 0; i < 2; ++i) {
    GgufWriter writer;
    writer.add<uint16_t>("split.no", i)
        .add<uint16_t>("split.count", 2)
        .add<int32_t>("split.tensors.count", 2);
    writer.add_tensor("t" + std::to_string(i), TensorType::f16, {2}, Bytes(4));
    writer.write(folder.file("m-0000" + std::to_string(i + 1) + "-of-00002.gguf"));
  }
  const GgufFile file = GgufFile::open(folder.file("m-00001-of-00002.gguf"));
  EXPECT_NE(describe_metadata(file).find(" in 2 files\n"), std::string::npos);
  const std::string tensors = describe_tensors(file);
  EXPECT_TRUE(
      tensors.starts_with("TENSOR  SHAPE  TYPE  BITS/WEIGHT  BYTES  SIZE  FILE\n"
                          "t0      2      F16         16.00      4   4 B     1\n"
                          "t1      2      F16         16.00      4   4 B     2\n"))
      << tensors;
}

TEST(Describe, AFileWithoutTensorsIsTold) {
  const GgufFile file = GgufFile::parse(GgufWriter().bytes(), "m.gguf");
  EXPECT_TRUE(describe_tensors(file).ends_with("total        0        0         0.00      0  0.000\n"));
}

}  // namespace
}  // namespace tandem
