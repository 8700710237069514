// The table of row kernels, one an instruction set: what the public functions of norm.h, rope.h,
// elementwise.h, kv_cache.h and sampling.h call after they have checked their arguments. Implemented in
// row_impl.h (floats) and sampling_impl.h.
#pragma once

#include <cstdint>

#include "ops/cpu/elementwise.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/norm.h"
#include "ops/cpu/rope.h"
#include "ops/cpu/sampling.h"

namespace tandem {

struct RowKernels {
  bool (*all_finite)(const float* x, int64_t n);
  bool (*to_f16)(const float* x, int64_t n, uint16_t* out);  ///< false where a half is not finite
  /// A block of n <= 32 values: its half scale, and 32 (q8_0) or 16 (q4_0) bytes of codes, those of the
  /// values that are missing being zeros'. False where the scale or a value is not finite.
  bool (*to_q8_0)(const float* x, int n, uint16_t* scale, uint8_t* codes);
  bool (*to_q4_0)(const float* x, int n, uint16_t* scale, uint8_t* codes);
  bool (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* out);
  void (*add_slots)(const int64_t* const* slots, int n_ranks, int64_t offset, int64_t n, const float* bias,
                    float* out);  ///< out[i] = from_fixed_point(Σ_ranks slots[rank][offset + i]) + bias[i]
  void (*reduce_floats)(const float* const* slots, int n_ranks, int64_t n, float scale, float* out);
  void (*rope)(const RopeHeads& heads);
  void (*swiglu)(const float* g, const float* u, int64_t n, float* out);
  void (*geglu)(const float* g, const float* u, int64_t n, float* out);
  void (*scale)(float* x, int64_t n, float factor);
  void (*soft_cap)(float* x, int64_t n, float cap);
  void (*add)(float* x, const float* bias, int64_t n);
  void (*add_scaled)(float* out, const float* x, int64_t n, float factor);
  void (*exp_minus)(float* x, int64_t n, float max);          ///< x[i] = e^(x[i] - max)
  void (*mix)(float* x, int64_t n, int width, float factor);  ///< mix_heads(); width: 1 to 128
};

struct SamplingKernels {
  Candidate (*find_best)(const float* logits, int64_t n, int32_t first_id);
  int64_t (*sum_exp)(const float* logits, int64_t n, float max, float inverse_temperature);
  /// Indices i in [begin, n) with x[i] > threshold, ascending, until `room` are found; returns how many, and
  /// in *next the index to go on from.
  int64_t (*find_above)(const float* x, int64_t begin, int64_t n, float threshold, int64_t room,
                        int32_t* found, int64_t* next);
  /// 16 tokens' noise: those of ids first_id … first_id + 15.
  void (*gumbel16)(uint64_t seed, uint64_t position, int32_t first_id, float* out);
  Candidate (*draw)(const float* logits, int64_t n, int32_t first_id, const GumbelArgs& args);
};

template <class Tag>
const RowKernels& row_kernels_of();
template <class Tag>
const SamplingKernels& sampling_kernels_of();

/// The table of a set. (Not inline: a kernel unit must not name another set's table.)
const RowKernels& row_kernels(Isa isa);
const SamplingKernels& sampling_kernels(Isa isa);

}  // namespace tandem
