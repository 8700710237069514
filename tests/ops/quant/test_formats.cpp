// Every format's group() against the independent decoder of the `gguf` package, bit for bit (golden.bin,
// written by generate.py), and the half conversions.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "ops/quant/formats.h"

namespace tandem {
namespace {

struct Golden {
  std::vector<std::byte> bytes;
  std::vector<float> values;
};

std::map<TensorType, Golden> read_golden() {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  std::ifstream in(std::string(root != nullptr ? root : ".") + "/tests/ops/quant/golden.bin",
                   std::ios::binary);
  std::map<TensorType, Golden> all;
  uint32_t head[3];
  while (in.read(reinterpret_cast<char*>(head), sizeof(head))) {
    Golden golden;
    golden.bytes.resize(head[2]);
    golden.values.resize(head[1]);
    in.read(reinterpret_cast<char*>(golden.bytes.data()), head[2]);
    in.read(reinterpret_cast<char*>(golden.values.data()),
            static_cast<std::streamsize>(head[1] * sizeof(float)));
    all[find_tensor_type(head[0])->type] = golden;
  }
  return all;
}

int count_different_bits(const std::vector<float>& a, const std::vector<float>& b) {
  int different = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) ++different;
  }
  return different;
}

TEST(Formats, AllFifteenMatchTheIndependentDecoderBitForBit) {
  const std::map<TensorType, Golden> all = read_golden();
  ASSERT_EQ(all.size(), std::tuple_size_v<Formats>);
  for (const auto& [type, golden] : all) {
    const auto n = static_cast<int64_t>(golden.values.size());
    ASSERT_EQ(row_bytes(type, n), static_cast<int64_t>(golden.bytes.size()));
    std::vector<float> got(golden.values.size());
    dequantize(type, golden.bytes.data(), n, got.data());
    EXPECT_EQ(count_different_bits(got, golden.values), 0) << type_info(type).name;
  }
}

TEST(Formats, AFlippedBitIsNoticed) {
  for (auto& [type, golden] : read_golden()) {
    const auto n = static_cast<int64_t>(golden.values.size());
    std::vector<float> got(golden.values.size());
    const auto block_bytes = static_cast<size_t>(type_info(type).block_bytes);
    for (size_t i = block_bytes / 2; i < golden.bytes.size(); i += block_bytes)
      golden.bytes[i] ^= std::byte{4};
    dequantize(type, golden.bytes.data(), n, got.data());
    EXPECT_GT(count_different_bits(got, golden.values), 0) << type_info(type).name;
  }
}

TEST(Formats, ListAgreesWithTheDirectory) {
  int n_computable = 0;
  for (uint32_t id = 0; id < 64; ++id) {
    const TensorTypeInfo* info = find_tensor_type(id);
    if (info == nullptr || !info->computable) continue;
    ++n_computable;
    with_format(info->type, [&]<class F>(F) {
      EXPECT_EQ(F::kType, info->type);
      if constexpr (FloatFormat<F>) {
        EXPECT_EQ(static_cast<int64_t>(sizeof(typename F::Element)), info->block_bytes);
      } else {
        EXPECT_EQ(static_cast<int64_t>(sizeof(typename F::Block)), info->block_bytes);
        EXPECT_EQ(F::kElements, info->block_elements);
      }
    });
  }
  EXPECT_EQ(static_cast<size_t>(n_computable), std::tuple_size_v<Formats>);
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(float_to_f16_bits(1.0F), 0x3c00);
  EXPECT_EQ(float_to_f16_bits(1.0F + 0x1p-11F), 0x3c00);  // a tie, down to even
  EXPECT_EQ(float_to_f16_bits(1.0F + 0x3p-11F), 0x3c02);  // a tie, up to even
  EXPECT_EQ(float_to_f16_bits(65519.0F), 0x7bff);
  EXPECT_EQ(float_to_f16_bits(65520.0F), 0x7c00);
  EXPECT_EQ(float_to_f16_bits(-0x1p-24F), 0x8001);
  EXPECT_EQ(float_to_f16_bits(0x1p-25F), 0);  // a tie with zero
  EXPECT_EQ(float_to_f16_bits(0x1.8p-25F), 1);
  EXPECT_EQ(float_to_bf16_bits(1.0F + 0x1p-8F), 0x3f80);
  EXPECT_EQ(float_to_bf16_bits(1.0F + 0x3p-8F), 0x3f82);
  EXPECT_TRUE(std::isnan(bf16_bits_to_float(float_to_bf16_bits(NAN))));
  EXPECT_TRUE(std::isnan(f16_bits_to_float(float_to_f16_bits(NAN))));
}

}  // namespace
}  // namespace tandem
