// What ops/cpu/matmul.cpp hands to the kernels of one (format, instruction set): plain pointers and sizes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/cpu/isa.h"

namespace tandem {

inline constexpr int kMaxTileTokens = 16;
inline constexpr int kMaxTokens = 32;  ///< of a call

/// The activations of n tokens, laid out for the inner loop: everything of a group lies together.
/// "halves" is 2 where a format's group has two scales, else 1; "planes" is 2 for q15, else 1.
struct ActTile {
  int n = 0;
  int64_t first_token = 0;
  const float* x = nullptr;       ///< float formats: (n_cols, n)
  const int8_t* high = nullptr;   ///< (n_groups, n, 32)
  const int8_t* low = nullptr;    ///< (n_groups, n, 32), q15 only
  const float* scale = nullptr;   ///< (n_groups, n)
  const int32_t* zero = nullptr;  ///< (n_groups, n, halves): -zero point * sum of the (half) group's integers
  /// (n_groups, n, planes, halves): the same of a plane, in two 16-bit numbers: of columns 0, 1, 4, 5, … and
  /// of 2, 3, 6, 7, …; for sets that add pairs
  const int32_t* zero_pairs = nullptr;
  const float* sum = nullptr;  ///< (n_groups, n, halves): scale * that sum; formats with a minimum only
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
  int tile_tokens = 0;      ///< the most tokens of a tile, a power of two
  bool zero_pairs = false;  ///< whether it reads these in place of `zero`
  /// False where a fixed-point sum is out of range.
  bool (*run)(const MatmulArgs& args);
};

/// The kernels of a format (ops/quant/formats.h) for an instruction set (ops/cpu/isa.h).
template <class Format, class Tag>
MatmulKernels matmul_kernels();

}  // namespace tandem
