// Q5_K: Q4_K with a fifth bit: bit g of byte l belongs to element l of sub-block g.
#pragma once

#include "ops/quant/q4_k.h"

namespace tandem {

struct Q5K {
  static constexpr TensorType kType = TensorType::q5_k;
  static constexpr int kElements = 256, kBits = 5, kZero = 0;
  static constexpr bool kTable = false, kHalves = false, kHasMin = true, kSubScales = true;

  struct Block {
    uint16_t d;
    uint16_t dmin;
    uint8_t scales[12];
    uint8_t high[32];
    uint8_t codes[128];
  };
  static_assert(sizeof(Block) == 176);

  static constexpr QuantGroup group(const Block& block, int g) {
    QuantGroup out{};
    for (int v = 0; v < 8; ++v) {
      const uint32_t low = load_word(block.codes + 32 * (g / 2) + 4 * v) >> 4 * (g % 2) & 0x0f0f0f0fU;
      out.codes[v] = low | (load_word(block.high + 4 * v) >> g & 0x01010101U) << 4;
    }
    out.d = block.d;
    out.dmin = block.dmin;
    unpack_scale_min(block.scales, g, out.scale[0], out.min[0]);
    out.scale[1] = out.scale[0];
    out.min[1] = out.min[0];
    return out;
  }
  static constexpr int weight(uint32_t code) { return static_cast<int>(code); }
};

}  // namespace tandem
