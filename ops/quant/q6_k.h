// Q6_K: 256 elements; 16 sub-blocks of 16 with signed 8-bit scales; 6-bit codes around 32. Of a half's 64 low
// bytes, byte l holds elements l (low nibble) and l + 64 (high nibble); of its 32 high bytes, byte l holds
// elements l, l + 32, ….
#pragma once

#include "ops/quant/format.h"

namespace tandem {

struct Q6K {
  static constexpr TensorType kType = TensorType::q6_k;
  static constexpr int kElements = 256, kBits = 6, kZero = 32;
  static constexpr bool kTable = false, kHalves = true, kHasMin = false, kSubScales = true;

  struct Block {
    uint8_t low[128];
    uint8_t high[64];
    int8_t scales[16];
    uint16_t d;
  };
  static_assert(sizeof(Block) == 210);

  static constexpr QuantGroup group(const Block& block, int g) {
    QuantGroup out{};
    const uint8_t* low = block.low + 64 * (g / 4) + 32 * (g % 2);
    const uint8_t* high = block.high + 32 * (g / 4);
    for (int v = 0; v < 8; ++v) {
      out.codes[v] = (load_word(low + 4 * v) >> 4 * (g % 4 / 2) & 0x0f0f0f0fU) |
                     (load_word(high + 4 * v) >> 2 * (g % 4) & 0x03030303U) << 4;
    }
    out.d = block.d;
    out.scale[0] = block.scales[2 * g];
    out.scale[1] = block.scales[2 * g + 1];
    return out;
  }
  static constexpr int weight(uint32_t code) { return static_cast<int>(code) - kZero; }
};

}  // namespace tandem
