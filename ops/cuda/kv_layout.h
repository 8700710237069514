// How many bytes the paged cache of ops/cuda/kv_cache.h takes: plain arithmetic, compiled in every build, so
// that plans can be made where there is no CUDA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/core/page.h"
#include "ops/core/range.h"

namespace tandem::cuda {

inline constexpr int kPageTokens = static_cast<int>(tandem::kPageTokens);  ///< as kernels count
inline constexpr int kKvGroup = 32;  ///< values that share a scale in q8_0 and q4_0

enum class CudaKvType : uint8_t { f32, f16, q8_0, q4_0 };

/// Whether rows are codes, with scales behind all of a plane's.
constexpr bool is_coded(CudaKvType type) {
  return type == CudaKvType::q8_0 || type == CudaKvType::q4_0;
}

/// Bytes of a position's keys or values of one head, without scales. q4_0: four for eight elements.
constexpr int kv_row_bytes(CudaKvType type, int head_dim) {
  if (type == CudaKvType::q4_0) return (head_dim + 7) / 8 * 4;
  return head_dim * (type == CudaKvType::q8_0 ? 1 : type == CudaKvType::f16 ? 2 : 4);
}

/// Bytes of keys, or of values, of one head in a page.
constexpr int64_t kv_plane_bytes(CudaKvType type, int64_t head_dim) {
  const int64_t scale_bytes = is_coded(type) ? 2 * ceil_div(head_dim, kKvGroup) : 0;
  return kPageTokens * (kv_row_bytes(type, static_cast<int>(head_dim)) + scale_bytes);
}

// Four bytes of q4_0 hold eight neighbours: byte i element i in its low half, element i + 4 in its high one,
// each as its code plus 8. As q8_0 has them, four int8 codes a word, these are:

/// The first four, where not `high`, or the last four.
constexpr uint32_t codes_of_nibbles(uint32_t word, bool high) {
  return ((word >> (high ? 4 : 0) & 0x0f0f0f0fU) + 0x78787878U) ^ 0x80808080U;
}

/// Bytes that one page takes over all layers.
constexpr size_t kv_page_bytes(int64_t n_layers, int64_t n_kv_heads, int64_t head_dim, CudaKvType type) {
  return static_cast<size_t>(n_layers * n_kv_heads * 2 * kv_plane_bytes(type, head_dim));
}

}  // namespace tandem::cuda
