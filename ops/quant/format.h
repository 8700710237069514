// What a format is: the one place where each of GGUF's block layouts is taken apart. A header a format beside
// this one; ops/quant/formats.h lists them. Packing, dequantising, the CPU and CUDA kernels and the tests are
// templates over them. Plain constexpr code: no intrinsics, no containers, so that device code can call it
// too.
//
// A float format is an array of elements. A quantised one is blocks of 32 or 256 elements, read in groups of
// 32:
//   value[i] = (d * scale[i / 16]) * weight(code[i]) - dmin * min[i / 16]
// with d and dmin halves, scale and min small integers, and weight(code) = code - kZero, or a table's entry.
#pragma once

#include <concepts>
#include <cstdint>

#include "ops/core/half.h"
#include "ops/quant/tensor_type.h"

namespace tandem {

inline constexpr int kGroup = 32;  ///< elements a group

/// One group of 32 elements, taken apart. Byte b of codes[v] is the code of element 4v + b.
struct QuantGroup {
  uint32_t codes[8];
  uint16_t d = 0;             ///< half bits
  uint16_t dmin = 0;          ///< half bits
  int16_t scale[2] = {1, 1};  ///< of elements 0..15 and 16..31
  int16_t min[2] = {0, 0};
};

template <class F>
concept FloatFormat = requires(typename F::Element e) {
  { F::kType } -> std::convertible_to<TensorType>;
  { F::to_float(e) } -> std::same_as<float>;
};

/// kBits: width of a code. kZero: what a code is above its weight (where kTable is false). kHalves: the two
/// halves of a group have scales of their own. kHasMin: min and dmin are not always zero. kSubScales: scale
/// differs from 1.
template <class F>
concept QuantFormat = requires(const typename F::Block& block, int g, uint32_t code) {
  { F::kType } -> std::convertible_to<TensorType>;
  { F::kElements } -> std::convertible_to<int>;
  { F::kBits } -> std::convertible_to<int>;
  { F::kZero } -> std::convertible_to<int>;
  { F::kTable } -> std::convertible_to<bool>;
  { F::kHalves } -> std::convertible_to<bool>;
  { F::kHasMin } -> std::convertible_to<bool>;
  { F::kSubScales } -> std::convertible_to<bool>;
  { F::group(block, g) } -> std::same_as<QuantGroup>;
  { F::weight(code) } -> std::same_as<int>;
}
&&F::kElements % kGroup == 0;

/// Four bytes of a file as a number; the file's order is little-endian.
constexpr uint32_t load_word(const uint8_t* p) {
  return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 | static_cast<uint32_t>(p[2]) << 16 |
         static_cast<uint32_t>(p[3]) << 24;
}

/// Bits 0..3 of `bits` to bit 0 of bytes 0..3.
constexpr uint32_t spread_bits(uint32_t bits) {
  return ((bits & 0xfU) * 0x00204081U) & 0x01010101U;
}

/// The code of element i.
constexpr uint32_t code_at(const QuantGroup& group, int i) {
  return group.codes[i / 4] >> 8 * (i % 4) & 0xffU;
}

/// The value of element i, in the exact steps of the format's definition.
template <QuantFormat F>
constexpr float element(const QuantGroup& group, int i) {
  const int half = i / 16;
  const float scale = f16_bits_to_float(group.d) * static_cast<float>(group.scale[half]);
  const float value = scale * static_cast<float>(F::weight(code_at(group, i)));
  if constexpr (!F::kHasMin) return value;
  return value - f16_bits_to_float(group.dmin) * static_cast<float>(group.min[half]);
}

/// n elements (a whole number of blocks) of a row as stored.
template <QuantFormat F>
constexpr void dequantize(const typename F::Block* blocks, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kGroup) {
    const QuantGroup group = F::group(blocks[i / F::kElements], static_cast<int>(i % F::kElements / kGroup));
    for (int j = 0; j < kGroup; ++j) out[i + j] = element<F>(group, j);
  }
}

template <FloatFormat F>
constexpr void dequantize(const typename F::Element* elements, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = F::to_float(elements[i]);
}

}  // namespace tandem
