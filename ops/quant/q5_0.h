// Q5_0: 32 elements, a half scale, 5-bit codes around 16: nibbles as in Q4_0, the fifth bits in one word.
#pragma once

#include "ops/quant/format.h"

namespace tandem {

struct Q50 {
  static constexpr TensorType kType = TensorType::q5_0;
  static constexpr int kElements = 32, kBits = 5, kZero = 16;
  static constexpr bool kTable = false, kHalves = false, kHasMin = false, kSubScales = false;

  struct Block {
    uint16_t d;
    uint8_t high[4];
    uint8_t codes[16];
  };
  static_assert(sizeof(Block) == 22);

  static constexpr QuantGroup group(const Block& block, int /*g*/) {
    QuantGroup out{};
    const uint32_t high = load_word(block.high);
    for (int v = 0; v < 4; ++v) {
      const uint32_t word = load_word(block.codes + 4 * v);
      out.codes[v] = (word & 0x0f0f0f0fU) | spread_bits(high >> 4 * v) << 4;
      out.codes[v + 4] = (word >> 4 & 0x0f0f0f0fU) | spread_bits(high >> (4 * v + 16)) << 4;
    }
    out.d = block.d;
    return out;
  }
  static constexpr int weight(uint32_t code) { return static_cast<int>(code) - kZero; }
};

}  // namespace tandem
