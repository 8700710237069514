#include "ops/cuda/workspace.h"

#include <fmt/format.h>

#include <algorithm>

#include "ops/cuda/activation_layout.h"
#include "ops/cuda/products_memory.h"
#include "ops/cuda/sampling_windows.h"
#include "ops/cuda/step.h"
#include "ops/cuda/tile_layout.h"
#include "ops/quant/formats.h"

namespace tandem::cuda {
namespace {

/// A kernel's bundle may reach beyond the last tile; none has more tiles than this.
constexpr int64_t kTilesTogether = 2;

size_t page_bytes_of(const BackendShape& shape) {
  return kv_page_bytes(shape.n_layers, shape.n_kv_heads, shape.head_dim, cache_type_of(shape.cache_type));
}

}  // namespace

CudaKvType cache_type_of(CacheType type) {
  return type == CacheType::f32    ? CudaKvType::f32
         : type == CacheType::q8_0 ? CudaKvType::q8_0
         : type == CacheType::q4_0 ? CudaKvType::q4_0
                                   : CudaKvType::f16;
}

AttentionShape attention_shape(const BackendShape& shape) {
  AttentionShape attention;
  attention.kv_of_head = shape.kv_of_head;
  attention.n_kv_heads = static_cast<int32_t>(shape.n_kv_heads);
  attention.head_dim = static_cast<int32_t>(shape.head_dim);
  attention.max_tokens = shape.max_tokens;
  attention.max_positions = shape.n_pages * kPageTokens;
  return attention;
}

size_t matrix_bytes_of(TensorType type, int64_t n_rows, Range cols) {
  if (n_rows == 0 || cols.empty()) return 0;
  const int64_t n_tiles = round_up(ceil_div(n_rows, kTileRows), kTilesTogether);
  int64_t unit_bytes = 0;
  with_format(type, [&]<class F>(F) { unit_bytes = TileLayout<F>::kUnitBytes; });
  return static_cast<size_t>(n_tiles * segments_of(cols).size() * unit_bytes);
}

size_t cache_bytes_of(const BackendShape& shape) {
  return page_bytes_of(shape) * static_cast<size_t>(shape.n_pages);
}

int64_t most_product_elements(const BackendShape& shape) {
  const auto heads = static_cast<int64_t>(shape.kv_of_head.size()) * shape.head_dim;
  const int64_t rows = std::max(heads + 2 * shape.n_kv_heads * shape.head_dim, 2 * shape.n_ff);
  return round_up(rows, kTileRows) * round_up(shape.n_embd, kSegmentCols);
}

size_t workspace_bytes_of(const BackendShape& shape, int n_multiprocessors) {
  const auto heads = static_cast<int64_t>(shape.kv_of_head.size()) * shape.head_dim;
  const int64_t floats = 2 * shape.n_embd + heads + 2 * shape.n_kv_heads * shape.head_dim + 2 * shape.n_ff;
  const int64_t forms = shape.n_embd + heads + shape.n_ff;
  constexpr int64_t kFormBytes = 6;  // a value, in the forms that a model's formats ask for
  // rows of entries, where there are experts
  const int64_t entry_bytes = 4 * (2 * shape.n_ff + shape.n_embd) + 2 * (shape.n_embd + shape.n_ff);
  const int64_t sampling = std::min(shape.max_tokens, kSampleRows) * shape.n_vocab * 8;  // logits and counts
  return static_cast<size_t>(shape.max_tokens *
                                 (4 * floats + kFormBytes * forms + shape.n_experts_used * entry_bytes) +
                             sampling) +
         attention_scratch_bytes(attention_shape(shape), n_multiprocessors) +
         products_bytes(most_product_elements(shape), n_multiprocessors);
}

size_t step_bytes_of(const BackendShape& shape, int64_t n_pairs, int64_t n_ropes) {
  const auto buffer = [&](int64_t n_tokens, int64_t n_sequences) {
    return 4 * (n_tokens * (3 + 2 * n_pairs * n_ropes) + n_sequences * shape.n_pages);
  };
  constexpr int64_t kGraphTokens = 64;  // as in backend.cpp, with a buffer of their own
  constexpr int64_t kSequences = 256;
  const int64_t few = std::min(shape.max_tokens, kGraphTokens);
  const int64_t n_outputs = std::max<int64_t>(1, shape.max_outputs);
  const int64_t head =
      n_outputs * (4 * shape.n_vocab + segments_of({0, shape.n_embd}).size() * ActLayout::kQ15Bytes);
  return static_cast<size_t>(buffer(few, few) +
                             buffer(shape.max_tokens, std::min(shape.max_tokens, kSequences)) + head);
}

std::string fit_fault_of(size_t weight_bytes, const BackendShape& shape, int n_multiprocessors,
                         size_t usable) {
  const size_t page = page_bytes_of(shape);
  const size_t cache = cache_bytes_of(shape);
  // Before the rotations are known: as many as a model has at most, of whole heads.
  const size_t work =
      workspace_bytes_of(shape, n_multiprocessors) + step_bytes_of(shape, shape.head_dim / 2, kMaxRopes);
  if (weight_bytes + cache + work <= usable) return "";
  const auto mib = [](size_t n_bytes) { return n_bytes >> 20; };
  std::string fault = fmt::format(
      "weights {} MiB, KV cache {} MiB and workspace {} MiB don't fit into {} MiB of device memory",
      mib(weight_bytes), mib(cache), mib(work), mib(usable));
  if (weight_bytes + work + page > usable) return fault + " (use more ranks or a smaller model)";
  const size_t n_pages = (usable - weight_bytes - work) / page;
  return fault + fmt::format(" (a cache of {} positions would fit: -c)", n_pages * kPageTokens);
}

}  // namespace tandem::cuda
