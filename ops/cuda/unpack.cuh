// Tiles to plain rows of a matrix, for products by cuBLASLt: halves in the order of f16 activations
// (activation_layout.h), or floats in the file's order for formats whose range or precision halves lack.
// Included by format_impl.cuh only.
#pragma once

#include "ops/cuda/format_kernels.h"
#include "ops/cuda/half_weights.cuh"
#include "ops/cuda/status.h"

namespace tandem::cuda {
namespace device {

template <QuantFormat F>
__device__ inline void unpack_lane(const Lane<F>& codes, int lane, std::byte* row) {
  const HalfScales<F> scales(scales_of<F>(codes, lane));
#pragma unroll
  for (int i = 0; i < kLaneCols / 8; ++i) {
    const HalfWord a = half_word<F>(codes, scales, i / 4, 2 * i % 8);
    const HalfWord b = half_word<F>(codes, scales, i / 4, 2 * i % 8 + 1);
    reinterpret_cast<uint4*>(row)[kQuad * i + lane % kQuad] =
        make_uint4(bits_of(a.low), bits_of(a.high), bits_of(b.low), bits_of(b.high));
  }
}

/// F16 stays as it is, in f16 activations' order; the others become floats.
template <FloatFormat F>
__device__ inline void unpack_lane(const Lane<F>& codes, int lane, std::byte* row) {
  if constexpr (F::kType == TensorType::f16) {
    // line i of a lane: columns 32 i + 8 (lane % 4) … + 7
#pragma unroll
    for (int i = 0; i < TileLayout<F>::kLines; ++i) {
      const int place = ActLayout::half_position(32 * i + 8 * (lane % kQuad));
      *reinterpret_cast<uint4*>(row + 2 * place) = make_uint4(codes.codes[4 * i], codes.codes[4 * i + 1],
                                                              codes.codes[4 * i + 2], codes.codes[4 * i + 3]);
    }
  } else {
    constexpr int kElements = TileLayout<F>::kLineElements;
#pragma unroll
    for (int i = 0; i < kLaneCols; i += 4) {
      const int col = (i / kElements * kQuad + lane % kQuad) * kElements + i % kElements;
      reinterpret_cast<float4*>(row)[col / 4] = make_float4(
          element_of(codes, i), element_of(codes, i + 1), element_of(codes, i + 2), element_of(codes, i + 3));
    }
  }
}

}  // namespace device

/// Thread map: a warp a unit. Reads its bytes once, writes 256 elements of 8 rows.
template <class F>
__global__ void __launch_bounds__(256) unpack_kernel(const __grid_constant__ UnpackArgs args) {
  const int64_t unit = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (unit >= args.n_tiles * args.n_segments) return;
  const int64_t tile = unit / args.n_segments;
  const int64_t segment = unit % args.n_segments;
  Lane<F> codes;
  device::load_lane<F>(codes, args.tiles + unit * TileLayout<F>::kUnitBytes, lane);
  std::byte* row = args.out + ((tile * kTileRows + lane / kQuad) * args.n_segments + segment) * kSegmentCols *
                                  unpacked_bytes(F::kType);
  device::unpack_lane<F>(codes, lane, row);
}

template <class F>
void launch_unpack(const UnpackArgs& args, cudaStream_t stream) {
  constexpr int kWarps = 8;
  const int64_t n = args.n_tiles * args.n_segments;
  if (n == 0) return;
  unpack_kernel<F><<<static_cast<unsigned>(ceil_div(n, kWarps)), 32 * kWarps, 0, stream>>>(args);
  check(cudaGetLastError());
}

}  // namespace tandem::cuda
