// How activations lie in device memory: a token is a row of records, one a segment of 256 stored columns, so
// that a kernel needs one address a token. Columns outside the shard are zeros.
//   q8, q15: the values' high plane (256 bytes), per group {scale, scale * Σ} (8 pairs of floats), per group
//            scale * Σ of its first half (8 floats), and for q15 the low plane (256 bytes); x ~ scale * high,
//            or scale * (128 * high + low), as ops/cpu/activations.h defines them
//   f32:     256 floats
//   f16:     256 halves; behind a token's records 128 bytes that begin with its scale, a power of two (a
//   float):
//            x ~ scale * half, the token's largest half being 1024 to 2048, so that nothing overflows
// Records are multiples of 128 bytes (a cache line). A plane's bytes, and f16's halves, are ordered so that a
// quad's lanes, which own 64 columns each, read 64 contiguous bytes at a time.
#pragma once

#include <cstdint>

#include "ops/cuda/tile_layout.h"

namespace tandem::cuda {

struct ActLayout {
  static constexpr int kHigh = 0;
  static constexpr int kMeta = 256;
  static constexpr int kFirst = 320;
  static constexpr int kLow = 384;
  static constexpr int kQ8Bytes = 384;
  static constexpr int kQ15Bytes = 640;
  static constexpr int kF32Bytes = 1024;
  static constexpr int kF16Bytes = 512;
  static constexpr int kTailBytes = 128;  ///< behind a token's records of halves

  /// Where a column of the segment (0..255) lies in a plane.
  static constexpr int position(int col) { return col % 64 / 16 * 64 + col / 64 * 16 + col % 16; }
  /// The same for halves, counted in halves.
  static constexpr int half_position(int col) { return col % 64 / 8 * 32 + col / 64 * 8 + col % 8; }
};

}  // namespace tandem::cuda
