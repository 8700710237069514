// The GGUF reader on hostile and damaged files: each is refused by one line that says where and what, and has
// cost next to no time and memory by then.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "ops/core/error.h"
#include "runtime/gguf/gguf.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/hostile_gguf.h"

namespace tandem {
namespace {

using test::Bytes;
using test::GgufWriter;
using test::HostileGguf;
using test::TemporaryFolder;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kMaxCpuSeconds = 1.0;  // sanitizers are slow
#else
constexpr double kMaxCpuSeconds = 0.1;
#endif
constexpr int64_t kMaxGrowthKib = 64 * 1024;

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// The most memory that the process ever held.
int64_t peak_kib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

/// Runs `action`, which must throw Error(bad_data) within the bounds, and gives back the message. A busy
/// machine gets two more chances to be quick enough: what is slow by itself is slow each time.
std::string refusal_of(const std::function<void()>& action, int n_chances = 3) {
  const int64_t peak_before_kib = peak_kib();
  const double start = cpu_seconds();
  try {
    action();
  } catch (const Error& error) {
    const double seconds = cpu_seconds() - start;
    EXPECT_LT(peak_kib() - peak_before_kib, kMaxGrowthKib);
    if (seconds >= kMaxCpuSeconds && n_chances > 1) return refusal_of(action, n_chances - 1);
    EXPECT_LT(seconds, kMaxCpuSeconds);
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "not refused";
}

std::string refusal_of_bytes(const Bytes& bytes) {
  return refusal_of([&] { GgufFile::parse(bytes, "m.gguf"); });
}

std::string refusal_of_file(const std::string& path) {
  return refusal_of([&] { GgufFile::open(path); });
}

TEST(GgufHostile, EveryCraftedFileIsRefused) {
  const TemporaryFolder folder;
  const std::string path = folder.file("m.gguf");
  for (const HostileGguf& file : test::hostile_ggufs()) {
    SCOPED_TRACE(file.name);
    const std::string from_memory = refusal_of_bytes(file.bytes);
    EXPECT_TRUE(from_memory.starts_with("m.gguf: " + file.message))
        << from_memory << "\nwanted: " << file.message;
    test::write_bytes(path, file.bytes);
    EXPECT_EQ(refusal_of_file(path), folder.file(from_memory));
  }
}

TEST(GgufHostile, TheFileWithoutAFaultIsTaken) {
  const GgufFile file = GgufFile::parse(test::good_gguf().bytes(), "m.gguf");
  EXPECT_EQ(file.metadata().size(), 8U);
  EXPECT_EQ(file.tensors().size(), 3U);
}

TEST(GgufHostile, EveryTruncationIsRefused) {
  const Bytes whole = test::good_gguf().bytes();
  const GgufTensor last = GgufFile::parse(whole, "m.gguf").tensors().back();
  const uint64_t end = last.file_offset + last.n_bytes;
  ASSERT_LT(end, whole.size());  // what follows is padding, which nobody reads
  for (size_t n_bytes = 0; n_bytes < end; ++n_bytes) {
    const std::string message =
        refusal_of_bytes(Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(n_bytes)));
    EXPECT_TRUE(message.starts_with("m.gguf: ")) << message;
  }
  EXPECT_EQ(GgufFile::parse(std::span(whole).first(end), "m.gguf").tensors().size(), 3U);
}

TEST(GgufHostile, EveryFlippedByteIsReadOrRefused) {
  const Bytes whole = test::good_gguf().bytes();
  int n_refused = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const int mask : {0x01, 0x80, 0xff}) {
      Bytes bytes = whole;
      bytes[i] ^= static_cast<std::byte>(mask);
      try {
        GgufFile::parse(bytes, "m.gguf");
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::bad_data);
        ++n_refused;
      }
    }
  }
  EXPECT_GT(n_refused, 500);
}

/// A file of `n_bytes`, all zero behind what the writer gave; takes no room on the disk.
std::string write_sparse(const TemporaryFolder& folder, const GgufWriter& writer, int64_t n_bytes) {
  const std::string path = folder.file("sparse.gguf");
  writer.write(path);
  if (::truncate(path.c_str(), n_bytes) != 0) throw std::runtime_error("can't make a sparse file");
  return path;
}

Bytes claimed_array(uint32_t element_type, uint64_t count) {
  Bytes value;
  test::append_number(value, element_type);
  test::append_number(value, count);
  return value;
}

TEST(GgufHostile, AFileWithHolesBacksNothing) {
  constexpr int64_t kBytes = int64_t{16} << 30;
  const TemporaryFolder folder;
  const std::string over_budget = ": key 'k': the header would take more than 256 MiB of memory";
  for (uint32_t type = 0; type <= 12; ++type) {
    if (type == test::kGgufArrayTypeId) continue;
    GgufWriter writer;
    writer.add_raw("k", test::kGgufArrayTypeId, claimed_array(type, uint64_t{1} << 30));
    const std::string path = write_sparse(folder, writer, kBytes);
    EXPECT_EQ(refusal_of_file(path), path + over_budget) << "type " << type;
  }
  Bytes text;
  test::append_number(text, uint64_t{1} << 30);
  const std::string path = write_sparse(folder, GgufWriter().add_raw("k", 8, text), kBytes);
  EXPECT_EQ(refusal_of_file(path), path + over_budget);
}

TEST(GgufHostile, WhatTheBudgetAllowsIsNotTakenForAFileThatIsWrong) {
  // Arrays that would take 192 MiB, or that take long to look through, and then an end that is wrong.
  constexpr int64_t kBytes = int64_t{1} << 30;
  const std::pair<uint32_t, uint64_t> claims[] = {
      {0, 192U << 20}, {7, 12U << 20}, {8, 6U << 20}, {12, 24U << 20}};
  const TemporaryFolder folder;
  for (const auto& [type, count] : claims) {
    GgufWriter writer;
    writer.add_raw("k", test::kGgufArrayTypeId, claimed_array(type, count)).claim_keys(2);
    const std::string path = write_sparse(folder, writer, kBytes);
    EXPECT_EQ(refusal_of_file(path), path + ": key 2 of 2: has an empty name") << "type " << type;
  }
}

GgufWriter split_part(uint16_t number, uint16_t count, int32_t n_tensors, std::string_view tensor) {
  GgufWriter writer;
  writer.add<uint16_t>("split.no", number).add<uint16_t>("split.count", count);
  writer.add<int32_t>("split.tensors.count", n_tensors).add("general.name", "split");
  writer.add_f32(tensor, {3}, std::vector<float>{1, 2, 3});
  return writer;
}

class GgufHostileSplit : public testing::Test {
 protected:
  std::string path(int number, int count = 3) const {
    return folder_.file("m-0000" + std::to_string(number) + "-of-0000" + std::to_string(count) + ".gguf");
  }
  void SetUp() override {
    for (int i = 1; i <= 3; ++i) part(i).write(path(i));
    ASSERT_EQ(GgufFile::open(path(1)).tensors().size(), 3U);
  }
  static GgufWriter part(int number) {
    return split_part(static_cast<uint16_t>(number - 1), 3, 3, "t" + std::to_string(number));
  }
  TemporaryFolder folder_;
};

TEST_F(GgufHostileSplit, AMiddlePartNamesTheFirst) {
  EXPECT_EQ(refusal_of_file(path(2)), path(2) + ": is part 2 of 3; open the first part, '" + path(1) + "'");
  split_part(1, 3, 3, "t").write(folder_.file("renamed.gguf"));
  EXPECT_EQ(refusal_of_file(folder_.file("renamed.gguf")),
            folder_.file("renamed.gguf") + ": is part 2 of 3; open the first part, '…-00001-of-00003.gguf'");
}

TEST_F(GgufHostileSplit, AMissingPartIsNamed) {
  std::filesystem::remove(path(3));
  EXPECT_EQ(refusal_of_file(path(1)), path(1) + ": part 3 of 3 is missing: '" + path(3) + "'");
}

TEST_F(GgufHostileSplit, ARepeatedPartIsRefused) {
  part(1).write(path(2));
  EXPECT_EQ(refusal_of_file(path(1)), path(2) + ": is part 1 of 3 by its keys, but part 2 of 3 by its name");
}

TEST_F(GgufHostileSplit, ARepeatedTensorIsRefused) {
  split_part(1, 3, 3, "t1").write(path(2));
  EXPECT_EQ(refusal_of_file(path(1)), path(2) + ": tensor 't1': is in an earlier part already");
}

TEST_F(GgufHostileSplit, AnotherCountIsRefused) {
  split_part(1, 4, 3, "t2").write(path(2));
  EXPECT_EQ(refusal_of_file(path(1)), path(2) + ": is part 2 of 4 by its keys, but part 2 of 3 by its name");
  part(1).write(path(1, 5));
  EXPECT_EQ(refusal_of_file(path(1, 5)),
            path(1, 5) + ": is part 1 of 3 by its keys, so its name must end in '-00001-of-00003.gguf'");
}

TEST_F(GgufHostileSplit, AnotherNumberOfTensorsIsRefused) {
  for (int i = 1; i <= 3; ++i)
    split_part(static_cast<uint16_t>(i - 1), 3, 4, "t" + std::to_string(i)).write(path(i));
  EXPECT_EQ(refusal_of_file(path(1)),
            path(1) + ": key 'split.tensors.count': is 4, but the 3 parts hold 3 tensors");
}

TEST_F(GgufHostileSplit, AnotherModelsPartIsRefused) {
  GgufWriter other;
  other.add<uint16_t>("split.no", 1).add<uint16_t>("split.count", 3).add<int32_t>("split.tensors.count", 3);
  other.add("general.name", "another").add_f32("t2", {3}, std::vector<float>{1, 2, 3});
  other.write(path(2));
  EXPECT_EQ(refusal_of_file(path(1)),
            path(2) + ": key 'general.name': differs from the first part's, '" + path(1) + "'");
}

TEST_F(GgufHostileSplit, KeysOfTheWrongKindAreRefused) {
  GgufWriter().add<float>("split.count", 3).write(path(1));
  EXPECT_EQ(refusal_of_file(path(1)), path(1) + ": key 'split.count': is f32, must be an integer");
  GgufWriter().add<int32_t>("split.count", -3).write(path(1));
  EXPECT_EQ(refusal_of_file(path(1)), path(1) + ": key 'split.count': is -3, must be in 0 … 65535");
  GgufWriter().add<uint64_t>("split.count", ~uint64_t{0}).write(path(1));
  EXPECT_EQ(refusal_of_file(path(1)),
            path(1) + ": key 'split.count': is 18446744073709551615, must be at most 65535");
  GgufWriter().add<uint16_t>("split.count", 3).write(path(1));
  EXPECT_EQ(refusal_of_file(path(1)), path(1) + ": key 'split.no': is missing");
  GgufWriter().add<uint16_t>("split.count", 3).add<uint16_t>("split.no", 3).write(path(1));
  EXPECT_EQ(refusal_of_file(path(1)), path(1) + ": key 'split.no': is 3, must be in 0 … 2");
  GgufWriter().write(path(2));
  part(1).write(path(1));
  EXPECT_EQ(refusal_of_file(path(1)), path(2) + ": key 'split.count': is missing");
}

TEST_F(GgufHostileSplit, ANameAloneMakesNoPart) {
  GgufWriter().add("general.name", "x").write(path(1));
  EXPECT_EQ(refusal_of_file(path(1)),
            path(1) + ": is named as part 1 of 3, but has no key 'split.count' that says so");
}

TEST_F(GgufHostileSplit, ADamagedPartIsNamed) {
  Bytes bytes = part(3).bytes();
  bytes.resize(bytes.size() - 21);
  test::write_bytes(path(3), bytes);
  EXPECT_TRUE(
      refusal_of_file(path(1)).starts_with(path(3) + ": tensor 't3': its 12 bytes at offset 0 reach past"));
}

TEST(GgufHostile, APartInMemoryIsRefused) {
  EXPECT_EQ(refusal_of_bytes(split_part(0, 2, 1, "t").bytes()), "m.gguf: is a part of a split model");
}

}  // namespace
}  // namespace tandem
