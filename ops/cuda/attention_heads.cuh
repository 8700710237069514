// Heads of q, k and v by a warp each, as the attention kernels have them: their norm, rotation and mixing,
// and how they are stored into the cache.
#pragma once

#include <cuda_fp16.h>

#include "ops/core/head_mix.h"
#include "ops/cuda/attention_args.h"
#include "ops/cuda/quantize_device.cuh"

namespace tandem::cuda::device {

/// The warp's number, known to be the same in all its lanes.
__device__ inline int warp_of_block() {
  return __shfl_sync(~0U, static_cast<int>(threadIdx.x / 32), 0);
}

// --- steps of the transform that mixes heads (ops/core/head_mix.h)

/// Two elements become their sum and difference.
__device__ inline void meet(float& a, float& b) {
  const float first = a;
  a = first + b;
  b = first - b;
}
/// The same for an element of this lane and one of lane ^ step.
__device__ inline void meet_lane(float& x, int lane, int step) {
  const float other = __shfl_xor_sync(~0U, x, step);
  x = (lane & step) == 0 ? x + other : other - x;
}

// --- rows by a warp: lane l owns the elements l + 32 i

template <int kRegs>
struct WarpRow {
  float x[kRegs];

  __device__ void load(const float* row, int dim, int lane) {
#pragma unroll
    for (int i = 0; i < kRegs; ++i) x[i] = lane + 32 * i < dim ? row[lane + 32 * i] : 0.0F;
  }
  __device__ void store(float* row, int dim, int lane) const {
#pragma unroll
    for (int i = 0; i < kRegs; ++i) {
      if (lane + 32 * i < dim) row[lane + 32 * i] = x[i];
    }
  }
  __device__ bool finite() const {
    bool all = true;
#pragma unroll
    for (int i = 0; i < kRegs; ++i) all &= fabsf(x[i]) < INFINITY;
    return all;
  }
  __device__ float amax() const {
    float most = 0;
#pragma unroll
    for (int i = 0; i < kRegs; ++i) most = fmaxf(most, fabsf(x[i]));
    for (int distance = 16; distance > 0; distance /= 2)
      most = fmaxf(most, __shfl_xor_sync(~0U, most, distance));
    return most;
  }
  /// Each `width` elements become their transform times `factor` (ops/core/head_mix.h).
  __device__ void mix(int width, float factor, int lane) {
    for (int step = 1; step < min(width, 32); step *= 2) {
#pragma unroll
      for (int i = 0; i < kRegs; ++i) meet_lane(x[i], lane, step);
    }
#pragma unroll
    for (int step = 1; step < kMixMost / 32; step *= 2) {
      if (32 * step >= width) break;
#pragma unroll
      for (int i = 0; i < kRegs; ++i) {
        if ((i & step) == 0 && i + step < kRegs) meet(x[i], x[i + step]);
      }
    }
#pragma unroll
    for (int i = 0; i < kRegs; ++i) x[i] *= factor;
  }
  /// x / sqrt(mean(x²) + eps) · weight
  __device__ void norm(const float* weight, float eps, int dim, int lane) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kRegs; ++i) squares = __fmaf_rn(x[i], x[i], squares);
    for (int distance = 16; distance > 0; distance /= 2) squares += __shfl_xor_sync(~0U, squares, distance);
    const float factor = 1.0F / sqrtf(squares / static_cast<float>(dim) + eps);
#pragma unroll
    for (int i = 0; i < kRegs; ++i) x[i] *= lane + 32 * i < dim ? factor * weight[lane + 32 * i] : 0.0F;
  }
};

/// The rotation of a token's heads: what each lane multiplies its elements by.
template <int kRegs>
struct WarpRotation {
  float2 turn[kRegs];  // cos, sin
  int n_rot = 0;
  RopeStyle style = RopeStyle::adjacent;

  __device__ void load(const AttentionArgs& args, int64_t token, int lane) {
    n_rot = args.step.n_rot[args.rope];
    style = args.style;
    const int half = n_rot / 2;
    const auto* table = reinterpret_cast<const float2*>(args.step.rope[args.rope]) + token * half;
#pragma unroll
    for (int i = 0; i < kRegs; ++i) {
      const int d = lane + 32 * i;
      const int pair = style == RopeStyle::adjacent ? d / 2 : d < half ? d : d - half;
      turn[i] = d < n_rot ? table[pair] : make_float2(1, 0);
    }
  }
  /// (a, b) becomes (a·cos − b·sin, a·sin + b·cos). row: (dim) of shared memory, the warp's own
  __device__ void apply(WarpRow<kRegs>& head, float* row, int dim, int lane) const {
    if (n_rot == 0) return;
    __syncwarp();
    head.store(row, dim, lane);
    __syncwarp();
    const int half = n_rot / 2;
#pragma unroll
    for (int i = 0; i < kRegs; ++i) {
      const int d = lane + 32 * i;
      if (d >= n_rot) continue;
      const bool first = style == RopeStyle::adjacent ? d % 2 == 0 : d < half;
      const int distance = style == RopeStyle::adjacent ? 1 : half;
      const float other = row[first ? d + distance : d - distance];
      head.x[i] = __fmaf_rn(head.x[i], turn[i].x, __fmul_rn(first ? -other : other, turn[i].y));
    }
  }
};

/// The row as half, to one or two places (`copy` or null). False where a value is beyond it.
template <int kRegs>
__device__ inline bool store_half(const WarpRow<kRegs>& head, __half* out, __half* copy, int dim, int lane) {
  bool fits = true;
#pragma unroll
  for (int i = 0; i < kRegs; ++i) {
    const __half h = __float2half_rn(head.x[i]);
    fits &= !__hisinf(h) && !__hisnan(h);
    if (lane + 32 * i >= dim) continue;
    out[lane + 32 * i] = h;
    if (copy != nullptr) copy[lane + 32 * i] = h;
  }
  return fits;
}

/// Where a row's codes (dim) and scales (groups) lie.
struct CodedRow {
  std::byte* codes = nullptr;
  __half* scales = nullptr;

  /// Of a page's plane.
  __device__ static CodedRow in_plane(CudaKvType type, std::byte* plane, int slot, int dim) {
    const int row_bytes = kv_row_bytes(type, dim);
    auto* scales = reinterpret_cast<__half*>(plane + kPageTokens * row_bytes);
    return {plane + slot * row_bytes, scales + slot * ((dim + kKvGroup - 1) / kKvGroup)};
  }
};

/// Scale amax / 127 rounded to half, codes rounded to nearest. copy: a second place, or nulls
template <int kRegs>
__device__ inline bool store_q8(const WarpRow<kRegs>& head, CodedRow row, CodedRow copy, int dim, int lane) {
  bool fits = head.finite();
#pragma unroll
  for (int i = 0; i < kRegs; ++i) {
    if (32 * i >= dim) break;
    float amax = fabsf(head.x[i]);
    for (int distance = 16; distance > 0; distance /= 2)
      amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, distance));
    const float scale = amax / 127.0F;
    const float inverse = amax < 1e-36F ? 0.0F : 127.0F / amax;
    const __half h = __float2half_rn(scale);
    fits &= !__hisinf(h);
    const auto code = static_cast<std::byte>(__float2int_rn(head.x[i] * inverse));
    if (lane + 32 * i < dim) row.codes[lane + 32 * i] = code;
    if (lane == 0) row.scales[i] = h;
    if (copy.codes == nullptr) continue;
    if (lane + 32 * i < dim) copy.codes[lane + 32 * i] = code;
    if (lane == 0) copy.scales[i] = h;
  }
  return fits;
}

/// Scale = the value of largest magnitude (the first of equals) / -8, rounded to half after the codes were
/// found with it; codes are x / scale + 8, rounded, at most 15. copy: a second place, or nulls
template <int kRegs>
__device__ inline bool store_q4(const WarpRow<kRegs>& head, CodedRow row, CodedRow copy, int dim, int lane) {
  bool fits = head.finite();
#pragma unroll
  for (int i = 0; i < kRegs; ++i) {
    if (32 * i >= dim) break;
    const float x = head.x[i];
    float amax = fabsf(x);
    for (int distance = 16; distance > 0; distance /= 2)
      amax = fmaxf(amax, __shfl_xor_sync(~0U, amax, distance));
    const int first = __ffs(static_cast<int>(__ballot_sync(~0U, fabsf(x) == amax))) - 1;
    const float scale = __shfl_sync(~0U, x, first) / -8.0F;
    const float inverse = fabsf(scale) < 1e-36F ? 0.0F : 1.0F / scale;
    const __half h = __float2half_rn(scale);
    fits &= !__hisinf(h);
    const int code = min(15, __float2int_rd(__fadd_rn(__fmul_rn(x, inverse), 8.5F)));
    const int other = __shfl_xor_sync(~0U, code, 4);
    const auto pair = static_cast<std::byte>(code | other << 4);
    const int at = 16 * i + lane / 8 * 4 + lane % 4;
    const bool stores = lane % 8 < 4 && lane + 32 * i < dim;
    if (stores) row.codes[at] = pair;
    if (lane == 0) row.scales[i] = h;
    if (copy.codes == nullptr) continue;
    if (stores) copy.codes[at] = pair;
    if (lane == 0) copy.scales[i] = h;
  }
  return fits;
}

/// A row as codes. kType: q8_0 or q4_0
template <CudaKvType kType, int kRegs>
__device__ inline bool store_coded(const WarpRow<kRegs>& head, CodedRow row, CodedRow copy, int dim,
                                   int lane) {
  if constexpr (kType == CudaKvType::q4_0) {
    return store_q4(head, row, copy, dim, lane);
  } else {
    return store_q8(head, row, copy, dim, lane);
  }
}

/// A row into a page's plane (keys or values of a head). False where a value is beyond the cache's type.
template <int kRegs>
__device__ inline bool store_cached(const WarpRow<kRegs>& head, CudaKvType type, std::byte* plane, int slot,
                                    int dim, int lane) {
  if (type == CudaKvType::f16)
    return store_half(head, reinterpret_cast<__half*>(plane) + slot * dim, nullptr, dim, lane);
  if (type == CudaKvType::f32) {
    head.store(reinterpret_cast<float*>(plane) + slot * dim, dim, lane);
    return head.finite();
  }
  const CodedRow row = CodedRow::in_plane(type, plane, slot, dim);
  if (type == CudaKvType::q4_0) return store_q4(head, row, CodedRow{}, dim, lane);
  return store_q8(head, row, CodedRow{}, dim, lane);
}

__device__ inline void report(uint32_t* not_finite, bool fine) {
  if (!fine && not_finite != nullptr) *not_finite = 1;
}

/// What is read of a head of q, k or v, and how it is changed before it is used.
struct HeadSource {
  const float* row = nullptr;   // (head_dim)
  const float* norm = nullptr;  // (head_dim), where it is normed
  bool norms = false;
  bool turns = false;
  float mix = 0;  // the factor, where it is mixed
};
__device__ inline HeadSource query_source(const AttentionArgs& args, int64_t token, int head) {
  return {args.q + token * args.q_stride + head * args.cache.head_dim, args.q_norm,
          args.appends && args.q_norm != nullptr, args.appends, args.appends ? args.read_mix : 0.0F};
}
__device__ inline HeadSource key_source(const AttentionArgs& args, int64_t token, int kv_head) {
  return {args.k + token * args.k_stride + kv_head * args.cache.head_dim, args.k_norm, args.k_norm != nullptr,
          true, args.cached_mix};
}
__device__ inline HeadSource value_source(const AttentionArgs& args, int64_t token, int kv_head) {
  return {args.v + token * args.v_stride + kv_head * args.cache.head_dim, args.k_norm, false, false,
          args.cached_mix};
}

/// Norm, rotation and mixing of what was loaded. row: (dim) of shared memory, the warp's own
template <int kRegs>
__device__ inline void change_head(const AttentionArgs& args, const HeadSource& source,
                                   const WarpRotation<kRegs>& rotation, float* row, int dim, int lane,
                                   WarpRow<kRegs>& head) {
  if (source.norms) head.norm(source.norm, args.norm_eps, dim, lane);
  if (source.turns) rotation.apply(head, row, dim, lane);
  if (args.mix_width > 1 && source.mix != 0) head.mix(args.mix_width, source.mix, lane);
}

}  // namespace tandem::cuda::device
