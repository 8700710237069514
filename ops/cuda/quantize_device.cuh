// Writing activations (activation_layout.h): a warp a record, or eight lanes a group of 32. For kernels that
// make activations: activations.cu, norm.cu, attention.
#pragma once

#include "ops/cuda/activation_layout.h"
#include "ops/cuda/activations.h"

namespace tandem::cuda::device {

/// Four lanes of 8 columns are a group.
__device__ inline int group_sum(int v) {
  v += __shfl_xor_sync(~0U, v, 1);
  return v + __shfl_xor_sync(~0U, v, 2);
}

template <ActForm kForm>
constexpr int record_bytes_of() {
  return kForm == ActForm::f32  ? ActLayout::kF32Bytes
         : kForm == ActForm::q8 ? ActLayout::kQ8Bytes
                                : ActLayout::kQ15Bytes;
}

/// The scale of a token whose largest magnitude is `amax`, and what its values are multiplied with: powers of
/// two, so that nothing but the rounding to halves changes a value.
struct HalfScale {
  float scale = 1;
  float inverse = 1;
};
__device__ inline HalfScale half_scale(float amax) {
  constexpr int kLeast = -100;  // the inverse must not overflow
  if (!(amax > 0) || !(amax < INFINITY)) return {};
  const int exponent = max(ilogbf(amax), kLeast) - 10;
  return {ldexpf(1.0F, exponent), ldexpf(1.0F, -exponent)};
}

/// The same of a token that a block of kWarps warps has: amax is of a thread's values. All threads; `largest`
/// is shared, and behind it what the block wrote to shared memory before is seen.
template <int kWarps>
__device__ inline HalfScale block_half_scale(float amax, float (&largest)[kWarps]) {
  for (int distance = 16; distance > 0; distance /= 2)
    amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, distance));
  if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = amax;
  __syncthreads();
  for (const float other : largest) amax = fmaxf(amax, other);
  return half_scale(amax);
}

/// x: the lane's columns 8 lane … 8 lane + 7 of the segment.
__device__ inline void store_halves(const float (&x)[8], float inverse, std::byte* record, int lane) {
  uint4 words;
  const auto pair = [&](int i) {
    const __half2 h = __floats2half2_rn(x[i] * inverse, x[i + 1] * inverse);
    return *reinterpret_cast<const uint32_t*>(&h);
  };
  words.x = pair(0);
  words.y = pair(2);
  words.z = pair(4);
  words.w = pair(6);
  *reinterpret_cast<uint4*>(record + 2 * ActLayout::half_position(8 * lane)) = words;
}

/// x: the lane's columns 8 lane … 8 lane + 7 of the segment. All lanes of the warp.
template <ActForm kForm>
__device__ inline void store_record(const float (&x)[8], std::byte* record, int lane) {
  if constexpr (kForm == ActForm::f32) {
    for (int i = 0; i < 8; i += 4) {
      reinterpret_cast<float4*>(record)[2 * lane + i / 4] = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
    return;
  }
  constexpr bool kWide = kForm == ActForm::q15;
  constexpr float kSteps = kWide ? 127.0F * 128.0F + 63.0F : 127.0F;
  float amax = 0;
  for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(x[i]));
  amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, 1));
  amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, 2));
  const bool zero = amax < 1e-36F;  // below, kSteps / amax could overflow
  const float inverse = zero ? 0.0F : kSteps / amax;
  const float scale = zero ? 0.0F : amax / kSteps;
  uint32_t high[2] = {0, 0};
  uint32_t low[2] = {0, 0};
  int sum = 0;
  for (int i = 0; i < 8; ++i) {
    const int q = __float2int_rn(x[i] * inverse);
    const int upper = kWide ? (q + 64) >> 7 : q;
    sum += q;
    high[i / 4] |= (static_cast<uint32_t>(upper) & 0xffU) << 8 * (i % 4);
    low[i / 4] |= (static_cast<uint32_t>(q - 128 * upper) & 0xffU) << 8 * (i % 4);
  }
  const int whole = group_sum(sum);
  const int first = group_sum(lane % kQuad < 2 ? sum : 0);
  const int place = ActLayout::position(8 * lane);
  *reinterpret_cast<uint2*>(record + ActLayout::kHigh + place) = make_uint2(high[0], high[1]);
  if constexpr (kWide)
    *reinterpret_cast<uint2*>(record + ActLayout::kLow + place) = make_uint2(low[0], low[1]);
  if (lane % kQuad == 0) {
    const int group = lane / kQuad;
    reinterpret_cast<float2*>(record + ActLayout::kMeta)[group] =
        make_float2(scale, scale * static_cast<float>(whole));
    reinterpret_cast<float*>(record + ActLayout::kFirst)[group] = scale * static_cast<float>(first);
  }
}

/// A group of 32 by eight lanes, to the bits that store_record() writes. x: the lane's columns of the
/// segment, 32 group + 4 (lane % 8) … + 3. All lanes of the warp; `store`: the same for a group's lanes.
template <ActForm kForm>
__device__ inline void store_group(float4 x, std::byte* record, int group, int lane, bool store) {
  const int part = lane % 8;
  if constexpr (kForm == ActForm::f32) {
    if (store) reinterpret_cast<float4*>(record)[8 * group + part] = x;
    return;
  }
  constexpr bool kWide = kForm == ActForm::q15;
  constexpr float kSteps = kWide ? 127.0F * 128.0F + 63.0F : 127.0F;
  const float v[4] = {x.x, x.y, x.z, x.w};
  float amax = fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)));
  for (int distance = 1; distance < 8; distance *= 2)
    amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, distance));
  const bool zero = amax < 1e-36F;  // below, kSteps / amax could overflow
  const float inverse = zero ? 0.0F : kSteps / amax;
  const float scale = zero ? 0.0F : amax / kSteps;
  uint32_t high = 0;
  uint32_t low = 0;
  int sum = 0;
  for (int i = 0; i < 4; ++i) {
    const int q = __float2int_rn(v[i] * inverse);
    const int upper = kWide ? (q + 64) >> 7 : q;
    sum += q;
    high |= (static_cast<uint32_t>(upper) & 0xffU) << 8 * i;
    low |= (static_cast<uint32_t>(q - 128 * upper) & 0xffU) << 8 * i;
  }
  sum += __shfl_xor_sync(~0U, sum, 1);
  const int first = sum + __shfl_xor_sync(~0U, sum, 2);  // lanes 0 to 3: of the first half
  const int whole = first + __shfl_xor_sync(~0U, first, 4);
  if (!store) return;
  const int place = ActLayout::position(32 * group + 4 * part);
  *reinterpret_cast<uint32_t*>(record + ActLayout::kHigh + place) = high;
  if constexpr (kWide) *reinterpret_cast<uint32_t*>(record + ActLayout::kLow + place) = low;
  if (part == 0) {
    reinterpret_cast<float2*>(record + ActLayout::kMeta)[group] =
        make_float2(scale, scale * static_cast<float>(whole));
    reinterpret_cast<float*>(record + ActLayout::kFirst)[group] = scale * static_cast<float>(first);
  }
}

/// A group of 32 by a whole warp, a lane a column, to the bits that store_record() writes.
template <ActForm kForm>
__device__ inline void store_row_group(float x, std::byte* record, int group, int lane) {
  constexpr bool kWide = kForm == ActForm::q15;
  constexpr float kSteps = kWide ? 127.0F * 128.0F + 63.0F : 127.0F;
  float amax = fabsf(x);
  for (int distance = 1; distance < 32; distance *= 2)
    amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, distance));
  const bool zero = amax < 1e-36F;  // below, kSteps / amax could overflow
  const float inverse = zero ? 0.0F : kSteps / amax;
  const float scale = zero ? 0.0F : amax / kSteps;
  const int q = __float2int_rn(x * inverse);
  int sum = q;
  for (int distance = 1; distance < 16; distance *= 2) sum += __shfl_xor_sync(~0U, sum, distance);
  const int first = sum;  // lanes 0 to 15: of the first half
  const int whole = first + __shfl_xor_sync(~0U, first, 16);
  const int upper = kWide ? (q + 64) >> 7 : q;
  const int place = ActLayout::position(32 * group + lane);
  record[ActLayout::kHigh + place] = static_cast<std::byte>(upper & 0xff);
  if constexpr (kWide) record[ActLayout::kLow + place] = static_cast<std::byte>((q - 128 * upper) & 0xff);
  if (lane == 0) {
    reinterpret_cast<float2*>(record + ActLayout::kMeta)[group] =
        make_float2(scale, scale * static_cast<float>(whole));
    reinterpret_cast<float*>(record + ActLayout::kFirst)[group] = scale * static_cast<float>(first);
  }
}

}  // namespace tandem::cuda::device
