// Random stored matrices of any format, for tests and benchmarks: codes and sub-scales are random bytes,
// half-precision scales are of a size that keeps values near one.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "ops/quant/formats.h"
#include "ops/ref/matmul.h"

namespace tandem::testing {

/// Moved, not copied: `stored` is a view of `bytes`.
struct RandomMatrix {
  RandomMatrix() = default;
  RandomMatrix(RandomMatrix&&) = default;
  RandomMatrix& operator=(RandomMatrix&&) = default;

  std::vector<std::byte> bytes;
  ref::StoredMatrix stored;
  size_t row_stride = 0;
};

/// `extreme`: every byte of the codes is all ones or all zeros (or a byte's signed extremes), to provoke
/// saturation.
inline RandomMatrix random_matrix(TensorType type, int64_t n_rows, int64_t n_cols, uint32_t seed,
                                  bool extreme = false) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> unit(-1.0F, 1.0F);
  RandomMatrix m;
  m.row_stride = static_cast<size_t>(row_bytes(type, n_cols));
  m.bytes.resize(m.row_stride * static_cast<size_t>(n_rows));
  const std::byte extremes[] = {std::byte{0}, std::byte{0xff}, std::byte{0x80}, std::byte{0x7f}};
  for (std::byte& b : m.bytes) b = extreme ? extremes[random() % 4] : static_cast<std::byte>(random());
  with_format(type, [&]<class F>(F) {
    if constexpr (FloatFormat<F>) {
      for (size_t i = 0; i < m.bytes.size(); i += sizeof(typename F::Element)) {
        const float value = unit(random);
        uint32_t bits = std::bit_cast<uint32_t>(value);
        if constexpr (F::kType == TensorType::f16) bits = float_to_f16_bits(value);
        if constexpr (F::kType == TensorType::bf16) bits = float_to_bf16_bits(value);
        std::memcpy(m.bytes.data() + i, &bits, sizeof(typename F::Element));
      }
    } else {
      using Block = typename F::Block;
      const float size = F::kSubScales ? 0.001F : 0.05F;
      for (size_t i = 0; i < m.bytes.size(); i += sizeof(Block)) {
        Block block;
        std::memcpy(&block, m.bytes.data() + i, sizeof(Block));
        block.d = float_to_f16_bits(unit(random) * size);
        if constexpr (requires { block.dmin; }) block.dmin = float_to_f16_bits(unit(random) * size);
        if constexpr (requires { block.m; }) block.m = float_to_f16_bits(unit(random) * size * 8);
        std::memcpy(m.bytes.data() + i, &block, sizeof(Block));
      }
    }
  });
  m.stored = {type, n_rows, n_cols, m.bytes.data()};
  return m;
}

/// All types that tandem computes with.
inline std::vector<TensorType> computable_types() {
  std::vector<TensorType> types;
  for (uint32_t id = 0; id < 64; ++id) {
    const TensorTypeInfo* info = find_tensor_type(id);
    if (info != nullptr && info->computable) types.push_back(info->type);
  }
  return types;
}

}  // namespace tandem::testing
