// A lane's share of a unit as halves, for tensor cores: weight · half_weight_power() = scale · code - min in
// half precision, to the same bits wherever it is done (unpack.cuh, batch_kernel.cuh).
#pragma once

#include <cuda_fp16.h>

#include "ops/cuda/format_kernels.h"
#include "ops/cuda/gemv_device.cuh"
#include "ops/cuda/mma.cuh"

namespace tandem::cuda::device {

/// Four neighbouring weights: columns 4 v, 4 v + 1 and 4 v + 2, 4 v + 3 of a group.
struct HalfWord {
  __half2 low;
  __half2 high;
};

/// The scales of a lane's two groups, by halves of a group where the format has them.
template <QuantFormat F>
struct HalfScales {
  static constexpr int kHalves = F::kHalves ? 2 : 1;
  __half2 scale[2][kHalves];
  __half2 min[2][F::kHasMin ? kHalves : 1];

  __device__ HalfScales() {}
  __device__ explicit HalfScales(const LaneScales& from) {
    constexpr float kPower = half_weight_power(F::kType);
#pragma unroll
    for (int g = 0; g < 2; ++g) {
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        if constexpr (F::kSubScales) {
          scale[g][h] = __float2half2_rn(kPower * from.d * static_cast<float>(from.scale[g][h]));
          if constexpr (F::kHasMin)
            min[g][h] = __float2half2_rn(-kPower * from.dmin * static_cast<float>(from.min[g][h]));
        } else {
          scale[g][h] = __float2half2_rn(kPower * from.group_d[g]);
          if constexpr (F::kHasMin) min[g][h] = __float2half2_rn(-kPower * from.group_min[g]);
        }
      }
    }
  }
};

/// Word v of group g. A byte beside 0x64 is the half 1024 + byte, so the codes come without conversions;
/// signed bytes are moved up by 128 first.
template <QuantFormat F>
__device__ inline HalfWord half_word(const Lane<F>& lane, const HalfScales<F>& scales, int g, int v) {
  constexpr bool kIsSigned = detail::kSigned<F>;
  uint32_t bytes = weight_word<F>(lane.codes, g, v);
  if constexpr (kIsSigned) bytes ^= 0x80808080U;
  const __half2 zero = __float2half2_rn(kIsSigned ? 1152.0F : 1024.0F);
  const int h = HalfScales<F>::kHalves == 2 ? v / 4 : 0;
  const auto value = [&](uint32_t selector) {
    const __half2 code = __hsub2(half2_of(__byte_perm(bytes, 0x64646464U, selector)), zero);
    if constexpr (F::kHasMin) return __hfma2(code, scales.scale[g][h], scales.min[g][h]);
    return __hmul2(code, scales.scale[g][h]);
  };
  return {value(0x4140U), value(0x4342U)};
}

}  // namespace tandem::cuda::device
