// Q3_K: 256 elements; 16 sub-blocks of 16 with 6-bit scales around 32; 3-bit codes around 4: two bits as in
// Q2_K, the third in bit g of a mask's byte. Scales: low nibbles in 8 bytes, high pairs of bits in 4.
#pragma once

#include "ops/quant/format.h"

namespace tandem {

struct Q3K {
  static constexpr TensorType kType = TensorType::q3_k;
  static constexpr int kElements = 256, kBits = 3, kZero = 4;
  static constexpr bool kTable = false, kHalves = true, kHasMin = false, kSubScales = true;

  struct Block {
    uint8_t high[32];
    uint8_t codes[64];
    uint8_t scales[12];
    uint16_t d;
  };
  static_assert(sizeof(Block) == 110);

  static constexpr QuantGroup group(const Block& block, int g) {
    QuantGroup out{};
    for (int v = 0; v < 8; ++v) {
      const uint32_t low = load_word(block.codes + 32 * (g / 4) + 4 * v) >> 2 * (g % 4) & 0x03030303U;
      out.codes[v] = low | (load_word(block.high + 4 * v) >> g & 0x01010101U) << 2;
    }
    out.d = block.d;
    for (int half = 0; half < 2; ++half) out.scale[half] = scale(block, 2 * g + half);
    return out;
  }
  static constexpr int weight(uint32_t code) { return static_cast<int>(code) - kZero; }

  static constexpr int16_t scale(const Block& block, int j) {
    const int low = block.scales[j % 8] >> 4 * (j / 8) & 0xf;
    const int high = block.scales[8 + j % 4] >> 2 * (j / 4) & 3;
    return static_cast<int16_t>((low | high << 4) - 32);
  }
};

}  // namespace tandem
