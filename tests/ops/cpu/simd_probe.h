// Every operation of ops/cpu/simd.h run once over given lanes: what test_simd compares between instruction
// sets.
#pragma once

#include <cstdint>

namespace tandem {

struct SimdProbeInput {
  float a[16], b[16], c[16];
  int32_t i[16], j[16];
  uint16_t half[16];
  int8_t bytes[16];
  int n_partial;
};

struct SimdProbeOutput {
  float add[16], sub[16], mul[16], div[16], fused[16], minimum[16], maximum[16], root[16], magnitude[16],
      negative[16];
  float selected[16], from_half[16], from_bf16[16], from_int[16], exponential[16], partial[16],
      partial_stored[16];
  int32_t int_add[16], int_sub[16], int_mul[16], int_and[16], int_or[16], int_xor[16], left[16], right[16],
      arithmetic[16];
  int32_t rounded[16], from_i8[16], from_u8[16], from_u16[16];
  uint16_t to_half[16];
  int8_t narrowed[16];
  uint32_t mask;
  float total, largest;
  int32_t int_total;
};

template <class Tag>
void simd_probe(const SimdProbeInput& in, SimdProbeOutput& out);

}  // namespace tandem
