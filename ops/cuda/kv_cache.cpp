#include "ops/cuda/kv_cache.h"

#include <string>

#include "ops/core/error.h"
#include "ops/cpu/kv_cache.h"

namespace tandem::cuda {
namespace {

static_assert(kPageTokens == tandem::kPageTokens);

DeviceBuffer<std::byte> allocate(size_t bytes, int64_t n_pages) {
  size_t free = 0;
  size_t total = 0;
  check(cudaMemGetInfo(&free, &total));
  if (bytes <= free) {
    try {
      return DeviceBuffer<std::byte>(bytes);
    } catch (const Error&) {
      cudaGetLastError();  // told below, with the numbers
    }
  }
  throw Error(ExitCode::unavailable,
              "the KV cache of " + std::to_string(n_pages) + " pages takes " + std::to_string(bytes >> 20) +
                  " MiB of device memory, " + std::to_string(free >> 20) + " of " +
                  std::to_string(total >> 20) + " MiB are free",
              "ask for a smaller context with -c");
}

}  // namespace

CudaKvCache::CudaKvCache(int64_t n_layers, int32_t n_kv_heads, int32_t head_dim, CudaKvType type,
                         int64_t n_pages)
    : n_layers_(n_layers), n_pages_(n_pages) {
  require(n_layers >= 0 && n_kv_heads >= 0 && n_pages >= 0, "cuda cache: shape", n_layers, n_kv_heads,
          n_pages);
  require(n_kv_heads == 0 || (head_dim > 0 && head_dim <= 256 && head_dim % 4 == 0), "cuda cache: head size",
          head_dim);
  view_.head_bytes = 2 * KvView::plane_bytes(type, head_dim);
  view_.n_kv_heads = n_kv_heads;
  view_.head_dim = head_dim;
  view_.type = type;
  const size_t bytes = static_cast<size_t>(n_pages) * bytes_per_page(n_layers, n_kv_heads, head_dim, type);
  if (bytes != 0) data_ = allocate(bytes, n_pages);
}

size_t CudaKvCache::bytes_per_page(int64_t n_layers, int32_t n_kv_heads, int32_t head_dim, CudaKvType type) {
  return kv_page_bytes(n_layers, n_kv_heads, head_dim, type);
}

KvView CudaKvCache::layer(int64_t i) const {
  require(i >= 0 && i < n_layers_, "cuda cache: layer", i, n_layers_);
  KvView view = view_;
  view.data = data_.data() + i * n_pages_ * view_.n_kv_heads * view_.head_bytes;
  return view;
}

void CudaKvCache::copy_page(int64_t from, int64_t to, cudaStream_t stream) {
  require(from >= 0 && from < n_pages_ && to >= 0 && to < n_pages_, "cuda cache: copied pages", from, to);
  if (data_.size() == 0 || from == to) return;
  const int64_t page = view_.n_kv_heads * view_.head_bytes;
  const auto pitch = static_cast<size_t>(n_pages_ * page);
  check(cudaMemcpy2DAsync(data_.data() + to * page, pitch, data_.data() + from * page, pitch,
                          static_cast<size_t>(page), static_cast<size_t>(n_layers_), cudaMemcpyDeviceToDevice,
                          stream));
}

}  // namespace tandem::cuda
