// The GGUF reader on good files: what the test writer put in comes out.
#include "runtime/gguf/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <numeric>

#include "ops/core/error.h"
#include "runtime/gguf/split.h"
#include "tests/support/gguf_writer.h"

namespace tandem {
namespace {

using test::Bytes;
using test::GgufWriter;
using test::TemporaryFolder;

/// Bytes that differ, so that a wrong offset shows.
Bytes pattern_bytes(size_t n_bytes, unsigned seed) {
  Bytes bytes(n_bytes);
  for (size_t i = 0; i < n_bytes; ++i) bytes[i] = static_cast<std::byte>(i * 37 + seed * 101 + i / 256);
  return bytes;
}

Bytes file_range(const std::string& path, uint64_t offset, uint64_t n_bytes) {
  std::ifstream file(path, std::ios::binary);
  Bytes bytes(n_bytes);
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(n_bytes));
  EXPECT_TRUE(file);
  return bytes;
}

/// The message of the Error(bad_data) that `action` throws; fails the test where it throws none.
template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

GgufWriter scalars(uint32_t version) {
  GgufWriter writer(version);
  writer.add<uint8_t>("a.u8", 200).add<int8_t>("a.i8", -100).add<uint16_t>("a.u16", 60000);
  writer.add<int16_t>("a.i16", -30000).add<uint32_t>("a.u32", 4000000000U).add<int32_t>("a.i32", -2000000000);
  writer.add<uint64_t>("a.u64", 0xfedcba9876543210U).add<int64_t>("a.i64", -0x123456789abcdef0);
  writer.add<float>("a.f32", 0.1F)
      .add<double>("a.f64", 0.1)
      .add<bool>("a.yes", true)
      .add<bool>("a.no", false);
  writer.add("a.string", "tandem \xe2\x82\xac").add("a.empty", "").add("a.zero", std::string("x\0y", 3));
  return writer;
}

class GgufVersions : public testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(All, GgufVersions, testing::Values(2U, 3U));

TEST_P(GgufVersions, AllScalarTypesComeBack) {
  const GgufFile file = GgufFile::parse(scalars(GetParam()).bytes(), "m.gguf");
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(file.version(), GetParam());
  EXPECT_EQ(file.metadata().size(), 15U);
  EXPECT_EQ(file.get_int("a.u8", kMin, kMax), 200);
  EXPECT_EQ(file.get_int("a.i8", kMin, kMax), -100);
  EXPECT_EQ(file.get_int("a.u16", kMin, kMax), 60000);
  EXPECT_EQ(file.get_int("a.i16", kMin, kMax), -30000);
  EXPECT_EQ(file.get_int("a.u32", kMin, kMax), 4000000000);
  EXPECT_EQ(file.get_int("a.i32", kMin, kMax), -2000000000);
  EXPECT_EQ(file.get_int("a.i64", kMin, kMax), -0x123456789abcdef0);
  EXPECT_EQ(std::get<uint64_t>(file.metadata().find("a.u64")->second.value), 0xfedcba9876543210U);
  EXPECT_EQ(file.get_float("a.f32"), double{0.1F});
  EXPECT_EQ(file.get_float("a.f64"), 0.1);
  EXPECT_EQ(file.get_float("a.i8"), -100.0);
  EXPECT_TRUE(file.get_bool_or("a.yes", false));
  EXPECT_FALSE(file.get_bool_or("a.no", true));
  EXPECT_EQ(file.get_string("a.string"), "tandem €");
  EXPECT_EQ(file.get_string("a.empty"), "");
  EXPECT_EQ(file.get_string("a.zero"), std::string("x\0y", 3));
}

template <class T>
void expect_array(const GgufFile& file, std::string_view key, GgufType type, const std::vector<T>& expected) {
  const GgufArray& array = std::get<GgufArray>(file.metadata().find(key)->second.value);
  EXPECT_EQ(array.element_type, type) << key;
  EXPECT_EQ(array.size(), expected.size()) << key;
  ASSERT_TRUE(std::holds_alternative<std::vector<T>>(array.values)) << key;
  EXPECT_EQ(std::get<std::vector<T>>(array.values), expected) << key;
}

TEST(Gguf, AllArrayTypesComeBack) {
  // One array larger than the reader's window, one that crosses its edge, and an empty one.
  std::vector<float> large(700'000);
  std::iota(large.begin(), large.end(), 0.5F);
  std::vector<std::string> words;
  for (int i = 0; i < 100'000; ++i)
    words.push_back("w" + std::string(static_cast<size_t>(i % 23), 'x') + std::to_string(i));
  GgufWriter writer;
  writer.add_array<uint8_t>("u8", {1, 255}).add_array<int8_t>("i8", {-1, -128, 127});
  writer.add_array<uint16_t>("u16", {1, 65535}).add_array<int16_t>("i16", {-1, -32768});
  writer.add_array<uint32_t>("u32", {1, 0xffffffffU}).add_array<int32_t>("i32", {-1, 5, 7});
  writer.add_array<uint64_t>("u64", {1, ~uint64_t{0}}).add_array<int64_t>("i64", {-1, 1LL << 62});
  writer.add_array<float>("f32", large).add_array<double>("f64", {0.1, -1e300});
  writer.add_array<bool>("bool", {true, false, true}).add_array<std::string>("words", words);
  writer.add_array<std::string>("none", {}).add<uint32_t>("last", 42);
  const GgufFile file = GgufFile::parse(writer.bytes(), "m.gguf");
  expect_array<uint8_t>(file, "u8", GgufType::u8, {1, 255});
  expect_array<int8_t>(file, "i8", GgufType::i8, {-1, -128, 127});
  expect_array<uint16_t>(file, "u16", GgufType::u16, {1, 65535});
  expect_array<int16_t>(file, "i16", GgufType::i16, {-1, -32768});
  expect_array<uint32_t>(file, "u32", GgufType::u32, {1, 0xffffffffU});
  expect_array<int32_t>(file, "i32", GgufType::i32, {-1, 5, 7});
  expect_array<uint64_t>(file, "u64", GgufType::u64, {1, ~uint64_t{0}});
  expect_array<int64_t>(file, "i64", GgufType::i64, {-1, 1LL << 62});
  expect_array<float>(file, "f32", GgufType::f32, large);
  expect_array<double>(file, "f64", GgufType::f64, {0.1, -1e300});
  expect_array<uint8_t>(file, "bool", GgufType::boolean, {1, 0, 1});
  expect_array<std::string>(file, "words", GgufType::string, words);
  expect_array<std::string>(file, "none", GgufType::string, {});
  EXPECT_EQ(file.get_int("last", 0, 100), 42);
  EXPECT_EQ(*file.find_strings("words"), words);
  EXPECT_EQ(*file.find_floats("f32"), large);
  EXPECT_EQ(*file.find_ints("i32"), (std::vector<int32_t>{-1, 5, 7}));
}

TEST(Gguf, LookUpsRefuseWrongTypesAndRanges) {
  GgufWriter writer = scalars(3);
  writer.add_array<int32_t>("l.i32", {3, -4}).add_array<bool>("l.bool", {true, false});
  writer.add_array<uint64_t>("l.u64", {1, ~uint64_t{0}}).add<float>("nan", std::nanf(""));
  const GgufFile file = GgufFile::parse(writer.bytes(), "m.gguf");
  EXPECT_EQ(error_of([&] { file.get_int("b", 0, 1); }), "m.gguf: key 'b': is missing");
  EXPECT_EQ(error_of([&] { file.get_float("b"); }), "m.gguf: key 'b': is missing");
  EXPECT_EQ(error_of([&] { file.get_string("b"); }), "m.gguf: key 'b': is missing");
  EXPECT_EQ(error_of([&] { file.get_int("a.f32", 0, 1); }),
            "m.gguf: key 'a.f32': is f32, must be an integer");
  EXPECT_EQ(error_of([&] { file.get_int("a.yes", 0, 1); }),
            "m.gguf: key 'a.yes': is bool, must be an integer");
  EXPECT_EQ(error_of([&] { file.get_int("a.u8", 1, 199); }),
            "m.gguf: key 'a.u8': is 200, must be in 1 … 199");
  EXPECT_EQ(error_of([&] { file.get_int("a.i8", 1, std::numeric_limits<int64_t>::max()); }),
            "m.gguf: key 'a.i8': is -100, must be at least 1");
  EXPECT_EQ(error_of([&] { file.get_int_or("a.u8", 5, 201, 300); }),
            "m.gguf: key 'a.u8': is 200, must be in 201 … 300");
  EXPECT_EQ(error_of([&] { file.get_int("a.u64", 0, std::numeric_limits<int64_t>::max()); }),
            "m.gguf: key 'a.u64': is 18364758544493064720, must be at most 9223372036854775807");
  EXPECT_EQ(error_of([&] { file.get_float_or("a.yes", 1); }),
            "m.gguf: key 'a.yes': is bool, must be a number");
  EXPECT_EQ(error_of([&] { file.get_float("nan"); }), "m.gguf: key 'nan': is nan, must be finite");
  EXPECT_EQ(error_of([&] { file.get_bool_or("a.u8", true); }), "m.gguf: key 'a.u8': is u8, must be a bool");
  EXPECT_EQ(error_of([&] { file.get_string_or("l.i32", ""); }),
            "m.gguf: key 'l.i32': is array of i32, must be a string");
  EXPECT_EQ(error_of([&] { file.find_strings("l.i32"); }),
            "m.gguf: key 'l.i32': is array of i32, must be an array of string");
  EXPECT_EQ(error_of([&] { file.find_floats("a.f32"); }),
            "m.gguf: key 'a.f32': is f32, must be an array of f32");
  EXPECT_EQ(error_of([&] { file.find_ints("l.u64"); }),
            "m.gguf: key 'l.u64': is array of u64, must be an array of i32");
  EXPECT_EQ(file.find_integers("l.i32", -4, 3), (std::vector<int64_t>{3, -4}));
  EXPECT_EQ(file.find_integers("l.bool", 0, 1), (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(file.find_integers("a.u8", 0, 1), std::nullopt);
  EXPECT_EQ(file.find_integers("b", 0, 1), std::nullopt);
  EXPECT_EQ(error_of([&] { file.find_integers("l.i32", 0, 9); }),
            "m.gguf: key 'l.i32': element 1 is -4, must be in 0 … 9");
  EXPECT_EQ(error_of([&] { file.find_integers("l.u64", 0, 9); }),
            "m.gguf: key 'l.u64': element 1 is 18446744073709551615, must be in 0 … 9");
}

TEST(Gguf, FallbacksServeMissingKeysOnly) {
  const GgufFile file = GgufFile::parse(scalars(3).bytes(), "m.gguf");
  EXPECT_EQ(file.get_int_or("b", 7, 0, 1), 7);
  EXPECT_EQ(file.get_int_or("a.u8", 7, 0, 255), 200);
  EXPECT_EQ(file.get_float_or("b", 0.25), 0.25);
  EXPECT_EQ(file.get_float_or("a.f64", 0.25), 0.1);
  EXPECT_TRUE(file.get_bool_or("b", true));
  EXPECT_EQ(file.get_string_or("b", "c"), "c");
  EXPECT_EQ(file.get_string_or("a.string", "c"), "tandem €");
  EXPECT_EQ(file.find_strings("b"), nullptr);
  EXPECT_EQ(file.find_floats("b"), nullptr);
  EXPECT_EQ(file.find_ints("b"), nullptr);
  EXPECT_FALSE(file.has("b"));
  EXPECT_TRUE(file.has("a.u8"));
}

class GgufAlignments : public testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(All, GgufAlignments, testing::Values(1U, 8U, 32U, 64U, 4096U));

TEST_P(GgufAlignments, TensorsLieWhereTheirBytesAre) {
  const TemporaryFolder folder;
  const Bytes a = pattern_bytes(3 * 5 * 2 * 4, 1);
  const Bytes b = pattern_bytes(64 / 32 * 18 * 7, 2);
  const Bytes c = pattern_bytes(4, 3);
  const Bytes d = pattern_bytes(2 * 2 * 2 * 2 * 2, 4);
  GgufWriter writer;
  writer.set_alignment(GetParam()).add<uint32_t>("k", 1);
  writer.add_tensor("a", TensorType::f32, {3, 5, 2}, a).add_tensor("b", TensorType::q4_0, {64, 7}, b);
  writer.add_tensor("c", TensorType::f32, {}, c).add_tensor("d", TensorType::bf16, {2, 2, 2, 2}, d);
  const std::string path = folder.file("m.gguf");
  writer.write(path);
  const GgufFile file = GgufFile::open(path);
  ASSERT_EQ(file.tensors().size(), 4U);
  EXPECT_EQ(file.paths(), std::vector<std::string>{path});
  EXPECT_EQ(file.total_bytes(), writer.bytes().size());
  const std::vector<std::pair<std::string, Bytes>> expected = {{"a", a}, {"b", b}, {"c", c}, {"d", d}};
  for (size_t i = 0; i < expected.size(); ++i) {
    const GgufTensor& tensor = file.tensors()[i];
    EXPECT_EQ(tensor.name, expected[i].first);
    EXPECT_EQ(file.find_tensor(tensor.name), &tensor);
    EXPECT_EQ(tensor.file_offset % GetParam(), 0U);
    EXPECT_EQ(file_range(path, tensor.file_offset, tensor.n_bytes), expected[i].second) << tensor.name;
  }
  EXPECT_EQ(file.find_tensor("e"), nullptr);
  EXPECT_EQ(file.find_tensor("a")->n_rows(), 10);
  EXPECT_EQ(file.find_tensor("a")->n_cols(), 3);
  EXPECT_EQ(file.find_tensor("c")->n_elements(), 1);
  EXPECT_EQ(file.find_tensor("b")->type, TensorType::q4_0);
}

TEST(Gguf, EveryTensorTypeIsKnownByLayout) {
  GgufWriter writer;
  uint32_t n_types = 0;
  for (uint32_t id = 0; id < 64; ++id) {
    const TensorTypeInfo* info = find_tensor_type(id);
    if (info == nullptr) continue;
    const auto n_bytes = static_cast<size_t>(row_bytes(info->type, 512) * 3);
    writer.add_tensor(std::string(info->name), info->type, {512, 3}, pattern_bytes(n_bytes, id));
    ++n_types;
  }
  const GgufFile file = GgufFile::parse(writer.bytes(), "m.gguf");
  ASSERT_EQ(file.tensors().size(), n_types);
  EXPECT_GE(n_types, 32U);
  for (const GgufTensor& tensor : file.tensors()) {
    EXPECT_EQ(tensor.name, type_info(tensor.type).name);
    EXPECT_EQ(static_cast<int64_t>(tensor.n_bytes), row_bytes(tensor.type, 512) * 3);
  }
}

TEST(Gguf, UnreadableFilesAreInputErrors) {
  const TemporaryFolder folder;
  for (const std::string& path : {folder.file("absent.gguf"), folder.path()}) {
    try {
      GgufFile::open(path);
      ADD_FAILURE() << path << " was opened";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::io);
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  }
}

TEST(GgufSplit, NamesAreParsed) {
  const auto name = parse_split_name("/a-00001-of-00002.gguf/m-00003-of-00012.gguf");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->prefix, "/a-00001-of-00002.gguf/m");
  EXPECT_EQ(name->number, 3);
  EXPECT_EQ(name->count, 12);
  EXPECT_EQ(make_split_path(name->prefix, 3, 12), "/a-00001-of-00002.gguf/m-00003-of-00012.gguf");
  for (const char* other :
       {"m.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf", "m-0001-of-00002.gguf",
        "m-00001-of-00002.ggu", "m-0000a-of-00002.gguf", "m-00001_of_00002.gguf", "", "m-+0001-of-00002.gguf",
        "m-00001-of-00002.gguf.part"}) {
    EXPECT_FALSE(parse_split_name(other)) << other;
  }
}

TEST(GgufSplit, PartsBecomeOneModel) {
  const TemporaryFolder folder;
  const Bytes a = pattern_bytes(40, 1);
  const Bytes b = pattern_bytes(80, 2);
  const Bytes c = pattern_bytes(120, 3);
  const auto part = [&](uint16_t number) {
    GgufWriter writer;
    writer.add<uint16_t>("split.no", number)
        .add<uint16_t>("split.count", 3)
        .add<int32_t>("split.tensors.count", 3);
    return writer;
  };
  part(0)
      .add("general.architecture", "llama")
      .add_tensor("a", TensorType::f32, {10}, a)
      .write(folder.file("m-00001-of-00003.gguf"));
  part(1).add_tensor("b", TensorType::f32, {20}, b).write(folder.file("m-00002-of-00003.gguf"));
  part(2)
      .set_alignment(64)
      .add_tensor("c", TensorType::f32, {30}, c)
      .write(folder.file("m-00003-of-00003.gguf"));
  const GgufFile file = GgufFile::open(folder.file("m-00001-of-00003.gguf"));
  ASSERT_EQ(file.paths().size(), 3U);
  ASSERT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.get_string("general.architecture"), "llama");
  const Bytes* expected[] = {&a, &b, &c};
  for (int i = 0; i < 3; ++i) {
    const GgufTensor& tensor = file.tensors()[static_cast<size_t>(i)];
    EXPECT_EQ(tensor.file_index, i);
    EXPECT_EQ(file_range(file.paths()[static_cast<size_t>(i)], tensor.file_offset, tensor.n_bytes),
              *expected[i]);
    EXPECT_EQ(file.find_tensor(tensor.name), &tensor);
  }
  uint64_t total_bytes = 0;
  for (const std::string& path : file.paths()) total_bytes += std::filesystem::file_size(path);
  EXPECT_EQ(file.total_bytes(), total_bytes);
}

TEST(GgufSplit, MergedFilesAreWhole) {
  GgufWriter writer;
  writer.add<uint16_t>("split.no", 0).add<uint16_t>("split.count", 0);
  EXPECT_EQ(GgufFile::parse(writer.bytes(), "m.gguf").metadata().size(), 2U);
}

}  // namespace
}  // namespace tandem
