// Q5_1: 32 elements, a half scale and a half offset, 5-bit codes laid out as in Q5_0.
#pragma once

#include "ops/quant/format.h"

namespace tandem {

struct Q51 {
  static constexpr TensorType kType = TensorType::q5_1;
  static constexpr int kElements = 32, kBits = 5, kZero = 0;
  static constexpr bool kTable = false, kHalves = false, kHasMin = true, kSubScales = false;

  struct Block {
    uint16_t d;
    uint16_t m;
    uint8_t high[4];
    uint8_t codes[16];
  };
  static_assert(sizeof(Block) == 24);

  static constexpr QuantGroup group(const Block& block, int /*g*/) {
    QuantGroup out{};
    const uint32_t high = load_word(block.high);
    for (int v = 0; v < 4; ++v) {
      const uint32_t word = load_word(block.codes + 4 * v);
      out.codes[v] = (word & 0x0f0f0f0fU) | spread_bits(high >> 4 * v) << 4;
      out.codes[v + 4] = (word >> 4 & 0x0f0f0f0fU) | spread_bits(high >> (4 * v + 16)) << 4;
    }
    out.d = block.d;
    out.dmin = block.m ^ 0x8000U;  // the offset is added: its negative is the minimum
    out.min[0] = out.min[1] = 1;
    return out;
  }
  static constexpr int weight(uint32_t code) { return static_cast<int>(code); }
};

}  // namespace tandem
