// What the GEMV kernel (gemv_kernel.cuh) does a lane: loads of weights and activations, and their products
// (those of several tokens by tensor cores: gemv_tokens.cuh).
#pragma once

#include "ops/cuda/activation_layout.h"
#include "ops/cuda/dependent_launch.cuh"
#include "ops/cuda/gemv_args.h"
#include "ops/quant/floats.h"

namespace tandem::cuda {

namespace device {

__device__ inline uint4 load_stream16(const std::byte* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ inline uint2 load_stream8(const std::byte* p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
__device__ inline uint32_t load_stream4(const std::byte* p) {
  uint32_t v;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}
__device__ inline uint32_t load_stream2(const std::byte* p) {
  uint16_t v;
  asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(p));
  return v;
}

/// How a lane reads weights from memory, past the L1.
struct Streaming {
  __device__ static uint4 load16(const std::byte* p) { return load_stream16(p); }
  __device__ static uint2 load8(const std::byte* p) { return load_stream8(p); }
  __device__ static uint32_t load4(const std::byte* p) { return load_stream4(p); }
  __device__ static uint32_t load2(const std::byte* p) { return load_stream2(p); }
};

/// How a lane reads weights from shared memory.
struct FromShared {
  __device__ static uint4 load16(const std::byte* p) { return *reinterpret_cast<const uint4*>(p); }
  __device__ static uint2 load8(const std::byte* p) { return *reinterpret_cast<const uint2*>(p); }
  __device__ static uint32_t load4(const std::byte* p) { return *reinterpret_cast<const uint32_t*>(p); }
  __device__ static uint32_t load2(const std::byte* p) { return *reinterpret_cast<const uint16_t*>(p); }
};

template <QuantFormat F, class From = Streaming>
__device__ inline void load_lane(Lane<F>& out, const std::byte* unit, int lane) {
  using Layout = TileLayout<F>;
#pragma unroll
  for (int i = 0; i < Layout::kLines; ++i) {
    const uint4 v = From::load16(unit + 512 * i + 16 * lane);
    out.codes[4 * i] = v.x;
    out.codes[4 * i + 1] = v.y;
    out.codes[4 * i + 2] = v.z;
    out.codes[4 * i + 3] = v.w;
  }
  if constexpr (Layout::kHasHalfLine) {
    const uint2 v = From::load8(unit + Layout::kHalfLineOffset + 8 * lane);
    out.codes[Layout::kCodeWords - 2] = v.x;
    out.codes[Layout::kCodeWords - 1] = v.y;
  }
  const std::byte* scale = unit + Layout::kLaneScaleOffset + Layout::kLaneScaleBytes * lane;
  if constexpr (Layout::kLaneScaleBytes == 8) {
    const uint2 v = From::load8(scale);
    out.scale[0] = v.x;
    out.scale[1] = v.y;
  } else if constexpr (Layout::kLaneScaleBytes == 4) {
    out.scale[0] = From::load4(scale);
  } else {
    out.scale[0] = From::load2(scale);
  }
  const std::byte* row = unit + Layout::kRowScaleOffset + Layout::kRowScaleBytes * (lane / kQuad);
  if constexpr (Layout::kRowScaleBytes == 4) out.row = From::load4(row);
  if constexpr (Layout::kRowScaleBytes == 2) out.row = From::load2(row);
}

template <FloatFormat F>
__device__ inline void load_lane(Lane<F>& out, const std::byte* unit, int lane) {
#pragma unroll
  for (int i = 0; i < TileLayout<F>::kLines; ++i) {
    const uint4 v = load_stream16(unit + 512 * i + 16 * lane);
    out.codes[4 * i] = v.x;
    out.codes[4 * i + 1] = v.y;
    out.codes[4 * i + 2] = v.z;
    out.codes[4 * i + 3] = v.w;
  }
}

/// Σ of four products of bytes, added to `sum`: weights signed or not, activations signed.
template <QuantFormat F>
__device__ inline int dot4(uint32_t weights, uint32_t x, int sum) {
  if constexpr (detail::kSigned<F>) {
    return __dp4a(static_cast<int>(weights), static_cast<int>(x), sum);
  } else {
    int out;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(out) : "r"(weights), "r"(x), "r"(sum));
    return out;
  }
}

/// kWords words of a lane's quarter, from its first 16 bytes in a plane on.
template <int kWords>
__device__ inline void load_plane(uint32_t* out, const std::byte* p) {
#pragma unroll
  for (int i = 0; i < kWords / 4; ++i) {
    const uint4 v = *reinterpret_cast<const uint4*>(p + 64 * i);
    out[4 * i] = v.x;
    out[4 * i + 1] = v.y;
    out[4 * i + 2] = v.z;
    out[4 * i + 3] = v.w;
  }
}

/// The activations of a lane's 64 columns of one token, from a segment's record.
template <QuantFormat F, bool kWide>
struct LaneInput {
  uint32_t high[16];
  uint32_t low[kWide ? 16 : 1];
  float4 meta;   ///< scale and scaled sum of group a, of group b
  float2 first;  ///< scaled sums of the groups' first halves

  __device__ void load(const std::byte* record, int quarter) {
    load_plane<16>(high, record + ActLayout::kHigh + quarter * 16);
    if constexpr (kWide) load_plane<16>(low, record + ActLayout::kLow + quarter * 16);
    meta = *reinterpret_cast<const float4*>(record + ActLayout::kMeta + quarter * 16);
    if constexpr (F::kHalves && F::kHasMin) {
      first = *reinterpret_cast<const float2*>(record + ActLayout::kFirst + quarter * 8);
    }
  }
};

/// Of a segment's activations in bytes.
template <bool kWide>
inline constexpr int kCodeRecord = kWide ? ActLayout::kQ15Bytes : ActLayout::kQ8Bytes;

template <class F, bool kWide>
constexpr int record_bytes() {
  if constexpr (FloatFormat<F>) return ActLayout::kF32Bytes;
  return kCodeRecord<kWide>;
}

/// The first record of each token; those beyond the last are the last's again.
template <int kTokens>
struct Records {
  const std::byte* p[kTokens];

  __device__ explicit Records(const GemvArgs& args) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) p[t] = args.x + min(t, args.n_tokens - 1) * args.x_stride;
  }
};

/// What one lane's 64 products of a row and token add up to, before the row's d and dmin.
struct LaneSum {
  float sum = 0;     ///< of x_scale * (scale * word * x)
  float offset = 0;  ///< of min * x
};

/// Adds group g's products: dot[h] of each half (all of it in dot[0] where the format has no halves).
/// x_scale, x_sum, first: of the token's group (LaneInput).
template <QuantFormat F, bool kWide>
__device__ inline void add_group(LaneSum& to, const LaneScales& scales, int g, const int (&dot)[2],
                                 float x_scale, float x_sum, float first) {
  if constexpr (!F::kSubScales) {
    to.sum += x_scale * scales.group_d[g] * static_cast<float>(dot[0]);
    if constexpr (F::kHasMin) to.offset += scales.group_min[g] * x_sum;
  } else {
    if constexpr (kWide) {  // words may be multiples (weight_word): the products with scales can exceed 31
                            // bits
      float sum = static_cast<float>(scales.scale[g][0]) * static_cast<float>(dot[0]);
      if constexpr (F::kHalves) sum += static_cast<float>(scales.scale[g][1]) * static_cast<float>(dot[1]);
      to.sum += x_scale * sum;
    } else {
      to.sum += x_scale * static_cast<float>(scales.scale[g][0] * dot[0] + scales.scale[g][1] * dot[1]);
    }
    if constexpr (F::kHalves && F::kHasMin) {
      to.offset += static_cast<float>(scales.min[g][0]) * first +
                   static_cast<float>(scales.min[g][1]) * (x_sum - first);
    } else if constexpr (F::kHasMin) {
      to.offset += static_cast<float>(scales.min[g][0]) * x_sum;
    }
  }
}

template <QuantFormat F>
__device__ inline float sum_of(const LaneSum& from, const LaneScales& scales) {
  if constexpr (F::kSubScales) {
    const float sum = from.sum * scales.d;
    return F::kHasMin ? sum - scales.dmin * from.offset : sum;
  } else {
    return F::kHasMin ? from.sum - from.offset : from.sum;
  }
}

/// Σ over a lane's 64 products of one row and token.
template <QuantFormat F, bool kWide>
__device__ inline float lane_product(const Lane<F>& lane, const LaneScales& scales,
                                     const LaneInput<F, kWide>& in) {
  LaneSum sum;
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    int dot[2] = {0, 0};
    int dot_low[2] = {0, 0};
#pragma unroll
    for (int v = 0; v < 8; ++v) {
      const uint32_t word = weight_word<F>(lane.codes, g, v);
      const int half = F::kHalves ? v / 4 : 0;
      dot[half] = dot4<F>(word, in.high[8 * g + v], dot[half]);
      if constexpr (kWide) dot_low[half] = dot4<F>(word, in.low[8 * g + v], dot_low[half]);
    }
    if constexpr (kWide) {
      dot[0] = 128 * dot[0] + dot_low[0];
      dot[1] = 128 * dot[1] + dot_low[1];
    }
    add_group<F, kWide>(sum, scales, g, dot, g == 0 ? in.meta.x : in.meta.z, g == 0 ? in.meta.y : in.meta.w,
                        g == 0 ? in.first.x : in.first.y);
  }
  return sum_of<F>(sum, scales);
}

template <QuantFormat F>
__device__ inline LaneScales scales_of(const Lane<F>& lane_data, int lane) {
  uint32_t row = lane_data.row;
  if constexpr (TileLayout<F>::kQuadBits != 0) {
    row = quad_share<F>(lane_data.scale, lane % kQuad);
    row |= __shfl_xor_sync(~0U, row, 1);
    row |= __shfl_xor_sync(~0U, row, 2);
  }
  return lane_scales<F>(lane_data.scale, row);
}

/// Adds a lane's 64 products to acc[tile of the bundle][token]. `input`: token 0's, already loaded. `offset`:
/// of the segment's record from the first.
template <QuantFormat F, int kTokens, bool kWide, int kRows>
__device__ inline void consume(const Lane<F> (&lanes)[kRows], LaneInput<F, kWide>& input,
                               const Records<kTokens>& records, int offset, int lane,
                               float (&acc)[kRows][kTokens]) {
  LaneScales scales[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) scales[r] = scales_of<F>(lanes[r], lane);
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t != 0) input.load(records.p[t] + offset, lane % kQuad);
#pragma unroll
    for (int r = 0; r < kRows; ++r) acc[r][t] += lane_product<F, kWide>(lanes[r], scales[r], input);
  }
}

template <FloatFormat F>
__device__ inline float element_of(const Lane<F>& lane, int i) {
  if constexpr (sizeof(typename F::Element) == 4) {
    return __uint_as_float(lane.codes[i]);
  } else {
    const uint32_t bits = lane.codes[i / 2] >> 16 * (i % 2) & 0xffffU;
    return F::kType == TensorType::f16 ? half_value(bits) : bf16_bits_to_float(static_cast<uint16_t>(bits));
  }
}

template <FloatFormat F, int kTokens, int kRows>
__device__ inline void consume(const Lane<F> (&lanes)[kRows], const Records<kTokens>& records, int offset,
                               int lane, float (&acc)[kRows][kTokens]) {
  constexpr int kElements = TileLayout<F>::kLineElements;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const float* p = reinterpret_cast<const float*>(records.p[t] + offset) + lane % kQuad * kElements;
#pragma unroll
    for (int i = 0; i < TileLayout<F>::kLines; ++i) {
#pragma unroll
      for (int k = 0; k < kElements; k += 4) {
        const float4 v = *reinterpret_cast<const float4*>(p + i * kQuad * kElements + k);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int e = i * kElements + k;
          acc[r][t] += element_of(lanes[r], e) * v.x;
          acc[r][t] += element_of(lanes[r], e + 1) * v.y;
          acc[r][t] += element_of(lanes[r], e + 2) * v.z;
          acc[r][t] += element_of(lanes[r], e + 3) * v.w;
        }
      }
    }
  }
}

/// n / d by d's magic (gemv_args.h).
__device__ inline int divide(int n, int d, uint32_t magic) {
  return d == 1 ? n : static_cast<int>(__umulhi(static_cast<uint32_t>(n), magic));
}

/// Which part a bundle belongs to, and its number there. `pair`: gate and up, taken in turns.
struct BundlePlace {
  int part = 0;
  int bundle = 0;
};
__device__ inline BundlePlace place_of(const GemvArgs& args, int bundle, bool pair) {
  if (pair) return {bundle & 1, bundle >> 1};
  int part = 0;
  while (part + 1 < args.n_parts && bundle >= args.parts[part].n_bundles)
    bundle -= args.parts[part++].n_bundles;
  return {part, bundle};
}

__device__ inline const std::byte* tiles_of(const GemvArgs& args, int part) {
  const GemvPart& p = args.parts[part];
  return args.expert == nullptr ? p.tiles : p.experts[*args.expert];
}

__device__ inline float activate(Epilogue kind, float gate) {
  if (kind == Epilogue::swiglu) return gate / (1.0F + __expf(-gate));
  constexpr float kRoot = 0.79788456080286535588F;  // sqrt(2 / pi)
  return 0.5F * gate * (1.0F + tanhf(kRoot * (gate + 0.044715F * gate * gate * gate)));
}

}  // namespace device
}  // namespace tandem::cuda
