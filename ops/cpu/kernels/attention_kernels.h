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

/// One page of one KV head, and the rows that see some of it.
struct AttentionBlock {
  const std::byte* keys = nullptr;    // (k_dim, kPageTokens)
  const std::byte* values = nullptr;  // (kPageTokens, v_stride)
  const std::byte* next = nullptr;    // keys and values to be read next: fetched ahead; null: none
  const float* q = nullptr;           // (n_rows, k_dim), scaled
  const int32_t* begin = nullptr;     // (n_rows) slots that a row sees: [begin, end), never empty
  const int32_t* end = nullptr;       // (n_rows)
  AttentionState state;
  int64_t n_rows = 0;
  int64_t k_dim = 0;
  int64_t v_stride = 0;     ///< a multiple of 16
  float cap_factor = 0.0F;  ///< > 0: scores become cap_factor · tanh(score)
};

struct AttentionKernels {
  void (*block_f16)(const AttentionBlock& block);
  void (*block_f32)(const AttentionBlock& block);
  void (*scale)(const float* x, int64_t n, float factor, float* out);
  float (*sum_lanes)(const float* lanes);  // (16)
  /// Adds a row's partial result to what earlier spans gave. acc, part: (n), n a multiple of 16.
  void (*merge)(float* max, float* sum, float* acc, float part_max, float part_sum, const float* part,
                int64_t n);
};

template <class Tag>
const AttentionKernels& attention_kernels_of();

}  // namespace tandem
