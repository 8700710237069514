// Which sizes attention is made for, and how much scratch memory that takes: plain arithmetic, compiled in
// every build. Used by ops/cuda/attention.cpp, which cuts its memory by it, and by plans.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "ops/core/page.h"
#include "ops/core/range.h"

namespace tandem::cuda {

inline constexpr int64_t kSplitTokens = 64;  ///< steps of more tokens have blocks enough

/// Local: this rank's heads.
struct AttentionShape {
  std::span<const int32_t> kv_of_head;  ///< (n_heads) local KV head of each query head, ascending
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  int64_t max_tokens = 0;     ///< in one step
  int64_t max_positions = 0;  ///< of one sequence
  int shared_bytes = 0;       ///< that a block may take; 0: what the device has
  bool fixed_cuts = false;    ///< a row's bits don't depend on the step's other tokens; slower for several
};

/// Where the parts of the scratch begin, in bytes.
struct ScratchLayout {
  int max_pieces = 1;
  int64_t partial_sums = 0;
  int64_t tickets = 0;
  int64_t rows = 0;
  int64_t end = 0;
  int64_t max_partials = 0;  ///< of a head

  ScratchLayout(const AttentionShape& shape, int n_multiprocessors) {
    constexpr int64_t kAlignment = 256;
    const auto n_heads = static_cast<int64_t>(shape.kv_of_head.size());
    if (n_heads == 0 || shape.n_kv_heads == 0) return;
    const int64_t n_pages = std::max<int64_t>(1, ceil_div(shape.max_positions, tandem::kPageTokens));
    const int64_t a_head = std::max(1, n_multiprocessors / shape.n_kv_heads);
    max_pieces = static_cast<int>(std::min(a_head, n_pages));
    const int64_t n_split = std::min(shape.max_tokens, kSplitTokens);
    max_partials = max_pieces > 1 ? n_split * max_pieces : 0;
    const int64_t n_partials = n_heads * max_partials;
    const auto behind = [](int64_t begin, int64_t bytes) { return round_up(begin + bytes, kAlignment); };
    partial_sums = behind(0, n_partials * shape.head_dim * 4);
    tickets = behind(partial_sums, n_partials * 8);
    rows = behind(tickets, n_split * shape.n_kv_heads * 4);
    end = behind(rows, shape.head_dim % 32 == 0 ? 0 : shape.max_tokens * n_heads * shape.head_dim * 4);
  }
};

/// Device memory that an AttentionScratch takes on a device of so many multiprocessors.
inline size_t attention_scratch_bytes(const AttentionShape& shape, int n_multiprocessors) {
  return static_cast<size_t>(ScratchLayout(shape, n_multiprocessors).end);
}

}  // namespace tandem::cuda
