// Sixteen lanes as arrays: the plain-C++ form of ops/cpu/simd.h (see there), and the declarations that the
// other sets specialise.
#pragma once

#include <cstdint>
#include <cstring>

#include "ops/core/half.h"
#include "ops/cpu/isa.h"

namespace tandem {

template <class Tag>
struct F32x16;
template <class Tag>
struct I32x16;
template <class Tag>
struct Mask16;

template <>
struct Mask16<Generic> {
  uint16_t bits;  ///< bit i is lane i
};

template <>
struct I32x16<Generic> {
  int32_t v[16];

  using I = I32x16;
  [[gnu::always_inline]] static I broadcast(int32_t a) {
    return make([&](int) { return a; });
  }
  [[gnu::always_inline]] static I zero() { return broadcast(0); }
  [[gnu::always_inline]] static I load(const int32_t* p) {
    return make([&](int i) { return p[i]; });
  }
  [[gnu::always_inline]] static I load_i8(const int8_t* p) {
    return make([&](int i) { return static_cast<int32_t>(p[i]); });
  }
  [[gnu::always_inline]] static I load_u8(const uint8_t* p) {
    return make([&](int i) { return static_cast<int32_t>(p[i]); });
  }
  [[gnu::always_inline]] static I load_u16(const uint16_t* p) {
    return make([&](int i) { return static_cast<int32_t>(p[i]); });
  }
  [[gnu::always_inline]] void store(int32_t* p) const {
    for (int i = 0; i < 16; ++i) p[i] = v[i];
  }
  /// Stores the low byte of every lane.
  [[gnu::always_inline]] void store_i8(int8_t* p) const {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(v[i]);
  }
  // Arithmetic wraps around.
  [[gnu::always_inline]] friend I operator+(I a, I b) {
    return make([&](int i) { return wrap(u(a.v[i]) + u(b.v[i])); });
  }
  [[gnu::always_inline]] friend I operator-(I a, I b) {
    return make([&](int i) { return wrap(u(a.v[i]) - u(b.v[i])); });
  }
  [[gnu::always_inline]] friend I operator*(I a, I b) {
    return make([&](int i) { return wrap(u(a.v[i]) * u(b.v[i])); });
  }
  [[gnu::always_inline]] friend I operator&(I a, I b) {
    return make([&](int i) { return a.v[i] & b.v[i]; });
  }
  [[gnu::always_inline]] friend I operator|(I a, I b) {
    return make([&](int i) { return a.v[i] | b.v[i]; });
  }
  [[gnu::always_inline]] friend I operator^(I a, I b) {
    return make([&](int i) { return a.v[i] ^ b.v[i]; });
  }

  template <class F>
  [[gnu::always_inline]] static I make(F f) {
    I r;
    for (int i = 0; i < 16; ++i) r.v[i] = f(i);
    return r;
  }
  [[gnu::always_inline]] static uint32_t u(int32_t a) { return static_cast<uint32_t>(a); }
  [[gnu::always_inline]] static int32_t wrap(uint32_t a) { return static_cast<int32_t>(a); }
};

/// a | (b & mask)
[[gnu::always_inline]] inline I32x16<Generic> or_masked(I32x16<Generic> a, I32x16<Generic> b,
                                                        I32x16<Generic> mask) {
  return a | (b & mask);
}
template <int kBits>
[[gnu::always_inline]] inline I32x16<Generic> shift_left(I32x16<Generic> a) {
  using I = I32x16<Generic>;
  return I::make([&](int i) { return I::wrap(I::u(a.v[i]) << kBits); });
}
template <int kBits>
[[gnu::always_inline]] inline I32x16<Generic> shift_right(I32x16<Generic> a) {
  using I = I32x16<Generic>;
  return I::make([&](int i) { return I::wrap(I::u(a.v[i]) >> kBits); });
}
template <int kBits>
[[gnu::always_inline]] inline I32x16<Generic> shift_right_arithmetic(I32x16<Generic> a) {
  return I32x16<Generic>::make([&](int i) { return a.v[i] >> kBits; });
}
[[gnu::always_inline]] inline int32_t reduce_add(I32x16<Generic> a) {
  uint32_t s = 0;
  for (const int32_t lane : a.v) s += I32x16<Generic>::u(lane);
  return static_cast<int32_t>(s);
}

template <>
struct F32x16<Generic> {
  float v[16];

  using F = F32x16;
  [[gnu::always_inline]] static F broadcast(float a) {
    return make([&](int) { return a; });
  }
  [[gnu::always_inline]] static F zero() { return broadcast(0.0F); }
  [[gnu::always_inline]] static F load(const float* p) {
    return make([&](int i) { return p[i]; });
  }
  /// Lanes from n (0..16) on are zero and not read.
  [[gnu::always_inline]] static F load_partial(const float* p, int n) {
    return make([&](int i) { return i < n ? p[i] : 0.0F; });
  }
  [[gnu::always_inline]] static F load_f16(const uint16_t* p) {
    return make([&](int i) { return f16_bits_to_float(p[i]); });
  }
  [[gnu::always_inline]] static F load_bf16(const uint16_t* p) {
    return make([&](int i) { return bf16_bits_to_float(p[i]); });
  }
  [[gnu::always_inline]] void store(float* p) const {
    for (int i = 0; i < 16; ++i) p[i] = v[i];
  }
  [[gnu::always_inline]] void store_partial(float* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  [[gnu::always_inline]] void store_f16(uint16_t* p) const {
    for (int i = 0; i < 16; ++i) p[i] = float_to_f16_bits(v[i]);
  }
  [[gnu::always_inline]] friend F operator+(F a, F b) {
    return make([&](int i) { return a.v[i] + b.v[i]; });
  }
  [[gnu::always_inline]] friend F operator-(F a, F b) {
    return make([&](int i) { return a.v[i] - b.v[i]; });
  }
  [[gnu::always_inline]] friend F operator*(F a, F b) {
    return make([&](int i) { return a.v[i] * b.v[i]; });
  }
  [[gnu::always_inline]] friend F operator/(F a, F b) {
    return make([&](int i) { return a.v[i] / b.v[i]; });
  }

  template <class Fn>
  [[gnu::always_inline]] static F make(Fn f) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = f(i);
    return r;
  }
};

/// a * b + c, rounded once.
[[gnu::always_inline]] inline F32x16<Generic> fma(F32x16<Generic> a, F32x16<Generic> b, F32x16<Generic> c) {
  return F32x16<Generic>::make([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
/// a < b ? a : b, so b where either is NaN.
[[gnu::always_inline]] inline F32x16<Generic> min(F32x16<Generic> a, F32x16<Generic> b) {
  return F32x16<Generic>::make([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
/// a > b ? a : b, so b where either is NaN.
[[gnu::always_inline]] inline F32x16<Generic> max(F32x16<Generic> a, F32x16<Generic> b) {
  return F32x16<Generic>::make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
[[gnu::always_inline]] inline F32x16<Generic> sqrt(F32x16<Generic> a) {
  return F32x16<Generic>::make([&](int i) { return __builtin_sqrtf(a.v[i]); });
}
/// a < b a lane; false where either is NaN.
[[gnu::always_inline]] inline Mask16<Generic> less(F32x16<Generic> a, F32x16<Generic> b) {
  Mask16<Generic> m{0};
  for (int i = 0; i < 16; ++i) m.bits = static_cast<uint16_t>(m.bits | (a.v[i] < b.v[i] ? 1U : 0U) << i);
  return m;
}
/// True where the lane's mask is set: a, else b.
[[gnu::always_inline]] inline F32x16<Generic> select(Mask16<Generic> m, F32x16<Generic> a,
                                                     F32x16<Generic> b) {
  return F32x16<Generic>::make([&](int i) { return (m.bits >> i & 1) != 0 ? a.v[i] : b.v[i]; });
}
/// The mask as bits, lane i in bit i.
[[gnu::always_inline]] inline uint32_t mask_bits(Mask16<Generic> m) {
  return m.bits;
}
/// To nearest, ties to even; defined for |a| < 2^31.
[[gnu::always_inline]] inline I32x16<Generic> round_to_int(F32x16<Generic> a) {
  return I32x16<Generic>::make([&](int i) { return static_cast<int32_t>(__builtin_lrintf(a.v[i])); });
}
[[gnu::always_inline]] inline F32x16<Generic> to_float(I32x16<Generic> a) {
  return F32x16<Generic>::make([&](int i) { return static_cast<float>(a.v[i]); });
}
[[gnu::always_inline]] inline F32x16<Generic> as_float(I32x16<Generic> a) {
  return F32x16<Generic>::make([&](int i) { return __builtin_bit_cast(float, a.v[i]); });
}
[[gnu::always_inline]] inline I32x16<Generic> as_int(F32x16<Generic> a) {
  return I32x16<Generic>::make([&](int i) { return __builtin_bit_cast(int32_t, a.v[i]); });
}
/// Lanes i and i+8 first, then i+4, i+2, i+1: the one order of every set.
[[gnu::always_inline]] inline float reduce_add(F32x16<Generic> a) {
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) a.v[i] = a.v[i] + a.v[i + step];
  }
  return a.v[0];
}
/// The largest lane; NaN lanes are unordered, so exclude them first where they may occur.
[[gnu::always_inline]] inline float reduce_max(F32x16<Generic> a) {
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) a.v[i] = a.v[i] > a.v[i + step] ? a.v[i] : a.v[i + step];
  }
  return a.v[0];
}

}  // namespace tandem
