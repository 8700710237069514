// Q4_0: 32 elements, a half scale, 4-bit codes around 8. Byte i holds elements i (low) and i + 16 (high).
#pragma once

#include "ops/quant/format.h"

namespace tandem {

struct Q40 {
  static constexpr TensorType kType = TensorType::q4_0;
  static constexpr int kElements = 32, kBits = 4, kZero = 8;
  static constexpr bool kTable = false, kHalves = false, kHasMin = false, kSubScales = false;

  struct Block {
    uint16_t d;
    uint8_t codes[16];
  };
  static_assert(sizeof(Block) == 18);

  static constexpr QuantGroup group(const Block& block, int /*g*/) {
    QuantGroup out{};
    for (int v = 0; v < 4; ++v) {
      const uint32_t word = load_word(block.codes + 4 * v);
      out.codes[v] = word & 0x0f0f0f0fU;
      out.codes[v + 4] = word >> 4 & 0x0f0f0f0fU;
    }
    out.d = block.d;
    return out;
  }
  static constexpr int weight(uint32_t code) { return static_cast<int>(code) - kZero; }
};

}  // namespace tandem
