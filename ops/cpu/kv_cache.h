// The paged key/value cache of one rank: its own KV heads, all of its layers. Filled by append() as tokens
// are processed, read by ops/cpu/attention. Which page belongs to which sequence is the engine's business:
// here a page is a number, the same one in every layer.
//
// A page holds kPageTokens positions, and position p of a sequence always sits in slot p % kPageTokens of its
// page number p / kPageTokens, because attention cuts the cache by position. Inside a page, for each KV head:
//   keys    (k_dim, kPageTokens)  transposed: a SIMD lane of q·k is a position
//   values  (kPageTokens, v_stride)  a SIMD lane of p·v is a column; v_stride is v_dim rounded up to 16
// in f16 (rounded to nearest even) or f32. q8_0 and q4_0 are the blocks of ops/quant/q8_0.h and q4_0.h, each
// 32 columns of a head (the last one's missing columns are zeros). A column of blocks is a panel:
//   scales  (kPageTokens) halves
//   codes   of keys (block's bytes, kPageTokens), of values (kPageTokens, block's bytes)
// and a plane of keys or values is its panels one after the other. No two positions share a byte.
//
// Slots that were never written hold anything, NaN included: readers must not let them take part, not even
// multiplied by zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/core/page.h"
#include "ops/core/range.h"
#include "ops/cpu/isa.h"
#include "ops/variants.h"

namespace tandem {

using KvType = CacheType;

inline constexpr int64_t kKvGroup = 32;  ///< columns of a block in q8_0 and q4_0

/// Of f16 and f32.
constexpr int64_t element_bytes(KvType type) {
  return type == KvType::f16 ? 2 : 4;
}

/// Bytes of a block's codes, of q8_0 and q4_0.
constexpr int64_t code_bytes(KvType type) {
  return type == KvType::q8_0 ? kKvGroup : kKvGroup / 2;
}

/// Bytes of a column of blocks: a group of 32 columns of every position of a page.
constexpr int64_t panel_bytes(KvType type) {
  return kPageTokens * (static_cast<int64_t>(sizeof(uint16_t)) + code_bytes(type));
}

/// Where a panel's codes begin, behind its scales.
inline constexpr int64_t kPanelCodes = kPageTokens * static_cast<int64_t>(sizeof(uint16_t));

/// Elements from one position's values to the next's.
constexpr int64_t v_stride(int64_t v_dim) {
  return (v_dim + 15) / 16 * 16;
}

/// One layer's cache row on this rank. n_kv_heads may be 0 (a rank without heads). Widths of keys and values
/// may differ.
struct KvLayerShape {
  int32_t n_kv_heads = 0;
  int32_t k_dim = 0;
  int32_t v_dim = 0;
  friend bool operator==(const KvLayerShape&, const KvLayerShape&) = default;
};

/// Where one KV head's keys and values of one page lie.
struct KvPageView {
  const std::byte* keys = nullptr;    // (k_dim, kPageTokens) of the cache's type or panels, 64-byte aligned
  const std::byte* values = nullptr;  // (kPageTokens, v_stride) or panels, right behind the keys
};

class KvCache {
 public:
  /// Reserves address space for n_pages; memory is taken from the system when a page is first written, in
  /// pieces of 2 MiB where it has large pages: hand out low page numbers first. Throws Error (unavailable)
  /// where the address space can't be had.
  KvCache(std::span<const KvLayerShape> layers, KvType type, int64_t n_pages);
  ~KvCache();
  KvCache(KvCache&& other) noexcept;
  KvCache& operator=(KvCache&& other) noexcept;

  /// Bytes that one page takes over all layers: what a capacity plan multiplies by.
  static size_t bytes_per_page(std::span<const KvLayerShape> layers, KvType type);

  int n_layers() const { return static_cast<int>(layers_.size()); }
  const KvLayerShape& layer(int i) const { return layers_[static_cast<size_t>(i)].shape; }
  KvType type() const { return type_; }
  int64_t n_pages() const { return n_pages_; }
  size_t bytes() const { return bytes_; }

  /// Writes one token's rows of one layer. k: (n_kv_heads, k_dim), v: (n_kv_heads, v_dim), floats.
  /// False where a value is not finite in the cache's type: the row is then unusable, and the caller reports
  /// it. f16 ends at 65504, q8_0 at 127 and q4_0 at 8 times that. Different tokens may be appended from
  /// different threads.
  [[nodiscard]] bool append(int layer, int64_t page, int64_t slot, const float* k, const float* v,
                            Isa isa = best_isa());

  /// Copy on write: copies page `from` to page `to`, in every layer.
  void copy_page(int64_t from, int64_t to);

  /// The memory of one KV head in one page.
  KvPageView view(int layer, int64_t page, int64_t kv_head) const;

  /// Everything of the cache, for tests that fill unused slots with poison.
  std::span<std::byte> raw() { return {memory_, bytes_}; }

 private:
  struct Layer {
    KvLayerShape shape;
    size_t offset = 0;       // inside a page
    size_t key_bytes = 0;    // of one head's keys in a page
    size_t value_bytes = 0;  // of one head's values in a page
    size_t bytes() const { return static_cast<size_t>(shape.n_kv_heads) * (key_bytes + value_bytes); }
  };
  static Layer layout(const KvLayerShape& shape, KvType type);
  std::byte* head_memory(const Layer& layer, int64_t page, int64_t kv_head) const;

  std::vector<Layer> layers_;
  KvType type_ = KvType::f16;
  int64_t n_pages_ = 0;
  size_t page_bytes_ = 0;  // of all layers; a page is contiguous, so that memory grows with the pages in use
  std::byte* memory_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace tandem
