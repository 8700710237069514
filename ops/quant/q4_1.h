// Q4_1: 32 elements, a half scale and a half offset, 4-bit codes. Byte i holds elements i (low) and i + 16
// (high).
#pragma once

#include "ops/quant/format.h"

namespace tandem {

struct Q41 {
  static constexpr TensorType kType = TensorType::q4_1;
  static constexpr int kElements = 32, kBits = 4, kZero = 0;
  static constexpr bool kTable = false, kHalves = false, kHasMin = true, kSubScales = false;

  struct Block {
    uint16_t d;
    uint16_t m;
    uint8_t codes[16];
  };
  static_assert(sizeof(Block) == 20);

  static constexpr QuantGroup group(const Block& block, int /*g*/) {
    QuantGroup out{};
    for (int v = 0; v < 4; ++v) {
      const uint32_t word = load_word(block.codes + 4 * v);
      out.codes[v] = word & 0x0f0f0f0fU;
      out.codes[v + 4] = word >> 4 & 0x0f0f0f0fU;
    }
    out.d = block.d;
    out.dmin = block.m ^ 0x8000U;  // the offset is added: its negative is the minimum
    out.min[0] = out.min[1] = 1;
    return out;
  }
  static constexpr int weight(uint32_t code) { return static_cast<int>(code); }
};

}  // namespace tandem
