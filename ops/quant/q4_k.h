// Q4_K: 256 elements; 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum; 4-bit codes. Byte l of
// a quarter's 32 holds elements l (low) and l + 32 (high) of that quarter.
#pragma once

#include "ops/quant/format.h"

namespace tandem {

/// The 6-bit scale and minimum of sub-block j, from the 12 bytes that Q4_K and Q5_K pack them in.
constexpr void unpack_scale_min(const uint8_t* packed, int j, int16_t& scale, int16_t& min) {
  if (j < 4) {
    scale = static_cast<int16_t>(packed[j] & 63);
    min = static_cast<int16_t>(packed[j + 4] & 63);
  } else {
    scale = static_cast<int16_t>((packed[j + 4] & 0xf) | (packed[j - 4] >> 2 & 0x30));
    min = static_cast<int16_t>(packed[j + 4] >> 4 | (packed[j] >> 2 & 0x30));
  }
}

struct Q4K {
  static constexpr TensorType kType = TensorType::q4_k;
  static constexpr int kElements = 256, kBits = 4, kZero = 0;
  static constexpr bool kTable = false, kHalves = false, kHasMin = true, kSubScales = true;

  struct Block {
    uint16_t d;
    uint16_t dmin;
    uint8_t scales[12];
    uint8_t codes[128];
  };
  static_assert(sizeof(Block) == 144);

  static constexpr QuantGroup group(const Block& block, int g) {
    QuantGroup out{};
    for (int v = 0; v < 8; ++v) {
      out.codes[v] = load_word(block.codes + 32 * (g / 2) + 4 * v) >> 4 * (g % 2) & 0x0f0f0f0fU;
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
