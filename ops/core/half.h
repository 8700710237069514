// IEEE half and bfloat16 as bits, converted exactly, the same on every machine. Always inlined: also used in
// units that are compiled for one instruction set.
#pragma once

#include <bit>
#include <cstdint>

namespace tandem {

/// IEEE half to float, exact; a NaN becomes quiet, as the hardware does it.
[[gnu::always_inline]] constexpr float f16_bits_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000U) << 16;
  const uint32_t magnitude = h & 0x7fffU;
  if (magnitude >= 0x7c00U) {
    const uint32_t quiet = magnitude > 0x7c00U ? 0x400000U : 0U;
    return std::bit_cast<float>(sign | 0x7f800000U | (magnitude & 0x3ffU) << 13 | quiet);
  }
  // The exponent is off by 112; multiplying by 2^112 mends it and normalises subnormals, exactly.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112F;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | sign);
}

/// Float to IEEE half, to nearest, ties to even.
[[gnu::always_inline]] constexpr uint16_t float_to_f16_bits(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  const uint32_t sign = bits >> 16 & 0x8000U;
  const uint32_t magnitude = bits & 0x7fffffffU;
  uint32_t half = 0;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U | (magnitude >> 13 & 0x3ffU);
  } else if (magnitude >= 0x477ff000U) {  // 65520 and above round to infinity
    half = 0x7c00U;
  } else if (magnitude < 0x38800000U) {  // below 2^-14: adding 0.5 leaves a multiple of 2^-24 in the mantissa
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
  } else {
    half = (magnitude - 0x38000000U + 0xfffU + (magnitude >> 13 & 1U)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

/// bfloat16 is a float's upper half: exact.
[[gnu::always_inline]] constexpr float bf16_bits_to_float(uint16_t h) {
  return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

/// Float to bfloat16, to nearest, ties to even; a NaN becomes quiet.
[[gnu::always_inline]] constexpr uint16_t float_to_bf16_bits(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<uint16_t>(bits >> 16 | 0x40U);
  return static_cast<uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

}  // namespace tandem
