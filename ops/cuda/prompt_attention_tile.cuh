// How prompt attention is cut, and the instructions it is made of: matrices from shared memory to registers,
// int8 codes to halves. See prompt_attention_kernel.cuh.
#pragma once

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/attention_mma_codes.cuh"
#include "ops/cuda/prompt_attention_queries.cuh"

namespace tandem::cuda::device {

/// Four 8 × 8 matrices of halves; lane l gives the address of row l % 8 of matrix l / 8, and gets two
/// neighbours of row l / 4 of each.
__device__ inline void load_matrices(uint32_t (&out)[4], uint32_t row) {
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(row)
               : "memory");
#endif
}
/// The same, each matrix transposed.
__device__ inline void load_transposed(uint32_t (&out)[4], uint32_t row) {
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(row)
               : "memory");
#endif
}

/// kSmall: for devices with less shared memory.
template <int kDimIn, CudaKvType kTypeIn, bool kSmall = false>
struct PromptShape {
  static constexpr int kDim = kDimIn;
  static constexpr CudaKvType kType = kTypeIn;
  static constexpr bool kWide = kDim > 128;    ///< a warp has registers for 16 rows' sums only
  static constexpr int kTall = kWide ? 1 : 2;  ///< a warp's rows: so many times 16
  static constexpr int kWarps = kWide ? 8 : 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocks = kWide ? 1 : 2;  ///< of a multiprocessor
  static constexpr int kRows = 16 * kTall * kWarps;
  static constexpr int kCols = kWide || kSmall ? 32 : 64;  ///< positions of a tile, all of one page
  static constexpr int kWords = kDim / 8;                  ///< of 16 bytes, a row
  /// From one row to the next in shared memory: an odd number of 16 bytes, so that 8 rows don't collide.
  static constexpr int kStride = 2 * kDim + 16;
  static constexpr int kPlane = kCols * kStride;

  /// What is copied of a q8_0 or q4_0 tile: codes and scales of the keys, then of the values.
  static constexpr bool kCoded = is_coded(kType);
  static constexpr int kRowBytes = kv_row_bytes(kType, kDim);  ///< in the cache
  static constexpr int kGroups = (kDim + kKvGroup - 1) / kKvGroup;
  static constexpr int kCodes = kCols * kRowBytes;
  static constexpr int kScales = kCols * kGroups * 2;

  // Shared memory: queries, what else is kept of their rows, tiles (keys, then values) and copies.
  static constexpr int kRowsAt = kRows * kStride;
  static constexpr int kTiles = kRowsAt + kRows * static_cast<int>(sizeof(PromptRow));
  static constexpr int kCopies = kTiles + (kCoded ? 1 : 2) * 2 * kPlane;
  static constexpr int kSharedBytes = kCopies + (kCoded ? 2 * 2 * (kCodes + kScales) : 0);

  static_assert(kDim % 16 == 0 && kPageTokens % kCols == 0);
  static_assert(kCols * kWords % kThreads == 0 && kScales % 16 == 0 && kCodes % 16 == 0);
};

}  // namespace tandem::cuda::device
