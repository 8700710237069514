// What a launch of the batch kernel gets: plain pointers and sizes, one struct. Filled by batch.cpp only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/cuda/gemv_args.h"

namespace tandem::cuda {

struct BatchPart {
  const std::byte* tiles = nullptr;  ///< (n_tiles, n_segments, unit bytes)
  const float* bias = nullptr;       ///< (n_rows) or null
  float* out = nullptr;              ///< (n_tokens, out_stride)
  int64_t out_stride = 0;
  int32_t n_rows = 0;
  int32_t n_tiles = 0;
  int32_t n_groups = 0;  ///< a block's tiles each; gate and up share a block: half as many of each
};

struct BatchArgs {
  BatchPart parts[kMaxGemvParts];
  const std::byte* x = nullptr;  ///< (n_tokens, x_stride bytes): f16 activations
  int64_t x_stride = 0;
  int32_t n_tokens = 0;
  int32_t n_parts = 0;
  int32_t n_segments = 0;
  int32_t n_splits = 1;  ///< blocks that share a group's segments
  int32_t n_groups = 0;  ///< of all parts; gate and up count once
  Epilogue epilogue = Epilogue::none;
  float power = 1;              ///< of the sums: what halves of weights are too large by
  float* partials = nullptr;    ///< with splits: (n_groups, n_splits, sums of a block)
  uint32_t* tickets = nullptr;  ///< with splits: (n_groups, 2), zeros between launches
};

}  // namespace tandem::cuda
