// What ops/cpu/matmul.cpp hands to the kernels of one (format, instruction set): plain pointers and sizes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/cpu/isa.h"

namespace tandem {

inline constexpr int kMaxTileTokens = 16;

/// The activations of n tokens, laid out for the inner loop: everything of a group lies together.
/// "halves" is 2 where a format's group has two scales, else 1.
struct ActTile {
  int n = 0;
  int64_t first_token = 0;
  const float* x = nullptr;       ///< float formats: (n_cols, n)
  const int8_t* high = nullptr;   ///< (n_groups, n, 32)
  const int8_t* low = nullptr;    ///< (n_groups, n, 32), q15 only
  const float* scale = nullptr;   ///< (n_groups, n)
  const int32_t* zero = nullptr;  ///< (n_groups, n, halves): -zero point * sum of the (half) group's integers
  const float* sum = nullptr;     ///< (n_groups, n, halves): that sum; formats with a minimum only
};

struct MatmulArgs {
  const std::byte* panels = nullptr;  ///< panel 0 of the matrix
  int64_t panel_bytes = 0;
  int64_t n_rows = 0;
  int64_t n_units = 0;  ///< columns of float formats, groups of quantised ones
  int phase = 0;        ///< see PackedLayout::phase
  int64_t panel_begin = 0;
  int64_t panel_end = 0;
  const ActTile* tiles = nullptr;  ///< (n_tiles)
  int n_tiles = 0;
  bool wide = false;       ///< q15
  int64_t out_stride = 0;  ///< elements a token
  float* out = nullptr;    ///< (n_tokens, out_stride)
  int64_t* fixed =
      nullptr;  ///< (n_tokens, out_stride): where set, sums are added to it in fixed point, a chunk at a time
  int64_t chunk_units = 0;  ///< units a chunk
};

struct MatmulKernels {
  /// False where a fixed-point sum is out of range.
  bool (*run)(const MatmulArgs& args);
};

/// The kernels of a format (ops/quant/formats.h) for an instruction set (ops/cpu/isa.h).
template <class Format, class Tag>
MatmulKernels matmul_kernels();

}  // namespace tandem
