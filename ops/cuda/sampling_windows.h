// Where the ranks' candidates and logits lie in the peers' windows (peer_windows.h): behind the slots for
// partial rows a window holds two sets of slots for sampling, used in turns with the same numbers. A slot has
// room for the candidates of a pass (sampling.h), and for all logits of one row at least.
#pragma once

#include "ops/cuda/peer_windows.h"

namespace tandem::cuda {

inline constexpr int64_t kSampleRows = 32;  ///< in one pass

constexpr int64_t sampling_slot_bytes(int64_t n_vocab) {
  constexpr int64_t kCandidates = 128 << 10;
  const int64_t n_bytes = (n_vocab * kPacketBytes + 255) / 256 * 256;
  return n_bytes < kCandidates ? kCandidates : n_bytes;
}
constexpr int64_t sampling_window_offset(int n_ranks, int64_t n_cols) {
  return exchange_window_bytes(n_ranks, n_cols);
}
/// Bytes of a window with both.
constexpr int64_t sampled_window_bytes(int n_ranks, int64_t n_cols, int64_t n_vocab) {
  return sampling_window_offset(n_ranks, n_cols) + 2 * n_ranks * sampling_slot_bytes(n_vocab);
}

}  // namespace tandem::cuda
