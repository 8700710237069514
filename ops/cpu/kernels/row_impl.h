// Row kernels for one instruction set (row_kernels.h): norms, sums of slots, rotation, gates and friends.
// Every element goes through the same operations whether it sits in a full group of sixteen or in the row's
// tail.
#pragma once

#include <utility>

#include "ops/core/fixed_point.h"
#include "ops/core/head_mix.h"
#include "ops/cpu/kernels/kv_blocks.h"
#include "ops/cpu/kernels/row_kernels.h"
#include "ops/cpu/kernels/vector_math.h"
#include "ops/cpu/simd.h"

namespace tandem {

template <class Tag>
struct RowImpl {
  using F = F32x16<Tag>;
  using I = I32x16<Tag>;

  /// Calls f(offset, count) for every group of sixteen; count < 16 in the tail only.
  template <class Fn>
  [[gnu::always_inline]] static void for_groups(int64_t n, Fn f) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) f(i, 16);
    if (i < n) f(i, static_cast<int>(n - i));
  }
  [[gnu::always_inline]] static F load(const float* p, int count) {
    return count == 16 ? F::load(p) : F::load_partial(p, count);
  }
  [[gnu::always_inline]] static void store(F a, float* p, int count) {
    if (count == 16) {
      a.store(p);
    } else {
      a.store_partial(p, count);
    }
  }
  /// out[i] = f(a[i]).
  template <class Fn>
  [[gnu::always_inline]] static void map(const float* a, int64_t n, float* out, Fn f) {
    for_groups(n, [&](int64_t i, int count) { store(f(load(a + i, count)), out + i, count); });
  }
  /// out[i] = f(a[i], b[i]).
  template <class Fn>
  [[gnu::always_inline]] static void map2(const float* a, const float* b, int64_t n, float* out, Fn f) {
    for_groups(
        n, [&](int64_t i, int count) { store(f(load(a + i, count), load(b + i, count)), out + i, count); });
  }

  /// x·0 is 0 where x is finite and NaN elsewhere, and NaN survives addition.
  static bool all_finite(const float* x, int64_t n) {
    F bad = F::zero();
    for_groups(n, [&](int64_t i, int count) { bad = fma(load(x + i, count), F::zero(), bad); });
    return reduce_add(bad) == 0.0F;
  }

  static bool to_f16(const float* x, int64_t n, uint16_t* out) {
    F bad = F::zero();
    for_groups(n, [&](int64_t i, int count) {
      alignas(64) uint16_t halves[16];
      load(x + i, count).store_f16(halves);
      bad = fma(F::load_f16(halves), F::zero(), bad);
      for (int lane = 0; lane < count; ++lane) out[i + lane] = halves[lane];
    });
    return reduce_add(bad) == 0.0F;
  }

  /// Σ x² over four sums of every fourth group each, added as ((0+1)+(2+3)), then across lanes.
  static float sum_of_squares(const float* x, int64_t n) {
    F sums[4] = {F::zero(), F::zero(), F::zero(), F::zero()};
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
      for (int part = 0; part < 4; ++part) {
        const F a = F::load(x + i + 16 * part);
        sums[part] = fma(a, a, sums[part]);
      }
    }
    for (int part = 0; i < n; i += 16, ++part) {
      const F a = load(x + i, n - i < 16 ? static_cast<int>(n - i) : 16);
      sums[part] = fma(a, a, sums[part]);
    }
    return reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  static bool rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
    const float mean = sum_of_squares(x, n) / static_cast<float>(n);
    const F factor = F::broadcast(1.0F / __builtin_sqrtf(mean + eps));
    if (weight == nullptr) {
      map(x, n, out, [&](F a) { return a * factor; });
    } else {
      map2(x, weight, n, out, [&](F a, F w) { return a * factor * w; });
    }
    return mean - mean == 0.0F;
  }

  static void add_slots(const int64_t* const* slots, int n_ranks, int64_t offset, int64_t n,
                        const float* bias, float* out) {
    constexpr double kUnit = 1.0 / static_cast<double>(int64_t{1} << kFixedPointBits);
    constexpr int64_t kPiece = 256;
    uint64_t sums[kPiece];  // wraps around like the addition of any order of the addends
    for (int64_t begin = 0; begin < n; begin += kPiece) {
      const int64_t count = n - begin < kPiece ? n - begin : kPiece;
      const int64_t* first = slots[0] + offset + begin;
      for (int64_t i = 0; i < count; ++i) sums[i] = static_cast<uint64_t>(first[i]);
      for (int rank = 1; rank < n_ranks; ++rank) {
        const int64_t* slot = slots[rank] + offset + begin;
        for (int64_t i = 0; i < count; ++i) sums[i] += static_cast<uint64_t>(slot[i]);
      }
      for (int64_t i = 0; i < count; ++i) {
        out[begin + i] = static_cast<float>(static_cast<double>(static_cast<int64_t>(sums[i])) * kUnit);
      }
    }
    if (bias != nullptr) add(out, bias, n);
  }

  static void reduce_floats(const float* const* slots, int n_ranks, int64_t n, float factor, float* out) {
    for_groups(n, [&](int64_t i, int count) {
      F sum = load(slots[0] + i, count);
      for (int rank = 1; rank < n_ranks; ++rank) sum = sum + load(slots[rank] + i, count);
      store(sum * F::broadcast(factor), out + i, count);
    });
  }

  // The compiler finds the shuffles for pairs that lie side by side; each product is rounded where it is
  // written.
  static void rotate_adjacent(float* x, const float* cosines, const float* sines, int64_t n_pairs) {
    for (int64_t i = 0; i < n_pairs; ++i) {
      const float a = x[2 * i];
      const float b = x[2 * i + 1];
      x[2 * i] = a * cosines[i] - b * sines[i];
      x[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
  }

  static void rotate_halves(float* x, const float* cosines, const float* sines, int64_t n_pairs) {
    for_groups(n_pairs, [&](int64_t i, int count) {
      const F a = load(x + i, count);
      const F b = load(x + n_pairs + i, count);
      const F c = load(cosines + i, count);
      const F s = load(sines + i, count);
      store(a * c - b * s, x + i, count);
      store(a * s + b * c, x + n_pairs + i, count);
    });
  }

  static void rope(const RopeHeads& heads) {
    for (int64_t head = 0; head < heads.n_heads; ++head) {
      float* x = heads.x + head * heads.head_dim;
      // A row that is not finite stays so, and the norms and the cache report it.
      if (heads.norm_weight != nullptr) {
        static_cast<void>(rms_norm(x, heads.norm_weight, heads.head_dim, heads.norm_eps, x));
      }
      if (heads.cosines == nullptr) continue;
      if (heads.style == RopeStyle::adjacent) {
        rotate_adjacent(x, heads.cosines, heads.sines, heads.n_pairs);
      } else {
        rotate_halves(x, heads.cosines, heads.sines, heads.n_pairs);
      }
    }
  }

  static void swiglu(const float* g, const float* u, int64_t n, float* out) {
    map2(g, u, n, out, [](F a, F b) { return a * sigmoid(a) * b; });
  }

  /// gelu(g) = g/2 · (1 + tanh(z)) = g · sigmoid(2z), z = sqrt(2/pi) · (g + 0.044715 g³).
  static void geglu(const float* g, const float* u, int64_t n, float* out) {
    map2(g, u, n, out, [](F a, F b) {
      const F cubic = fma(a * a * a, F::broadcast(0.044715F), a);
      return a * sigmoid(cubic * F::broadcast(1.59576912F)) * b;
    });
  }

  static void scale(float* x, int64_t n, float factor) {
    map(x, n, x, [&](F a) { return a * F::broadcast(factor); });
  }
  static void soft_cap(float* x, int64_t n, float cap) {
    map(x, n, x, [&](F a) { return F::broadcast(cap) * tanh(a / F::broadcast(cap)); });
  }
  static void add(float* x, const float* bias, int64_t n) {
    map2(x, bias, n, x, [](F a, F b) { return a + b; });
  }
  static void add_scaled(float* out, const float* x, int64_t n, float factor) {
    map2(x, out, n, out, [&](F a, F sum) { return fma(a, F::broadcast(factor), sum); });
  }
  static void exp_minus(float* x, int64_t n, float max) {
    map(x, n, x, [&](F a) { return exp(a - F::broadcast(max)); });
  }

  /// Each pass adds and subtracts neighbours, and moves a bit of the index from the bottom to the top: after
  /// as many as there are bits all have met, and stand where they stood. The compiler finds the shuffles.
  static void mix(float* x, int64_t n, int width, float factor) {
    float piece[kMixMost];
    for (int64_t begin = 0; begin < n; begin += width) {
      float* from = x + begin;
      float* to = piece;
      const int half = width / 2;
      for (int step = 1; step < width; step *= 2) {
        for (int i = 0; i < half; ++i) {
          const float a = from[2 * i];
          const float b = from[2 * i + 1];
          to[i] = a + b;
          to[i + half] = a - b;
        }
        std::swap(from, to);
      }
      for (int i = 0; i < width; ++i) x[begin + i] = from[i] * factor;
    }
  }
};

template <class Tag>
const RowKernels& row_kernels_of() {
  using Impl = RowImpl<Tag>;
  static constexpr RowKernels kTable = {
      Impl::all_finite,    Impl::to_f16,     to_q8_0<Tag>,    to_q4_0<Tag>, Impl::rms_norm, Impl::add_slots,
      Impl::reduce_floats, Impl::rope,       Impl::swiglu,    Impl::geglu,  Impl::scale,    Impl::soft_cap,
      Impl::add,           Impl::add_scaled, Impl::exp_minus, Impl::mix};
  return kTable;
}

}  // namespace tandem
