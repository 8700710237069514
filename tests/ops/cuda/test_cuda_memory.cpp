// What plans say of device memory is what the CUDA backend's parts say. Needs the CUDA build, but no GPU.
#include <gtest/gtest.h>

#include "ops/cuda/kv_cache.h"
#include "ops/cuda/products.h"
#include "ops/cuda/products_memory.h"
#include "ops/cuda/workspace.h"

namespace tandem::cuda {
namespace {

TEST(CudaMemory, ProductsAsPlanned) {
  for (const int64_t elements : {int64_t{0}, int64_t{1} << 20, int64_t{1} << 40}) {
    for (const int n_multiprocessors : {1, 80, 132})
      EXPECT_EQ(products_bytes(elements, n_multiprocessors), Products::bytes_of(elements, n_multiprocessors));
  }
}

TEST(CudaMemory, CacheAsPlanned) {
  for (const CacheType type : {CacheType::f16, CacheType::f32, CacheType::q8_0, CacheType::q4_0}) {
    BackendShape shape;
    shape.n_layers = 3;
    shape.n_kv_heads = 5;
    shape.head_dim = 80;
    shape.n_pages = 7;
    shape.cache_type = type;
    EXPECT_EQ(cache_bytes_of(shape), 7 * CudaKvCache::bytes_per_page(3, 5, 80, cache_type_of(type)));
  }
}

}  // namespace
}  // namespace tandem::cuda
