// What ops/cpu/attention.cpp calls for the arithmetic of attention, one table an instruction set; implemented
// in attention_impl.h. Rows are (query token, query head) pairs that share a KV head.
#pragma once

#include <cstdint>

#include "ops/cpu/isa.h"
#include "ops/cpu/kv_cache.h"

namespace tandem {

/// The running result of rows inside a span: Σ 2^(s-max) and Σ 2^(s-max)·v. Scores are in units of log2.
struct AttentionState {
  float* max = nullptr;  // (n_rows), -infinity before the first block
  float* sum = nullptr;  // (n_rows, 16) by lane, zeros before the first block
  float* acc = nullptr;  // (n_rows, v_stride), zeros before the first block
};

/// Pages that may be given at once: enough to hide what a page's softmax waits for behind its neighbours'.
inline constexpr int kBlockPages = 4;

/// Pages of one KV head, adjacent in position, and the rows that see some of them. Several pages only where
/// every row sees all of them; the result is that of one call a page.
struct AttentionBlock {
  KvPageView pages[kBlockPages];
  int n_pages = 1;
  KvPageView next;                 // what will be read next: fetched ahead; null: none
  const float* q = nullptr;        // (n_rows, k_dim), scaled
  const int32_t* begin = nullptr;  // (n_rows) slots of the page that a row sees: [begin, end), never empty
  const int32_t* end = nullptr;    // (n_rows)
  AttentionState state;
  int64_t n_rows = 0;
  int64_t k_dim = 0;
  int64_t v_stride = 0;     ///< a multiple of 16
  float cap_factor = 0.0F;  ///< > 0: scores become cap_factor · tanh(score)
};

struct AttentionKernels {
  void (*block[kCacheTypeNames.size()])(const AttentionBlock& block);  ///< by KvType
  void (*scale)(const float* x, int64_t n, float factor, float* out);
  float (*sum_lanes)(const float* lanes);  // (16)
  /// Adds a row's partial result to what earlier spans gave. acc, part: (n), n a multiple of 16.
  void (*merge)(float* max, float* sum, float* acc, float part_max, float part_sum, const float* part,
                int64_t n);
};

template <class Tag>
const AttentionKernels& attention_kernels_of();

}  // namespace tandem
