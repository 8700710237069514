// What Products (products.h) takes of device memory, its batch kernel's scratch included: plain arithmetic,
// compiled in every build, for plans. Held against Products::bytes_of() by
// tests/ops/cuda/test_cuda_memory.cpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ops/cuda/tile_layout.h"

namespace tandem::cuda {

constexpr size_t products_bytes(int64_t most_elements, int n_multiprocessors) {
  constexpr size_t kMostUnpacked = size_t{512} << 20;
  constexpr size_t kBlasBytes = size_t{32} << 20;
  constexpr size_t kTiles = 16;  // of a block of the batch kernel
  constexpr size_t kBlocks = 4;  // a multiprocessor
  constexpr size_t kTokens = 64;
  const size_t sums = static_cast<size_t>(n_multiprocessors) * kBlocks *
                      (kTiles * kTileRows * kTokens * sizeof(float) + 2 * sizeof(uint32_t));
  return std::min(kMostUnpacked, static_cast<size_t>(most_elements) * 2) + kBlasBytes + sums;
}

}  // namespace tandem::cuda
