// IQ4_NL: 32 elements, a half scale, 4-bit indices into a table of 16 signed bytes, laid out as in Q4_0.
#pragma once

#include "ops/quant/format.h"

namespace tandem {

/// The table of IQ4_NL and IQ4_XS.
inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

struct Iq4Nl {
  static constexpr TensorType kType = TensorType::iq4_nl;
  static constexpr int kElements = 32, kBits = 4, kZero = 0;
  static constexpr bool kTable = true, kHalves = false, kHasMin = false, kSubScales = false;

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
  static constexpr int weight(uint32_t code) { return kIq4Values[code]; }
};

}  // namespace tandem
