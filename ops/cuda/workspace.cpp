#include "ops/cuda/workspace.h"

#include <fmt/format.h>

#include <algorithm>

#include "ops/cuda/products.h"
#include "ops/cuda/sampling_kernels.h"

namespace tandem::cuda {

CudaKvType cache_type_of(CacheType type) {
  return type == CacheType::f32    ? CudaKvType::f32
         : type == CacheType::q8_0 ? CudaKvType::q8_0
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
         Products::bytes_of(most_product_elements(shape), n_multiprocessors);
}

std::string fit_fault_of(size_t weight_bytes, const BackendShape& shape, int n_multiprocessors,
                         size_t usable) {
  const size_t page =
      CudaKvCache::bytes_per_page(shape.n_layers, static_cast<int32_t>(shape.n_kv_heads),
                                  static_cast<int32_t>(shape.head_dim), cache_type_of(shape.cache_type));
  const size_t cache = page * static_cast<size_t>(shape.n_pages);
  const size_t work = workspace_bytes_of(shape, n_multiprocessors);
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
