// Attention of a step's tokens over the paged cache: softmax(scale · q·K) · V with grouped-query heads, an
// optional sliding window and an optional soft cap of the scores. Prompt chunks and single tokens of any
// number of sequences go through the same call. Called by the model's forward after append() of the step's
// own tokens.
//
// The bits of an output row depend on its query, its position, its window and the cached rows that it sees,
// and on nothing else: not on the other tokens of the call, the page ids, the heads that this rank has, the
// number of threads or the instruction set. What makes it so: positions are cut into pages of 64 and spans of
// 512 *by their number*; a span is reduced by an online softmax over its pages in order; spans are merged in
// order, whether one thread did all of them or several did; and a position that a query does not see takes no
// part in its arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ops/cpu/isa.h"
#include "ops/cpu/kv_cache.h"
#include "ops/cpu/thread_pool.h"

namespace tandem {

/// Positions whose partial result (maximum, sum, weighted values) is formed before it meets the others'.
inline constexpr int64_t kSpanTokens = 512;

/// A query token: where it stands, and whose it is.
struct AttentionToken {
  int32_t position = 0;
  int32_t sequence = 0;  ///< index into AttentionArgs::page_tables
};

struct AttentionArgs {
  const KvCache* cache = nullptr;
  int layer = 0;
  std::span<const AttentionToken> tokens;  // (n_tokens); fastest when a sequence's are adjacent
  std::span<const std::span<const int32_t>>
      page_tables;                      // (n_sequences) of page ids, [i] = positions 64i .. 64i+63
  std::span<const int32_t> kv_of_head;  // (n_heads) local KV head of each local query head, ascending
  const float* q = nullptr;             // (n_tokens, q_stride), a row is (n_heads, k_dim)
  int64_t q_stride = 0;                 // floats
  float* out = nullptr;                 // (n_tokens, out_stride), a row is (n_heads, v_dim)
  int64_t out_stride = 0;               // floats
  float scale = 1.0F;                   ///< of q·k, usually 1/sqrt(k_dim)
  float soft_cap = 0.0F;                ///< c > 0: scores become c·tanh(score/c)
  int64_t window = 0;                   ///< w > 0: position p sees max(0, p-w+1) … p; 0: all of 0 … p
};

/// Memory that attend() reuses from call to call. One a rank.
class AttentionScratch {
 public:
  AttentionScratch();
  ~AttentionScratch();
  AttentionScratch(AttentionScratch&&) noexcept;
  AttentionScratch& operator=(AttentionScratch&&) noexcept;

 private:
  friend struct AttentionRun;
  struct State;
  std::unique_ptr<State> state_;
};

/// Computes every token's output row. A token's own position must have been appended.
void attend(const AttentionArgs& args, AttentionScratch& scratch, ThreadPool& pool, Isa isa = best_isa());

}  // namespace tandem
