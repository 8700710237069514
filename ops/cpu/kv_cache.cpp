#include "ops/cpu/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "ops/core/check.h"
#include "ops/core/error.h"
#include "ops/core/range.h"
#include "ops/cpu/kernels/row_kernels.h"

namespace tandem {
namespace {

constexpr int64_t kAlignment = 64;

size_t aligned(int64_t bytes) {
  return static_cast<size_t>(round_up(bytes, kAlignment));
}

/// Scatters one head's keys into their column of the transposed block.
template <class T>
void put_column(const T* row, int64_t k_dim, int64_t slot, std::byte* keys) {
  T* column = reinterpret_cast<T*>(keys) + slot;
  for (int64_t d = 0; d < k_dim; ++d) column[d * kPageTokens] = row[d];
}

}  // namespace

KvCache::KvCache(std::span<const KvLayerShape> layers, KvType type, int64_t n_pages)
    : type_(type), n_pages_(n_pages) {
  require(n_pages >= 0, "pages", n_pages);
  for (const KvLayerShape& shape : layers) {
    layers_.push_back(layout(shape, type));
    layers_.back().offset = page_bytes_;
    page_bytes_ += layers_.back().bytes();
  }
  bytes_ = page_bytes_ * static_cast<size_t>(n_pages);
  if (bytes_ == 0) return;
  void* memory =
      mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    throw Error(
        ExitCode::unavailable,
        "cannot reserve " + std::to_string(bytes_ >> 20) + " MiB for the KV cache: " + std::strerror(errno),
        "ask for a smaller context with -c");
  }
  memory_ = static_cast<std::byte*>(memory);
  // Large pages where the system has them: reading runs half as fast again (28 against 19 GB/s on a busy EPYC
  // core). A refusal costs speed only.
  static_cast<void>(madvise(memory, bytes_, MADV_HUGEPAGE));
}

KvCache::~KvCache() {
  if (memory_ != nullptr) munmap(memory_, bytes_);
}

KvCache::KvCache(KvCache&& other) noexcept
    : layers_(std::move(other.layers_)),
      type_(other.type_),
      n_pages_(std::exchange(other.n_pages_, 0)),
      page_bytes_(std::exchange(other.page_bytes_, 0)),
      memory_(std::exchange(other.memory_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

KvCache& KvCache::operator=(KvCache&& other) noexcept {
  std::swap(layers_, other.layers_);
  std::swap(type_, other.type_);
  std::swap(n_pages_, other.n_pages_);
  std::swap(page_bytes_, other.page_bytes_);
  std::swap(memory_, other.memory_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

KvCache::Layer KvCache::layout(const KvLayerShape& shape, KvType type) {
  require(shape.n_kv_heads >= 0 && shape.k_dim > 0 && shape.v_dim > 0, "a cache row", shape.n_kv_heads,
          shape.k_dim, shape.v_dim);
  const auto element = static_cast<int64_t>(element_bytes(type));
  return {shape, 0, aligned(shape.k_dim * kPageTokens * element),
          aligned(v_stride(shape.v_dim) * kPageTokens * element)};
}

size_t KvCache::bytes_per_page(std::span<const KvLayerShape> layers, KvType type) {
  size_t bytes = 0;
  for (const KvLayerShape& shape : layers) bytes += layout(shape, type).bytes();
  return bytes;
}

std::byte* KvCache::head_memory(const Layer& layer, int64_t page, int64_t kv_head) const {
  return memory_ + static_cast<size_t>(page) * page_bytes_ + layer.offset +
         static_cast<size_t>(kv_head) * (layer.key_bytes + layer.value_bytes);
}

KvPageView KvCache::view(int layer, int64_t page, int64_t kv_head) const {
  const Layer& l = layers_[static_cast<size_t>(layer)];
  require(page >= 0 && page < n_pages_ && kv_head >= 0 && kv_head < l.shape.n_kv_heads, "a page of the cache",
          page, n_pages_, kv_head);
  const std::byte* keys = head_memory(l, page, kv_head);
  return {keys, keys + l.key_bytes};
}

bool KvCache::append(int layer, int64_t page, int64_t slot, const float* k, const float* v, Isa isa) {
  const Layer& l = layers_[static_cast<size_t>(layer)];
  const int64_t k_dim = l.shape.k_dim;
  const int64_t v_dim = l.shape.v_dim;
  const int64_t stride = v_stride(v_dim);
  require(page >= 0 && page < n_pages_ && slot >= 0 && slot < kPageTokens, "a slot of the cache", page, slot);
  const RowKernels& kernels = row_kernels(isa);
  bool finite = true;
  constexpr int64_t kPiece = 256;
  uint16_t halves[kPiece];
  for (int64_t head = 0; head < l.shape.n_kv_heads; ++head) {
    std::byte* keys = head_memory(l, page, head);
    std::byte* values = keys + l.key_bytes;
    if (type_ == KvType::f32) {
      put_column(k + head * k_dim, k_dim, slot, keys);
      std::memcpy(values + slot * stride * 4, v + head * v_dim, static_cast<size_t>(v_dim) * 4);
      finite &= kernels.all_finite(k + head * k_dim, k_dim) && kernels.all_finite(v + head * v_dim, v_dim);
      continue;
    }
    for (int64_t d = 0; d < k_dim; d += kPiece) {
      const int64_t n = std::min(kPiece, k_dim - d);
      finite &= kernels.to_f16(k + head * k_dim + d, n, halves);
      put_column(halves, n, slot, keys + d * kPageTokens * 2);
    }
    finite &= kernels.to_f16(v + head * v_dim, v_dim, reinterpret_cast<uint16_t*>(values) + slot * stride);
  }
  return finite;
}

void KvCache::copy_page(int64_t from, int64_t to, int64_t n_slots) {
  require(from >= 0 && from < n_pages_ && to >= 0 && to < n_pages_ && n_slots >= 0 && n_slots <= kPageTokens,
          "copy_page", from, to, n_slots);
  if (from == to) return;
  const size_t element = element_bytes(type_);
  const auto slots = static_cast<size_t>(n_slots);
  for (const Layer& l : layers_) {
    for (int64_t head = 0; head < l.shape.n_kv_heads; ++head) {
      const std::byte* source = head_memory(l, from, head);
      std::byte* target = head_memory(l, to, head);
      for (int64_t d = 0; d < l.shape.k_dim; ++d) {
        const size_t row = static_cast<size_t>(d * kPageTokens) * element;
        std::memcpy(target + row, source + row, slots * element);
      }
      std::memcpy(target + l.key_bytes, source + l.key_bytes,
                  slots * static_cast<size_t>(v_stride(l.shape.v_dim)) * element);
    }
  }
}

}  // namespace tandem
