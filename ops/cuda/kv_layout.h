// How many bytes the paged cache of ops/cuda/kv_cache.h takes: plain arithmetic, compiled in every build, so
// that plans can be made where there is no CUDA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/core/page.h"
#include "ops/core/range.h"

namespace tandem::cuda {

inline constexpr int kPageTokens = static_cast<int>(tandem::kPageTokens);  ///< as kernels count
inline constexpr int kKvGroup = 32;  ///< values that share a scale in q8_0

enum class CudaKvType : uint8_t { f32, f16, q8_0 };

/// Bytes of keys, or of values, of one head in a page.
constexpr int64_t kv_plane_bytes(CudaKvType type, int64_t head_dim) {
  if (type == CudaKvType::q8_0) return kPageTokens * (head_dim + 2 * ceil_div(head_dim, kKvGroup));
  return kPageTokens * head_dim * (type == CudaKvType::f16 ? 2 : 4);
}

/// Bytes that one page takes over all layers.
constexpr size_t kv_page_bytes(int64_t n_layers, int64_t n_kv_heads, int64_t head_dim, CudaKvType type) {
  return static_cast<size_t>(n_layers * n_kv_heads * 2 * kv_plane_bytes(type, head_dim));
}

}  // namespace tandem::cuda
