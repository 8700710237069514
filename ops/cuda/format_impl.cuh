// A format's kernels: packing, and the instances of the GEMV kernel. Included by kernels/*.cu.in only.
#pragma once

#include <algorithm>

#include <type_traits>

#include "ops/cuda/batch_kernel.cuh"
#include "ops/cuda/format_kernels.h"
#include "ops/cuda/gemv_kernel.cuh"
#include "ops/cuda/status.h"
#include "ops/cuda/unpack.cuh"
#include "ops/cuda/warpgroup_kernel.cuh"
#include "ops/quant/all.h"

namespace tandem::cuda {
namespace device {

/// One group of a stored row, or one that is worth nothing where the shard doesn't own it.
template <QuantFormat F>
__device__ inline QuantGroup owned_group(const PackArgs& args, const typename F::Block* row, int64_t group) {
  constexpr int kBlockGroups = F::kElements / kGroup;
  if (group * kGroup < args.cols.begin || group * kGroup >= args.cols.end) {
    QuantGroup none{};
    for (int h = 0; h < 2; ++h) none.scale[h] = none.min[h] = 0;
    return none;
  }
  return F::group(row[group / kBlockGroups], static_cast<int>(group % kBlockGroups));
}

template <QuantFormat F>
__device__ inline void pack_lane(const PackArgs& args, const std::byte* stored, int64_t segment, int lane,
                                 std::byte* unit) {
  using Layout = TileLayout<F>;
  const auto* row = reinterpret_cast<const typename F::Block*>(stored);
  const int quarter = lane % kQuad;
  const int64_t group = segment * (kSegmentCols / kGroup) + 2 * quarter;
  const QuantGroup a = owned_group<F>(args, row, group);
  const QuantGroup b = owned_group<F>(args, row, group + 1);
  uint32_t d = 0;
  uint32_t dmin = 0;
  if constexpr (F::kSubScales) {
    const QuantGroup first = F::group(row[segment], 0);
    d = first.d;
    dmin = first.dmin;
  }
  Lane<F> out{};
  pack_codes<F>(a, b, out.codes);
  pack_scales<F>(a, b, d, dmin, quarter, out.scale, out.row);
  for (int i = 0; i < Layout::kLines; ++i) {
    *reinterpret_cast<uint4*>(unit + 512 * i + 16 * lane) =
        make_uint4(out.codes[4 * i], out.codes[4 * i + 1], out.codes[4 * i + 2], out.codes[4 * i + 3]);
  }
  if constexpr (Layout::kHasHalfLine) {
    *reinterpret_cast<uint2*>(unit + Layout::kHalfLineOffset + 8 * lane) =
        make_uint2(out.codes[Layout::kCodeWords - 2], out.codes[Layout::kCodeWords - 1]);
  }
  std::byte* scale = unit + Layout::kLaneScaleOffset + Layout::kLaneScaleBytes * lane;
  if constexpr (Layout::kLaneScaleBytes == 8) {
    *reinterpret_cast<uint2*>(scale) = make_uint2(out.scale[0], out.scale[1]);
  } else if constexpr (Layout::kLaneScaleBytes == 4) {
    *reinterpret_cast<uint32_t*>(scale) = out.scale[0];
  } else {
    *reinterpret_cast<uint16_t*>(scale) = static_cast<uint16_t>(out.scale[0]);
  }
  std::byte* row_scale = unit + Layout::kRowScaleOffset + Layout::kRowScaleBytes * (lane / kQuad);
  if constexpr (Layout::kRowScaleBytes == 4) {
    if (quarter == 0) *reinterpret_cast<uint32_t*>(row_scale) = out.row;
  } else if constexpr (Layout::kRowScaleBytes == 2) {
    if (quarter == 0) *reinterpret_cast<uint16_t*>(row_scale) = static_cast<uint16_t>(out.row);
  }
}

template <FloatFormat F>
__device__ inline void pack_lane(const PackArgs& args, const std::byte* stored, int64_t segment, int lane,
                                 std::byte* unit) {
  using Layout = TileLayout<F>;
  using Element = typename F::Element;
  const auto* row = reinterpret_cast<const Element*>(stored);
  for (int i = 0; i < Layout::kLines; ++i) {
    Element line[Layout::kLineElements];
    for (int e = 0; e < Layout::kLineElements; ++e) {
      const int64_t col = segment * kSegmentCols + (i * kQuad + lane % kQuad) * Layout::kLineElements + e;
      line[e] = col >= args.cols.begin && col < args.cols.end ? row[col] : Element{};
    }
    uint4 words;
    memcpy(&words, line, sizeof(words));
    *reinterpret_cast<uint4*>(unit + 512 * i + 16 * lane) = words;
  }
}

}  // namespace device

/// Thread map: a thread a (row, segment, quarter), quarters fastest. Reads each stored byte of the shard once
/// or twice.
template <class F>
__global__ void pack_kernel(const __grid_constant__ PackArgs args) {
  const int64_t first_segment = args.cols.begin / kSegmentCols;
  const int64_t n_segments = ceil_div(args.cols.end, kSegmentCols) - first_segment;
  const int64_t n = args.n_rows * n_segments * kQuad;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = i / (n_segments * kQuad);
    const int64_t segment = i / kQuad % n_segments;
    const int64_t local = args.row_begin + row;
    const int lane = static_cast<int>(local % kTileRows * kQuad + i % kQuad);
    std::byte* unit = args.tiles + (local / kTileRows * n_segments + segment) * TileLayout<F>::kUnitBytes;
    device::pack_lane<F>(args, args.rows + row * args.row_stride, first_segment + segment, lane, unit);
  }
}

template <class F>
void launch_pack(const PackArgs& args, cudaStream_t stream) {
  const int64_t n = args.n_rows * segments_of(args.cols).size() * kQuad;
  if (n == 0) return;
  constexpr int kThreads = 128;
  const auto blocks = static_cast<unsigned>(ceil_div(n, kThreads) < 65536 ? ceil_div(n, kThreads) : 65536);
  pack_kernel<F><<<blocks, kThreads, 0, stream>>>(args);
  check(cudaGetLastError());
}

namespace device {

/// A lane's 64 weights, by their column within the quarter; fn(column, value).
template <QuantFormat F, class Fn>
__device__ inline void for_each_weight(const Lane<F>& codes, int lane, Fn&& fn) {
  const LaneScales scales = scales_of<F>(codes, lane);
#pragma unroll
  for (int g = 0; g < 2; ++g) {
#pragma unroll
    for (int v = 0; v < 8; ++v) {
      const uint32_t word = weight_word<F>(codes.codes, g, v);
      const int h = F::kHalves ? v / 4 : 0;
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        const uint32_t byte = word >> 8 * b & 0xffU;
        const int code =
            detail::kSigned<F> ? static_cast<int>(static_cast<int8_t>(byte)) : static_cast<int>(byte);
        float value;
        if constexpr (F::kSubScales) {
          value = scales.d * static_cast<float>(scales.scale[g][h] * code);
          if constexpr (F::kHasMin) value -= scales.dmin * static_cast<float>(scales.min[g][h]);
        } else {
          value = scales.group_d[g] * static_cast<float>(code);
          if constexpr (F::kHasMin) value -= scales.group_min[g];
        }
        fn(32 * g + 4 * v + b, value);
      }
    }
  }
}

}  // namespace device

/// Thread map: a warp eight segments of a token's row, a quad each. Reads the row's bytes once.
template <class F>
__global__ void embed_kernel(const __grid_constant__ EmbedArgs args) {
  constexpr int kWarpSegments = 32 / kQuad;
  const int64_t warps_a_token = (args.n_segments + kWarpSegments - 1) / kWarpSegments;
  const int64_t warp = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / 32;
  const int64_t token = warp / warps_a_token;
  if (token >= args.n_tokens) return;
  const int quarter = static_cast<int>(threadIdx.x) % kQuad;
  const int64_t wanted = warp % warps_a_token * kWarpSegments + threadIdx.x % 32 / kQuad;
  const int64_t segment =
      wanted < args.n_segments ? wanted : args.n_segments - 1;  // whole quads stay together
  const int64_t id = args.tokens[token];
  const bool mine = args.rows.begin <= id && id < args.rows.end;
  const int64_t row = mine ? id - args.rows.begin : 0;
  float* out = args.out + token * args.n_cols;
  float* residual = args.residual + token * args.n_cols;
  const auto put = [&](int64_t col, float value) {
    if (wanted != segment || col >= args.n_cols) return;
    out[col] = mine ? value * args.scale : 0.0F;
    residual[col] = 0;
  };
  if (args.rows.begin >= args.rows.end) {  // no table at all
    for (int c = 0; c < kLaneCols; ++c) put(segment * kSegmentCols + quarter * kLaneCols + c, 0.0F);
    return;
  }
  const int lane = static_cast<int>(row % kTileRows) * kQuad + quarter;
  Lane<F> codes;
  device::load_lane<F>(
      codes, args.tiles + (row / kTileRows * args.n_segments + segment) * TileLayout<F>::kUnitBytes, lane);
  if constexpr (QuantFormat<F>) {
    device::for_each_weight<F>(codes, lane, [&](int c, float value) {
      put(segment * kSegmentCols + quarter * kLaneCols + c, value);
    });
  } else {
    constexpr int kElements = TileLayout<F>::kLineElements;
    for (int i = 0; i < kLaneCols; ++i) {
      put(segment * kSegmentCols + (i / kElements * kQuad + quarter) * kElements + i % kElements,
          device::element_of(codes, i));
    }
  }
}

template <class F>
void launch_embed(const EmbedArgs& args, cudaStream_t stream) {
  constexpr int kWarps = 4;
  const int64_t warps = args.n_tokens * ceil_div(args.n_segments, 32 / kQuad);
  if (warps == 0) return;
  embed_kernel<F><<<static_cast<unsigned>(ceil_div(warps, kWarps)), 32 * kWarps, 0, stream>>>(args);
  check(cudaGetLastError());
}

template <class F, int kTokens, bool kWide, class Shape>
GemvKernel gemv_instance() {
  return {reinterpret_cast<const void*>(gemv_kernel<F, kTokens, kWide, Shape>),
          Shape::kThreads,
          Shape::kBlocks,
          Shape::kUnits,
          Shape::kRows,
          kTokens,
          Shape::kRounds,
          device::own_bytes<F, kTokens, kWide, Shape>()};
}

/// The shapes were chosen by bench/bench_cuda_gemv and bench_cuda_products on an H200 (bench/results). Of
/// those in rounds: where weights have few bits, and where registers are short, a warp's next unit waits in
/// shared memory.
template <QuantFormat F, int kTokens, bool kWide>
using RoundsShape = std::conditional_t<(F::kBits == 5 || F::kBits == 6) && kWide && kTokens == 4,
                                       GemvShape<384, 1, 0, 2, true>,
                                       GemvShape<512, 1,
                                                 F::kBits <= 4            ? 0
                                                 : kTokens == 2 && !kWide ? 2
                                                                          : 1,
                                                 2, true>>;

template <class F>
FormatKernels format_kernels() {
  FormatKernels out;
  out.unit_bytes = TileLayout<F>::kUnitBytes;
  out.pack = launch_pack<F>;
  out.embed = launch_embed<F>;
  out.unpack = launch_unpack<F>;
  if constexpr (FloatFormat<F>) {
    using Shape = GemvShape<256, 2, 1, 1>;
    out.gemv[0][0] = gemv_instance<F, 1, false, Shape>();
    out.gemv[0][1] = gemv_instance<F, 2, false, Shape>();
    out.gemv[0][2] = gemv_instance<F, 4, false, Shape>();
  } else {
    using One = std::conditional_t<(F::kBits <= 4), GemvShape<512, 2, 1, 2>, GemvShape<512, 1, 2, 2>>;
    using WideOne = std::conditional_t<(F::kBits == 8), GemvShape<256, 2, 1, 2>, GemvShape<512, 1, 2, 2>>;
    using Two = RoundsShape<F, 2, false>;
    using Four = RoundsShape<F, 4, false>;
    using WideTwo = RoundsShape<F, 2, true>;
    using WideFour = RoundsShape<F, 4, true>;
    out.gemv[0][0] = gemv_instance<F, 1, false, One>();
    out.gemv[0][1] = gemv_instance<F, 2, false, Two>();
    out.gemv[0][2] = gemv_instance<F, 4, false, Four>();
    out.gemv[1][0] = gemv_instance<F, 1, true, WideOne>();
    out.gemv[1][1] = gemv_instance<F, 2, true, WideTwo>();
    out.gemv[1][2] = gemv_instance<F, 4, true, WideFour>();
    // Few bits leave registers for four tiles a warp, and little to read for each product.
    constexpr bool kFewBits = F::kBits <= 4;
    using Sixteen = BatchShape<2, 16, 1, 3>;
    if constexpr (kFewBits) {
      out.batch[0] = few_instance<F, 1, BatchShape<2, 4, 4>>();
    } else {
      out.batch[0] = batch_instance<F, 1, Sixteen>();
    }
    out.batch[1] = batch_instance<F, 2, Sixteen>();
    out.batch[2] = batch_instance<F, 4, Sixteen>();
    out.batch[3] =
        batch_instance<F, 8, std::conditional_t<kFewBits, BatchShape<4, 8, 1, 3>, BatchShape<2, 8, 1, 3>>>();
    if constexpr (kHasWarpgroupCode) out.warpgroup = warpgroup_instance<F>();
  }
  return out;
}

template <class A, class B, int kTokens, class ShapeA, class ShapeB>
GemvKernel mixed_instance() {
  static_assert(ShapeA::kThreads == ShapeB::kThreads && ShapeA::kBlocks == ShapeB::kBlocks &&
                ShapeA::kRows == ShapeB::kRows && ShapeA::kRounds == ShapeB::kRounds &&
                (ShapeA::kRounds || ShapeA::kUnits == ShapeB::kUnits));
  return {reinterpret_cast<const void*>(gemv_mixed_kernel<A, B, kTokens, ShapeA, ShapeB>),
          ShapeA::kThreads,
          ShapeA::kBlocks,
          ShapeA::kUnits,
          ShapeA::kRows,
          kTokens,
          ShapeA::kRounds,
          std::max(device::own_bytes<A, kTokens, false, ShapeA>(),
                   device::own_bytes<B, kTokens, false, ShapeB>())};
}

template <class A, class B>
MixedKernels mixed_kernels() {
  using One = GemvShape<512, 1, 2, 2>;
  MixedKernels out;
  out.first = A::kType;
  out.second = B::kType;
  out.gemv[0] = mixed_instance<A, B, 1, One, One>();
  out.gemv[1] = mixed_instance<A, B, 2, RoundsShape<A, 2, false>, RoundsShape<B, 2, false>>();
  out.gemv[2] = mixed_instance<A, B, 4, RoundsShape<A, 4, false>, RoundsShape<B, 4, false>>();
  return out;
}

}  // namespace tandem::cuda
