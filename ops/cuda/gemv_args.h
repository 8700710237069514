// What a GEMV launch hands to its kernel: plain pointers and sizes, one struct. Filled by gemv.cpp only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/cuda/peer_windows.h"
#include "ops/cuda/tile_layout.h"

namespace tandem::cuda {

inline constexpr int kMaxGemvTokens = 4;  ///< a launch
inline constexpr int kMaxGemvParts = 3;

/// What is done with a row's sums before they are stored.
enum class Epilogue : uint8_t {
  none,    ///< each part's rows to its own output, plus its bias where it has one
  swiglu,  ///< two parts, gate and up, of one shape: silu(gate) * up to the first part's output
  geglu,   ///< the same with gelu's tanh approximation
};

struct GemvPart {
  const std::byte* tiles = nullptr;           ///< (n_tiles, n_segments, TileLayout<F>::kUnitBytes)
  const std::byte* const* experts = nullptr;  ///< on the device: tiles of each expert; or null
  const float* bias = nullptr;                ///< (n_rows) or null
  float* out = nullptr;                       ///< (n_tokens, out_stride)
  int64_t out_stride = 0;
  int32_t n_rows = 0;
  int32_t n_bundles = 0;  ///< of the kernel's rows: tiles that a warp works on together
};

struct GemvArgs {
  GemvPart parts[kMaxGemvParts];
  const std::byte* x = nullptr;  ///< (n_tokens, x_stride bytes): segment records, see activation_layout.h
  int64_t x_stride = 0;
  int32_t n_tokens = 0;
  int32_t n_parts = 0;
  int32_t n_segments = 0;
  int32_t n_chunks = 0;      ///< sums of a row: runs of segments that a warp does at once, or round_slots()
  int32_t n_bundles = 0;     ///< of all parts; gate·up: pairs
  uint32_t chunk_magic = 0;  ///< division_magic(n_chunks)
  Epilogue epilogue = Epilogue::none;
  int32_t run = 1;       ///< pairs of bundles that lie side by side in a block; n_bundles in such runs
  int32_t n_halves = 1;  ///< 2: a cluster's two blocks share each run of two, a pair each
  std::byte* records = nullptr;  ///< with an epilogue: outputs are quantised in groups of 32 rows, to
                                 ///< (n_tokens, record_token_bytes) records
  int64_t record_token_bytes = 0;
  int32_t record_lead = 0;          ///< columns of the first record before row 0's
  bool record_wide = false;         ///< q15, else q8
  uint32_t* not_finite = nullptr;   ///< with records: as CudaActivations::fill; or null
  const int32_t* expert = nullptr;  ///< on the device: which of the parts' experts; where they have some
  const float* factor = nullptr;    ///< on the device: multiplies every output; or null
  bool accumulate = false;          ///< adds to the outputs
  int32_t peer_token = 0;           ///< the first token's row of a slot
  PeerWindows peers;                ///< outputs go there instead, where there are ranks
};

/// What a warp needs to know of one of its units: kept in lists in shared memory (gemv_kernel.cuh).
struct alignas(16) UnitPlace {
  const std::byte* unit;  ///< the first tile's
  int32_t segment;
  int32_t slot;  ///< where its sums go, counted in sums; negative (~slot): to be added there
};

/// Two sets of parts of different formats.
struct GemvMixedArgs {
  GemvArgs first;
  GemvArgs second;
  int32_t first_blocks = 0;  ///< blocks that work on the first
};

/// ceil(2^32 / d): n / d = n · magic >> 32 for n · d < 2^32. A d of 1 has none.
constexpr uint32_t division_magic(uint32_t d) {
  return d == 1 ? 0 : static_cast<uint32_t>(((uint64_t{1} << 32) + d - 1) / d);
}

}  // namespace tandem::cuda
