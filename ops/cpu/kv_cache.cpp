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

/// Bytes of one head's keys (width: k_dim) or values (width: v_stride) in a page.
size_t plane_bytes(KvType type, int64_t width) {
  if (is_quantised(type)) return aligned(ceil_div(width, kKvGroup) * panel_bytes(type));
  return aligned(width * kPageTokens * element_bytes(type));
}

/// Scatters one head's keys, or a block's codes, into their column of the transposed plane.
template <class T>
void put_column(const T* row, int64_t n, int64_t slot, std::byte* keys) {
  T* column = reinterpret_cast<T*>(keys) + slot;
  for (int64_t d = 0; d < n; ++d) column[d * kPageTokens] = row[d];
}

bool put_f32(const RowKernels& kernels, const KvLayerShape& shape, int64_t slot, const float* k,
             const float* v, std::byte* keys, std::byte* values) {
  put_column(k, shape.k_dim, slot, keys);
  std::copy_n(v, shape.v_dim, reinterpret_cast<float*>(values) + slot * v_stride(shape.v_dim));
  return kernels.all_finite(k, shape.k_dim) && kernels.all_finite(v, shape.v_dim);
}

bool put_f16(const RowKernels& kernels, const KvLayerShape& shape, int64_t slot, const float* k,
             const float* v, std::byte* keys, std::byte* values) {
  constexpr int64_t kPiece = 256;
  uint16_t halves[kPiece];
  bool finite = true;
  for (int64_t d = 0; d < shape.k_dim; d += kPiece) {
    const int64_t n = std::min(kPiece, shape.k_dim - d);
    finite &= kernels.to_f16(k + d, n, halves);
    put_column(halves, n, slot, keys + d * kPageTokens * 2);
  }
  uint16_t* row = reinterpret_cast<uint16_t*>(values) + slot * v_stride(shape.v_dim);
  return kernels.to_f16(v, shape.v_dim, row) && finite;
}

/// Calls put(codes, panel) for every block of a row, its scale written. False where a scale or a value is not
/// finite.
template <class Put>
bool put_blocks(const RowKernels& kernels, KvType type, const float* row, int64_t width, int64_t slot,
                std::byte* plane, Put put) {
  const auto quantise = type == KvType::q8_0 ? kernels.to_q8_0 : kernels.to_q4_0;
  uint8_t codes[kKvGroup];
  bool finite = true;
  for (int64_t d = 0; d < width; d += kKvGroup, plane += panel_bytes(type)) {
    uint16_t scale = 0;
    finite &= quantise(row + d, static_cast<int>(std::min(kKvGroup, width - d)), &scale, codes);
    reinterpret_cast<uint16_t*>(plane)[slot] = scale;
    put(codes, plane + kPanelCodes);
  }
  return finite;
}

bool put_quantised(const RowKernels& kernels, KvType type, const KvLayerShape& shape, int64_t slot,
                   const float* k, const float* v, std::byte* keys, std::byte* values) {
  const int64_t n = code_bytes(type);
  const auto as_column = [&](const uint8_t* codes, std::byte* panel) { put_column(codes, n, slot, panel); };
  const auto as_row = [&](const uint8_t* codes, std::byte* panel) {
    std::memcpy(panel + slot * n, codes, static_cast<size_t>(n));
  };
  const bool finite = put_blocks(kernels, type, k, shape.k_dim, slot, keys, as_column);
  return put_blocks(kernels, type, v, shape.v_dim, slot, values, as_row) && finite;
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
  return {shape, 0, plane_bytes(type, shape.k_dim), plane_bytes(type, v_stride(shape.v_dim))};
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
  require(page >= 0 && page < n_pages_ && slot >= 0 && slot < kPageTokens, "a slot of the cache", page, slot);
  const RowKernels& kernels = row_kernels(isa);
  bool finite = true;
  for (int64_t head = 0; head < l.shape.n_kv_heads; ++head) {
    std::byte* keys = head_memory(l, page, head);
    std::byte* values = keys + l.key_bytes;
    const float* key = k + head * l.shape.k_dim;
    const float* value = v + head * l.shape.v_dim;
    if (is_quantised(type_)) {
      finite &= put_quantised(kernels, type_, l.shape, slot, key, value, keys, values);
    } else {
      const auto put = type_ == KvType::f32 ? put_f32 : put_f16;
      finite &= put(kernels, l.shape, slot, key, value, keys, values);
    }
  }
  return finite;
}

void KvCache::copy_page(int64_t from, int64_t to) {
  require(from >= 0 && from < n_pages_ && to >= 0 && to < n_pages_, "copy_page", from, to);
  if (from == to) return;
  std::memcpy(memory_ + static_cast<size_t>(to) * page_bytes_,
              memory_ + static_cast<size_t>(from) * page_bytes_, page_bytes_);
}

}  // namespace tandem
