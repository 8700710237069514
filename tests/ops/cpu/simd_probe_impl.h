// The kernel of test_simd, instantiated once an instruction set.
#pragma once

#include "ops/cpu/simd.h"
#include "tests/ops/cpu/simd_probe.h"

namespace tandem {

template <class Tag>
void probe_floats(const SimdProbeInput& in, SimdProbeOutput& out) {
  using F = F32x16<Tag>;
  const F a = F::load(in.a);
  const F b = F::load(in.b);
  const F c = F::load(in.c);
  (a + b).store(out.add);
  (a - b).store(out.sub);
  (a * b).store(out.mul);
  (a / b).store(out.div);
  fma(a, b, c).store(out.fused);
  min(a, b).store(out.minimum);
  max(a, b).store(out.maximum);
  sqrt(abs(a)).store(out.root);
  abs(a).store(out.magnitude);
  (-a).store(out.negative);
  select(less(a, b), c, a).store(out.selected);
  out.mask = mask_bits(less(a, b));
  exp(a).store(out.exponential);
  a.store_f16(out.to_half);
  out.total = reduce_add(a);
  out.largest = reduce_max(c);
  F::load_partial(in.a, in.n_partial).store(out.partial);
  F::broadcast(7.0F).store(out.partial_stored);
  a.store_partial(out.partial_stored, in.n_partial);
}

template <class Tag>
void simd_probe(const SimdProbeInput& in, SimdProbeOutput& out) {
  using F = F32x16<Tag>;
  using I = I32x16<Tag>;
  probe_floats<Tag>(in, out);
  F::load_f16(in.half).store(out.from_half);
  F::load_bf16(in.half).store(out.from_bf16);
  const I i = I::load(in.i);
  const I j = I::load(in.j);
  to_float(i).store(out.from_int);
  (i + j).store(out.int_add);
  (i - j).store(out.int_sub);
  (i * j).store(out.int_mul);
  (i & j).store(out.int_and);
  (i | j).store(out.int_or);
  (i ^ j).store(out.int_xor);
  shift_left<5>(i).store(out.left);
  shift_right<5>(i).store(out.right);
  shift_right_arithmetic<5>(i).store(out.arithmetic);
  round_to_int(F::load(in.c)).store(out.rounded);
  I::load_i8(in.bytes).store(out.from_i8);
  I::load_u8(reinterpret_cast<const uint8_t*>(in.bytes)).store(out.from_u8);
  I::load_u16(in.half).store(out.from_u16);
  i.store_i8(out.narrowed);
  out.int_total = reduce_add(i);
}

}  // namespace tandem
