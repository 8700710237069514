// IQ4_XS: 256 elements; 8 sub-blocks of 32 with 6-bit scales around 32, each laid out as IQ4_NL's block.
#pragma once

#include "ops/quant/iq4_nl.h"

namespace tandem {

struct Iq4Xs {
  static constexpr TensorType kType = TensorType::iq4_xs;
  static constexpr int kElements = 256, kBits = 4, kZero = 0;
  static constexpr bool kTable = true, kHalves = false, kHasMin = false, kSubScales = true;

  struct Block {
    uint16_t d;
    uint16_t scales_high;
    uint8_t scales_low[4];
    uint8_t codes[128];
  };
  static_assert(sizeof(Block) == 136);

  static constexpr QuantGroup group(const Block& block, int g) {
    QuantGroup out{};
    for (int v = 0; v < 4; ++v) {
      const uint32_t word = load_word(block.codes + 16 * g + 4 * v);
      out.codes[v] = word & 0x0f0f0f0fU;
      out.codes[v + 4] = word >> 4 & 0x0f0f0f0fU;
    }
    out.d = block.d;
    const int low = block.scales_low[g / 2] >> 4 * (g % 2) & 0xf;
    const int high = block.scales_high >> 2 * g & 3;
    out.scale[0] = out.scale[1] = static_cast<int16_t>((low | high << 4) - 32);
    return out;
  }
  static constexpr int weight(uint32_t code) { return kIq4Values[code]; }
};

}  // namespace tandem
