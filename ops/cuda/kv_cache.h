// The paged key/value cache of one rank in device memory: its own KV heads, all of its layers. Filled by
// ops/cuda/attention as tokens are processed, and read by it. Which page belongs to which sequence is the
// engine's business: here a page is a number, the same one in every layer.
//
// Position p of a sequence sits in slot p % kPageTokens of its page number p / kPageTokens. A layer is
// (n_pages, n_kv_heads) of: keys (kPageTokens, head_dim), then values (kPageTokens, head_dim), each row
// contiguous. q8_0 keeps a plane of int8 codes and behind it (kPageTokens, groups of 32) half scales; q4_0
// the same with 4 bits a code, eight neighbours in four bytes (kv_layout.h). Slots that were never written
// hold anything, NaN included: readers must not let them take part.
#pragma once

#include "ops/cuda/kv_layout.h"
#include "ops/cuda/memory.h"

namespace tandem::cuda {

/// One layer, for kernels.
struct KvView {
  std::byte* data = nullptr;  // (n_pages, n_kv_heads, head_bytes)
  int64_t head_bytes = 0;     ///< keys and values of a head in a page
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  CudaKvType type = CudaKvType::f16;

  /// Bytes of keys, or of values, of one head in a page.
  static constexpr int64_t plane_bytes(CudaKvType type, int64_t head_dim) {
    return kv_plane_bytes(type, head_dim);
  }
  constexpr std::byte* keys(int64_t page, int64_t head) const {
    return data + (page * n_kv_heads + head) * head_bytes;
  }
  constexpr std::byte* values(int64_t page, int64_t head) const { return keys(page, head) + head_bytes / 2; }
};

class CudaKvCache {
 public:
  /// Takes the memory at once; its content is undefined. head_dim: a multiple of 4, at most 256. n_kv_heads
  /// may be 0 (a rank without heads). Throws Error(unavailable) with the numbers where it doesn't fit.
  CudaKvCache(int64_t n_layers, int32_t n_kv_heads, int32_t head_dim, CudaKvType type, int64_t n_pages);

  /// Bytes that one page takes over all layers: what a capacity plan multiplies by.
  static size_t bytes_per_page(int64_t n_layers, int32_t n_kv_heads, int32_t head_dim, CudaKvType type);

  int64_t n_layers() const { return n_layers_; }
  int64_t n_pages() const { return n_pages_; }
  CudaKvType type() const { return view_.type; }
  size_t bytes() const { return data_.bytes(); }
  KvView layer(int64_t i) const;

  /// Copy on write: copies page `from` to page `to` in every layer, in order with `stream`.
  void copy_page(int64_t from, int64_t to, cudaStream_t stream);

  /// Everything of the cache, for tests that fill unused slots with poison.
  std::byte* raw() const { return data_.data(); }

 private:
  int64_t n_layers_;
  int64_t n_pages_;
  KvView view_;
  DeviceBuffer<std::byte> data_;
};

}  // namespace tandem::cuda
