// Quantising one row of activations in groups of 32 (see ops/cpu/activations.h for the forms). Everything of
// a group depends on its own 32 floats; maxima and integer sums don't depend on order, so every set gives the
// same bits.
#pragma once

#include "ops/cpu/kernels/quantize.h"
#include "ops/cpu/simd.h"

namespace tandem {

template <class Tag, bool kWide>
[[gnu::always_inline]] inline bool quantize_groups(const QuantizeArgs& args) {
  using F = F32x16<Tag>;
  using I = I32x16<Tag>;
  constexpr float kSteps = kWide ? 127.0F * 128.0F + 63.0F : 127.0F;
  constexpr float kSmallest = 1e-36F;  // below, kSteps / amax could overflow
  for (int64_t g = 0; g < args.n_groups; ++g) {
    const F a = F::load(args.x + g * 32);
    const F b = F::load(args.x + g * 32 + 16);
    const F infinity = F::broadcast(__builtin_inff());
    if ((mask_bits(less(abs(a), infinity)) & mask_bits(less(abs(b), infinity))) != 0xffffU) return false;
    const float amax = reduce_max(max(abs(a), abs(b)));
    const bool zero = amax < kSmallest;
    const F inverse = F::broadcast(zero ? 0.0F : kSteps / amax);
    args.scales[g] = zero ? 0.0F : amax / kSteps;
    const I qa = round_to_int(a * inverse);
    const I qb = round_to_int(b * inverse);
    const int32_t first = reduce_add(qa);
    args.first_sums[g] = first;
    args.sums[g] = first + reduce_add(qb);
    if constexpr (kWide) {
      const I half = I::broadcast(64);
      const I high_a = shift_right_arithmetic<7>(qa + half);
      const I high_b = shift_right_arithmetic<7>(qb + half);
      high_a.store_i8(args.high + g * 32);
      high_b.store_i8(args.high + g * 32 + 16);
      (qa - shift_left<7>(high_a)).store_i8(args.low + g * 32);
      (qb - shift_left<7>(high_b)).store_i8(args.low + g * 32 + 16);
    } else {
      qa.store_i8(args.high + g * 32);
      qb.store_i8(args.high + g * 32 + 16);
    }
  }
  return true;
}

template <class Tag>
bool quantize_row(const QuantizeArgs& args) {
  return args.low != nullptr ? quantize_groups<Tag, true>(args) : quantize_groups<Tag, false>(args);
}

}  // namespace tandem
