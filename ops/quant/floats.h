// F32, F16 and BF16: plain arrays.
#pragma once

#include "ops/quant/format.h"

namespace tandem {

struct F32 {
  static constexpr TensorType kType = TensorType::f32;
  using Element = float;
  static constexpr float to_float(Element e) { return e; }
};

struct F16 {
  static constexpr TensorType kType = TensorType::f16;
  using Element = uint16_t;
  static constexpr float to_float(Element e) { return f16_bits_to_float(e); }
};

/// A type of its own, so that its functions are not F16's.
struct Bf16 {
  static constexpr TensorType kType = TensorType::bf16;
  using Element = uint16_t;
  static constexpr float to_float(Element e) { return bf16_bits_to_float(e); }
};

}  // namespace tandem
