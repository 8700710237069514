// Q8_0: 32 elements, a half scale, signed bytes. A code is the byte plus 128, so that it is unsigned as
// everywhere.
#pragma once

#include "ops/quant/format.h"

namespace tandem {

struct Q80 {
  static constexpr TensorType kType = TensorType::q8_0;
  static constexpr int kElements = 32, kBits = 8, kZero = 128;
  static constexpr bool kTable = false, kHalves = false, kHasMin = false, kSubScales = false;

  struct Block {
    uint16_t d;
    uint8_t weights[32];
  };
  static_assert(sizeof(Block) == 34);

  static constexpr QuantGroup group(const Block& block, int /*g*/) {
    QuantGroup out{};
    for (int v = 0; v < 8; ++v) out.codes[v] = load_word(block.weights + 4 * v) ^ 0x80808080U;
    out.d = block.d;
    return out;
  }
  static constexpr int weight(uint32_t code) { return static_cast<int>(code) - kZero; }
};

}  // namespace tandem
