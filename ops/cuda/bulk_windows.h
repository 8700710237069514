// Where two ranks' large sums lie in the peers' windows (peer_windows.h): behind the slots for sampling a
// window holds a line with a flag, and two slots, used in turns, each with room for the partial rows of a
// whole step: (2, max_tokens, n_cols) floats, which the other rank copies there (peer_copies.h). With more
// ranks there are none: what a rank receives, and the slots, would grow with the ranks, where an all-reduce's
// doesn't.
#pragma once

#include "ops/cuda/sampling_windows.h"

namespace tandem::cuda {

inline constexpr int64_t kBulkFlagBytes = 256;  ///< a line of its own

struct BulkWindow {
  int64_t offset = 0;      ///< of the flag's line; the slots are behind it
  int64_t slot_bytes = 0;  ///< 0: there are none

  /// Bytes of a window with all of its parts.
  constexpr int64_t end() const { return offset + (slot_bytes == 0 ? 0 : kBulkFlagBytes + 2 * slot_bytes); }
};

/// max_tokens: of a step.
constexpr BulkWindow bulk_window(int n_ranks, int64_t n_cols, int64_t n_vocab, int64_t max_tokens) {
  constexpr int64_t kLine = 256;
  BulkWindow window;
  window.offset = (sampled_window_bytes(n_ranks, n_cols, n_vocab) + kLine - 1) / kLine * kLine;
  const auto n_bytes = max_tokens * n_cols * static_cast<int64_t>(sizeof(float));
  if (n_ranks == 2 && max_tokens > kExchangeTokens) window.slot_bytes = (n_bytes + kLine - 1) / kLine * kLine;
  return window;
}

}  // namespace tandem::cuda
