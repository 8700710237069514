// The cache's append(): the blocks of q8_0 and q4_0 are those of the `gguf` package byte for byte
// (kv_blocks.bin, written by generate_kv_blocks.py) on every instruction set, what doesn't fit is told, and
// no position touches another's bytes.
#include "ops/cpu/kv_cache.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <thread>

#include "ops/quant/formats.h"
#include "tests/ops/cpu/compare.h"
#include "tests/ops/cpu/stored_rows.h"

namespace tandem {
namespace {

using test::same_bits;

constexpr std::array<KvType, 4> kTypes = {KvType::f16, KvType::f32, KvType::q8_0, KvType::q4_0};
constexpr std::array<KvType, 2> kBlockTypes = {KvType::q8_0, KvType::q4_0};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Blocks {
  std::vector<uint8_t> bytes;  // (rows, columns / 32, block bytes)
  std::vector<float> values;   // (rows, columns)
};

struct Golden {
  uint32_t n_rows = 0;
  uint32_t n_cols = 0;
  std::vector<float> rows;  // (n_rows, n_cols)
  Blocks q8_0, q4_0;
  const Blocks& of(KvType type) const { return type == KvType::q8_0 ? q8_0 : q4_0; }
};

template <class T>
void read(std::ifstream& in, std::vector<T>& to, size_t n) {
  to.resize(n);
  in.read(reinterpret_cast<char*>(to.data()), static_cast<std::streamsize>(n * sizeof(T)));
}

Golden read_golden() {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  std::ifstream in(std::string(root != nullptr ? root : ".") + "/tests/ops/cpu/kv_blocks.bin",
                   std::ios::binary);
  Golden golden;
  in.read(reinterpret_cast<char*>(&golden.n_rows), 4);
  in.read(reinterpret_cast<char*>(&golden.n_cols), 4);
  const size_t n = size_t{golden.n_rows} * golden.n_cols;
  read(in, golden.rows, n);
  read(in, golden.q8_0.bytes, n / 32 * 34);
  read(in, golden.q8_0.values, n);
  read(in, golden.q4_0.bytes, n / 32 * 18);
  read(in, golden.q4_0.values, n);
  EXPECT_TRUE(in.good());
  return golden;
}

KvCache poisoned(const KvLayerShape& shape, KvType type, int64_t n_pages) {
  KvCache cache(std::span(&shape, 1), type, n_pages);
  std::fill(cache.raw().begin(), cache.raw().end(), std::byte{0xff});
  return cache;
}

/// A block as the file format has it, from where the cache's head file says that it lies.
std::vector<uint8_t> block_of(const std::byte* plane, KvType type, int64_t slot, int64_t group, bool is_key) {
  const std::byte* panel = plane + group * panel_bytes(type);
  const int64_t n = code_bytes(type);
  std::vector<uint8_t> block(static_cast<size_t>(2 + n));
  std::memcpy(block.data(), panel + 2 * slot, 2);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = is_key ? i * kPageTokens + slot : slot * n + i;
    block[static_cast<size_t>(2 + i)] = static_cast<uint8_t>(panel[kPanelCodes + at]);
  }
  return block;
}

/// What a head's keys and values of a slot hold: (key blocks, value blocks), each in the order of columns.
std::array<std::vector<uint8_t>, 2> stored(const KvCache& cache, int64_t page, int64_t slot, int64_t head) {
  const KvPageView view = cache.view(0, page, head);
  const std::array<const std::byte*, 2> planes = {view.keys, view.values};
  const std::array<int64_t, 2> dims = {cache.layer(0).k_dim, cache.layer(0).v_dim};
  std::array<std::vector<uint8_t>, 2> out;
  for (size_t i = 0; i < 2; ++i) {
    for (int64_t group = 0; group < ceil_div(dims[i], kKvGroup); ++group) {
      const auto block = block_of(planes[i], cache.type(), slot, group, i == 0);
      out[i].insert(out[i].end(), block.begin(), block.end());
    }
  }
  return out;
}

std::vector<float> decoded(const std::vector<uint8_t>& blocks, KvType type) {
  const TensorType format = type == KvType::q8_0 ? TensorType::q8_0 : TensorType::q4_0;
  std::vector<float> values(blocks.size() / static_cast<size_t>(type_info(format).block_bytes) * 32);
  dequantize(format, reinterpret_cast<const std::byte*>(blocks.data()), static_cast<int64_t>(values.size()),
             values.data());
  return values;
}

TEST(KvCache, BlocksAreTheIndependentQuantisersByteForByte) {
  const Golden golden = read_golden();
  const auto width = static_cast<int32_t>(golden.n_cols);
  for (const KvType type : kBlockTypes) {
    const Blocks& expected = golden.of(type);
    const size_t row_bytes = expected.bytes.size() / golden.n_rows;
    for (const Isa isa : supported_isas()) {
      KvCache cache = poisoned({1, width, width}, type, 1);
      for (uint32_t r = 0; r < golden.n_rows; ++r) {
        const float* row = golden.rows.data() + size_t{r} * golden.n_cols;
        ASSERT_TRUE(cache.append(0, 0, r, row, row, isa)) << r;
      }
      for (uint32_t r = 0; r < golden.n_rows; ++r) {
        const auto begin = expected.bytes.begin() + static_cast<int64_t>(r * row_bytes);
        const std::vector<uint8_t> blocks(begin, begin + static_cast<int64_t>(row_bytes));
        const std::span<const float> values = std::span(expected.values).subspan(r * golden.n_cols, width);
        for (const auto& plane : stored(cache, 0, r, 0)) {
          EXPECT_EQ(plane, blocks) << cache_type_name(type) << ' ' << isa_name(isa) << " row " << r;
          EXPECT_TRUE(same_bits(decoded(plane, type), values));
        }
      }
    }
  }
}

TEST(KvCache, TheComparisonSeesOneStep) {
  const Golden golden = read_golden();
  const auto width = static_cast<int32_t>(golden.n_cols);
  std::vector<float> row(golden.rows.begin() + 5 * width, golden.rows.begin() + 6 * width);
  for (const KvType type : kBlockTypes) {
    KvCache cache = poisoned({1, width, width}, type, 1);
    ASSERT_TRUE(cache.append(0, 0, 0, row.data(), row.data()));
    const auto before = stored(cache, 0, 0, 0);
    std::vector<float> moved = row;
    moved[70] += moved[70] > 0.0F ? -0.5F : 0.5F;
    ASSERT_TRUE(cache.append(0, 0, 0, moved.data(), row.data()));
    const auto after = stored(cache, 0, 0, 0);
    EXPECT_NE(after[0], before[0]);
    EXPECT_EQ(after[1], before[1]);
  }
}

TEST(KvCache, TheTestsOwnRoundingIsTheIndependentOne) {
  const Golden golden = read_golden();
  for (const KvType type : kBlockTypes) {
    const std::vector<double> rounded = test::stored_row(golden.rows, type);
    const std::vector<float> floats(rounded.begin(), rounded.end());
    int n_wrong = 0;
    for (size_t i = 0; i < floats.size(); ++i) n_wrong += floats[i] != golden.of(type).values[i];
    EXPECT_EQ(n_wrong, 0);
  }
}

/// Heads whose width is no multiple of 32: the last block's missing columns are zeros.
TEST(KvCache, WidthsThatEndInsideABlock) {
  test::Random random(3);
  for (const KvType type : kBlockTypes) {
    for (const auto& [k_dim, v_dim] : {std::pair{40, 20}, {8, 100}, {33, 16}, {128, 1}}) {
      KvCache cache = poisoned({2, k_dim, v_dim}, type, 2);
      const std::vector<float> k = random.normals(2 * static_cast<size_t>(k_dim));
      const std::vector<float> v = random.normals(2 * static_cast<size_t>(v_dim));
      ASSERT_TRUE(cache.append(0, 1, 63, k.data(), v.data()));
      const std::array<std::span<const float>, 2> rows = {std::span(k).subspan(static_cast<size_t>(k_dim)),
                                                          std::span(v).subspan(static_cast<size_t>(v_dim))};
      const auto planes = stored(cache, 1, 63, 1);
      for (size_t i = 0; i < 2; ++i) {
        std::vector<double> expected = test::stored_row(rows[i], type);
        const std::vector<float> got = decoded(planes[i], type);
        expected.resize(got.size(), 0.0);
        EXPECT_EQ(test::as_doubles(got), expected) << k_dim << ' ' << v_dim << ' ' << i;
      }
    }
  }
}

/// The largest magnitude that each type takes, and one that it doesn't.
TEST(KvCache, WhatDoesNotFitIsTold) {
  struct Limit {
    KvType type;
    float fits, does_not;
  };
  for (const Limit& limit : {Limit{KvType::f16, 65504.0F, 65520.0F}, Limit{KvType::f32, 3e38F, kInfinity},
                             Limit{KvType::q8_0, 127.0F * 65504.0F, 127.0F * 65520.0F},
                             Limit{KvType::q4_0, 8.0F * 65504.0F, 8.0F * 65520.0F}}) {
    for (const Isa isa : supported_isas()) {
      KvCache cache = poisoned({1, 40, 40}, limit.type, 1);
      const auto fits = [&](float in_key, float in_value, size_t column) {
        std::vector<float> k(40, 1.0F);
        std::vector<float> v(40, 1.0F);
        k[column] = in_key;
        v[column] = in_value;
        return cache.append(0, 0, 5, k.data(), v.data(), isa);
      };
      for (const size_t column : {0U, 15U, 16U, 31U, 39U}) {
        for (const float sign : {1.0F, -1.0F}) {
          EXPECT_TRUE(fits(sign * limit.fits, 1.0F, column)) << cache_type_name(limit.type);
          EXPECT_TRUE(fits(1.0F, sign * limit.fits, column)) << cache_type_name(limit.type);
          for (const float bad : {sign * limit.does_not, sign * kInfinity, std::nanf("")}) {
            EXPECT_FALSE(fits(bad, 1.0F, column)) << cache_type_name(limit.type) << bad << ' ' << column;
            EXPECT_FALSE(fits(1.0F, bad, column)) << cache_type_name(limit.type) << bad << ' ' << column;
          }
        }
      }
    }
  }
}

/// Magnitudes below a half scale's smallest become zeros, subnormal floats included.
TEST(KvCache, TheSmallestBecomeZeros) {
  for (const KvType type : kBlockTypes) {
    for (const float tiny : {1e-45F, -1e-45F, 1e-38F, -3e-37F, 1e-20F, 1e-9F}) {
      for (const Isa isa : supported_isas()) {
        KvCache cache = poisoned({1, 32, 32}, type, 1);
        const std::vector<float> row(32, tiny);
        ASSERT_TRUE(cache.append(0, 0, 0, row.data(), row.data(), isa));
        for (const auto& plane : stored(cache, 0, 0, 0)) {
          for (const float x : decoded(plane, type)) EXPECT_EQ(x, 0.0F) << tiny;
        }
      }
    }
  }
}

/// A position's bytes are its own: a page is the same in whatever order it was filled, and by several
/// threads.
TEST(KvCache, PositionsDoNotTouchEachOther) {
  test::Random random(4);
  const KvLayerShape shape{3, 40, 72};
  const std::vector<float> k = random.normals(64 * 3 * 40);
  const std::vector<float> v = random.normals(64 * 3 * 72);
  for (const KvType type : kTypes) {
    const auto fill = [&](KvCache& cache, int64_t first, int64_t step) {
      for (int64_t p = first; p < kPageTokens; p += step)
        EXPECT_TRUE(cache.append(0, 0, p, k.data() + p * 120, v.data() + p * 216));
    };
    KvCache one = poisoned(shape, type, 1);
    fill(one, 0, 1);
    KvCache backwards = poisoned(shape, type, 1);
    for (int64_t p = kPageTokens; p-- > 0;) fill(backwards, p, kPageTokens);
    EXPECT_EQ(std::memcmp(one.raw().data(), backwards.raw().data(), one.bytes()), 0) << cache_type_name(type);
    KvCache several = poisoned(shape, type, 1);
    std::vector<std::thread> threads;
    for (int64_t t = 0; t < 4; ++t) threads.emplace_back([&, t] { fill(several, t, 4); });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(std::memcmp(one.raw().data(), several.raw().data(), one.bytes()), 0) << cache_type_name(type);
  }
}

TEST(KvCache, BytesAPage) {
  const std::array<KvLayerShape, 2> layers = {KvLayerShape{3, 64, 64}, KvLayerShape{0, 64, 64}};
  EXPECT_EQ(KvCache::bytes_per_page(layers, KvType::f16), 3U * 2 * 64 * 64 * 2);
  EXPECT_EQ(KvCache::bytes_per_page(layers, KvType::f32), 3U * 2 * 64 * 64 * 4);
  EXPECT_EQ(KvCache::bytes_per_page(layers, KvType::q8_0), 3U * 2 * 64 * 64 / 32 * 34);
  EXPECT_EQ(KvCache::bytes_per_page(layers, KvType::q4_0), 3U * 2 * 64 * 64 / 32 * 18);
}

TEST(KvCache, CopyOnWrite) {
  test::Random random(5);
  const KvLayerShape shape{3, 40, 20};
  for (const KvType type : kTypes) {
    KvCache cache = poisoned(shape, type, 3);
    for (int64_t p = 0; p < 30; ++p) {
      const std::vector<float> k = random.normals(120);
      const std::vector<float> v = random.normals(60);
      ASSERT_TRUE(cache.append(0, 0, p, k.data(), v.data()));
    }
    cache.copy_page(0, 2);
    const size_t page = cache.bytes() / 3;
    EXPECT_EQ(std::memcmp(cache.raw().data(), cache.raw().data() + 2 * page, page), 0);
    EXPECT_EQ(std::to_integer<int>(cache.raw()[page]), 0xff) << "the page between";
  }
}

}  // namespace
}  // namespace tandem
