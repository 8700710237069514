// The kernels of one format, as plain pointers, so that host code is compiled by the host compiler. One unit
// a format (kernels/format.cu.in) instantiates format_kernels<F>().
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "ops/core/range.h"
#include "ops/cuda/gemv_args.h"
#include "ops/quant/tensor_type.h"

namespace tandem::cuda {

/// Rows of a stored matrix on the device to their places in a tiled one.
struct PackArgs {
  const std::byte* rows = nullptr;  ///< (n_rows, row_stride bytes): whole rows as stored, at an even address
  int64_t row_stride = 0;
  int64_t row_begin = 0;  ///< local row of the first
  int64_t n_rows = 0;
  Range cols;  ///< of the stored matrix
  std::byte* tiles = nullptr;
};

/// Rows of a tiled table, looked up by token.
struct EmbedArgs {
  const std::byte* tiles = nullptr;
  int64_t n_segments = 0;
  int64_t n_cols = 0;
  Range rows;                       ///< token ids that the table holds
  const int32_t* tokens = nullptr;  ///< (n_tokens)
  int64_t n_tokens = 0;
  float scale = 1;
  float* out = nullptr;       ///< (n_tokens, n_cols): scale × the row, or zeros where another rank has it
  float* residual = nullptr;  ///< (n_tokens, n_cols): zeroed
};

/// Bytes of an element that unpacking makes of a weight: halves, or floats where halves lack range or
/// precision.
constexpr int unpacked_bytes(TensorType type) {
  return type == TensorType::f32 || type == TensorType::bf16 ? 4 : 2;
}

/// Halves of weights are this much larger than the weights, so that small scales keep their bits.
constexpr float half_weight_power(TensorType type) {
  return unpacked_bytes(type) == 4 || type == TensorType::f16 ? 1.0F : 64.0F;
}

/// Tiles to plain rows (unpack.cuh).
struct UnpackArgs {
  const std::byte* tiles = nullptr;  ///< the first tile's first unit
  int64_t n_tiles = 0;
  int64_t n_segments = 0;
  std::byte* out = nullptr;  ///< (8 n_tiles, 256 n_segments) elements
};

/// One instance of the batch kernel.
struct BatchKernel {
  const void* function = nullptr;  ///< __global__ void(BatchArgs); null for float formats
  int tokens = 0;                  ///< most tokens
  int tiles = 0;                   ///< of a block
  int blocks = 0;                  ///< a multiprocessor
  int threads = 0;                 ///< a block
  int64_t shared_bytes = 0;
  bool in_runs = false;  ///< a block has a run of work (warpgroup_kernel.cuh), else a share of a group
};
inline constexpr int kBatchKernels = 4;  ///< for 8, 16, 32 and 64 tokens

/// One instance of the GEMV kernel.
struct GemvKernel {
  const void* function = nullptr;  ///< __global__ void(GemvArgs), or of GemvMixedArgs
  int threads = 0;
  int blocks = 0;  ///< a multiprocessor
  int units = 0;   ///< segments a chunk
  int rows = 0;    ///< tiles a bundle
  int tokens = 0;
  bool rounds = false;       ///< its blocks take segments in rounds (gemv_tokens.cuh)
  int64_t shared_bytes = 0;  ///< of a block, beside those of the sums
};

struct FormatKernels {
  int64_t unit_bytes = 0;
  void (*pack)(const PackArgs& args, cudaStream_t stream) = nullptr;
  void (*embed)(const EmbedArgs& args, cudaStream_t stream) = nullptr;
  void (*unpack)(const UnpackArgs& args, cudaStream_t stream) = nullptr;
  GemvKernel gemv[2][3];  ///< [q15][for 1, 2, 4 tokens]; float formats: [0] only
  BatchKernel batch[kBatchKernels];
  BatchKernel warpgroup;  ///< for 64 tokens by Hopper's warpgroups; null where it isn't compiled
};

template <class F>
FormatKernels format_kernels();

/// Kernels for parts of two formats that llama-quantize's mixes put side by side (q and k of one, v of
/// another).
struct MixedKernels {
  TensorType first = TensorType::f32;
  TensorType second = TensorType::f32;
  GemvKernel gemv[3];  ///< for 1, 2, 4 tokens; q8
};

/// Those of the formats A and B. The instances are in kernels/mixed.cu.in, listed in gemv_mixed.h.
template <class A, class B>
MixedKernels mixed_kernels();

}  // namespace tandem::cuda
