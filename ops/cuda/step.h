// What changes from one step to the next, as device pointers. The host fills the memory behind them before
// each step; the pointers themselves are kernel arguments that never change, so that a captured graph can be
// replayed. Read by the kernels that need a token's place or sequence.
//
// The copy that fills it ends before the step's first kernel begins (that kernel is not launched early), and
// nothing in the step writes it but `tokens`. So kernels that are launched early may read it before they wait
// for their inputs, and likewise the cache rows that earlier steps appended.
#pragma once

#include <cstdint>

namespace tandem::cuda {

inline constexpr int kMaxRopes = 2;

struct StepView {
  const int32_t* tokens = nullptr;     // (max_tokens) vocabulary ids
  const int32_t* positions = nullptr;  // (max_tokens)
  const int32_t* sequences = nullptr;  // (max_tokens) rows of the page table
  const int32_t* pages = nullptr;      // (max_sequences, pages_stride): [i] = positions 64i .. 64i + 63
  int64_t pages_stride = 0;
  const int32_t* slot_of = nullptr;  // (max_sequences)
  const int32_t* outputs = nullptr;  // (max_sequences): tokens of the step behind which one is chosen …
  const int32_t* output_slots = nullptr;  // (max_sequences): … and for which slots
  const float* rope[kMaxRopes] = {};      // (max_tokens, n_rot / 2, 2) each: cos, sin
  int32_t n_rot[kMaxRopes] = {};          ///< 0: no rotation
};

}  // namespace tandem::cuda
