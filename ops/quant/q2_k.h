// Q2_K: 256 elements; 16 sub-blocks of 16, each with a 4-bit scale and a 4-bit minimum; 2-bit codes. Byte l
// of a half's 32 holds elements l, l + 32, l + 64 and l + 96 of that half.
#pragma once

#include "ops/quant/format.h"

namespace tandem {

struct Q2K {
  static constexpr TensorType kType = TensorType::q2_k;
  static constexpr int kElements = 256, kBits = 2, kZero = 0;
  static constexpr bool kTable = false, kHalves = true, kHasMin = true, kSubScales = true;

  struct Block {
    uint8_t scales[16];
    uint8_t codes[64];
    uint16_t d;
    uint16_t dmin;
  };
  static_assert(sizeof(Block) == 84);

  static constexpr QuantGroup group(const Block& block, int g) {
    QuantGroup out{};
    for (int v = 0; v < 8; ++v) {
      out.codes[v] = load_word(block.codes + 32 * (g / 4) + 4 * v) >> 2 * (g % 4) & 0x03030303U;
    }
    out.d = block.d;
    out.dmin = block.dmin;
    for (int half = 0; half < 2; ++half) {
      const uint32_t packed = block.scales[2 * g + half];
      out.scale[half] = static_cast<int16_t>(packed & 0xfU);
      out.min[half] = static_cast<int16_t>(packed >> 4);
    }
    return out;
  }
  static constexpr int weight(uint32_t code) { return static_cast<int>(code); }
};

}  // namespace tandem
