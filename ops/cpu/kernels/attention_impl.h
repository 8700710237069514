// Attention over one page for one instruction set (attention_kernels.h).
//
// Both products are the same small matrix product, C (rows × lanes) += A (rows × k) · B (k × lanes), with C
// in registers: scores = q · K with lanes = positions, then acc += p · V with lanes = columns. Each element
// of C adds its products in the order of k by fused multiply-adds, so how many rows or lanes share a pass
// doesn't show in the bits. Thread map: serial. Bytes read a page: (k_dim + v_stride) · 64 elements for every
// kMaxRows rows, from memory once.
#pragma once

#include <type_traits>

#include "ops/cpu/kernels/attention_kernels.h"
#include "ops/cpu/kernels/vector_math.h"
#include "ops/cpu/simd.h"

namespace tandem {

template <class Tag>
struct AttentionImpl {
  using F = F32x16<Tag>;
  static constexpr int kMaxRows = 6;
  // Vectors of C side by side: 6 × 4 accumulators fill the 32 registers of AVX-512, 6 × 1 pairs the 16 of
  // AVX2.
  static constexpr int kMaxVectors = std::is_same_v<Tag, Avx512> ? 4 : 1;
  static constexpr int kPageVectors = static_cast<int>(kPageTokens) / 16;
  static constexpr float kNone = -__builtin_inff();

  [[gnu::always_inline]] static F load(const float* p) { return F::load(p); }
  [[gnu::always_inline]] static F load(const uint16_t* p) { return F::load_f16(p); }

  /// c[r][v] += Σ_k a[r][k] · b[k][v], k ascending.
  template <class T, int kRows, int kVectors>
  [[gnu::always_inline]] static void multiply(const float* a, int64_t a_stride, const T* b, int64_t b_stride,
                                              int64_t n_k, F (&c)[kRows][kVectors]) {
    for (int64_t k = 0; k < n_k; ++k) {
      F line[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) line[v] = load(b + k * b_stride + 16 * v);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const F factor = F::broadcast(a[r * a_stride + k]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) c[r][v] = fma(factor, line[v], c[r][v]);
      }
    }
  }

  /// scores (kRows, kPageTokens) = q (kRows, k_dim) · keys, 16·kVectors positions.
  template <class T, int kRows, int kVectors>
  static void score(const float* q, int64_t k_dim, const T* keys, float* scores) {
    F c[kRows][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) c[r][v] = F::zero();
    }
    multiply<T, kRows, kVectors>(q, k_dim, keys, kPageTokens, k_dim, c);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) c[r][v].store(scores + r * kPageTokens + 16 * v);
    }
  }

  /// acc (kRows, stride) = acc · alpha + p (kRows, n_positions of kPageTokens) · values, 16·kVectors columns.
  template <class T, int kRows, int kVectors>
  static void weigh(const float* p, const float* alpha, const T* values, int64_t stride, int64_t n_positions,
                    float* acc) {
    F c[kRows][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const F factor = F::broadcast(alpha[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) c[r][v] = F::load(acc + r * stride + 16 * v) * factor;
    }
    multiply<T, kRows, kVectors>(p, kPageTokens, values, stride, n_positions, c);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) c[r][v].store(acc + r * stride + 16 * v);
    }
  }

  /// Calls f with compile-time rows and vectors.
  template <int kRows = kMaxRows, int kVectors = kMaxVectors, class Fn>
  [[gnu::always_inline]] static void with_sizes(int rows, int vectors, Fn f) {
    if constexpr (kRows > 1) {
      if (rows < kRows) return with_sizes<kRows - 1, kVectors>(rows, vectors, f);
    }
    if constexpr (kVectors > 1) {
      if (vectors < kVectors) return with_sizes<kRows, kVectors - 1>(rows, vectors, f);
    }
    f(std::integral_constant<int, kRows>{}, std::integral_constant<int, kVectors>{});
  }

  /// Up to kMaxRows rows of a block.
  struct Group {
    // p and alpha are left as they are: each is written before it is read.
    [[gnu::always_inline]] Group(const AttentionBlock& block_in, int64_t first_in)
        : block(block_in),
          first(first_in),
          n_rows(block_in.n_rows - first_in < kMaxRows ? static_cast<int>(block_in.n_rows - first_in)
                                                       : kMaxRows) {}

    const AttentionBlock& block;
    int64_t first;
    int n_rows;
    alignas(64) float p[kMaxRows * kPageTokens];  // scores, then 2^(score - max)
    alignas(64) float alpha[16];                  // what earlier blocks' sums are multiplied by

    [[gnu::always_inline]] int32_t begin(int r) const { return block.begin[first + r]; }
    [[gnu::always_inline]] int32_t end(int r) const { return block.end[first + r]; }
  };

  /// p = q · K for the groups of sixteen positions that any row sees. Returns those groups: [*low, *high).
  template <class T>
  [[gnu::always_inline]] static void score_group(Group& g, int low, int high) {
    const AttentionBlock& b = g.block;
    const float* q = b.q + g.first * b.k_dim;
    const T* keys = reinterpret_cast<const T*>(b.keys);
    for (int v = low; v < high; v += kMaxVectors) {
      with_sizes(g.n_rows, high - v, [&](auto rows, auto vectors) {
        score<T, rows(), vectors()>(q, b.k_dim, keys + 16 * v, g.p + 16 * v);
      });
    }
  }

  /// Turns a row's scores into powers and brings its maximum and sum up to date. Powers of positions that the
  /// row doesn't see become zeros.
  [[gnu::always_inline]] static void mask_and_cap(Group& g, int r, int low, int high, F* s) {
    const AttentionBlock& b = g.block;
    for (int v = 0; v < kPageVectors; ++v) {
      s[v] = F::broadcast(kNone);
      if (v < low || v >= high) continue;
      s[v] = F::load(g.p + r * kPageTokens + 16 * v);
      if (b.cap_factor > 0.0F) s[v] = F::broadcast(b.cap_factor) * tanh(s[v]);
      if (g.begin(r) > 16 * v || g.end(r) < 16 * v + 16) {
        const F slot = to_float(lane_numbers<Tag>() + I32x16<Tag>::broadcast(16 * v));
        s[v] = select(less(slot, F::broadcast(static_cast<float>(g.begin(r)))), F::broadcast(kNone), s[v]);
        s[v] = select(less(slot, F::broadcast(static_cast<float>(g.end(r)))), s[v], F::broadcast(kNone));
      }
    }
  }

  [[gnu::always_inline]] static void softmax_group(Group& g, int low, int high) {
    const AttentionState& state = g.block.state;
    alignas(64) float new_max[16];
    for (int r = 0; r < g.n_rows; ++r) {
      F s[kPageVectors];
      mask_and_cap(g, r, low, high, s);
      const float here = reduce_max(max(max(s[0], s[1]), max(s[2], s[3])));
      const float before = state.max[g.first + r];
      new_max[r] = here > before ? here : before;
      const F top = F::broadcast(new_max[r]);
      for (int v = low; v < high; ++v) (s[v] - top).store(g.p + r * kPageTokens + 16 * v);
    }
    const F old = F::load_partial(state.max + g.first, g.n_rows);
    exp2_negative(old - F::load_partial(new_max, g.n_rows)).store(g.alpha);
    for (int r = 0; r < g.n_rows; ++r) {
      F e[kPageVectors] = {F::zero(), F::zero(), F::zero(), F::zero()};
      for (int v = low; v < high; ++v) {
        float* p = g.p + r * kPageTokens + 16 * v;
        e[v] = exp2_negative(F::load(p));
        e[v].store(p);
      }
      float* sum = state.sum + (g.first + r) * 16;
      fma(F::load(sum), F::broadcast(g.alpha[r]), (e[0] + e[1]) + (e[2] + e[3])).store(sum);
      state.max[g.first + r] = new_max[r];
    }
  }

  /// acc = acc · alpha + p · V for `n_rows` rows from `r` on, over slots [from, to).
  template <class T>
  static void weigh_rows(Group& g, int r, int n_rows, int64_t from, int64_t to) {
    const AttentionBlock& b = g.block;
    const T* values = reinterpret_cast<const T*>(b.values) + from * b.v_stride;
    const float* p = g.p + r * kPageTokens + from;
    float* acc = b.state.acc + (g.first + r) * b.v_stride;
    for (int64_t column = 0; column < b.v_stride; column += 16 * kMaxVectors) {
      const auto left = static_cast<int>((b.v_stride - column) / 16);
      with_sizes(n_rows, left, [&](auto rows, auto vectors) {
        weigh<T, rows(), vectors()>(p, g.alpha + r, values + column, b.v_stride, to - from, acc + column);
      });
    }
  }

  /// A row never touches a slot that it doesn't see, not even with a weight of zero: the slot may hold a NaN,
  /// or a later token's values. So rows go together over the slots that all see, and alone before and after.
  template <class T>
  [[gnu::always_inline]] static void weigh_group(Group& g) {
    int64_t from = g.begin(0);
    int64_t to = g.end(0);
    for (int r = 1; r < g.n_rows; ++r) {
      from = g.begin(r) > from ? g.begin(r) : from;
      to = g.end(r) < to ? g.end(r) : to;
    }
    if (from >= to) {
      for (int r = 0; r < g.n_rows; ++r) weigh_rows<T>(g, r, 1, g.begin(r), g.end(r));
      return;
    }
    for (int r = 0; r < g.n_rows; ++r) {
      if (g.begin(r) == from) continue;
      weigh_rows<T>(g, r, 1, g.begin(r), from);
      g.alpha[r] = 1.0F;
    }
    weigh_rows<T>(g, 0, g.n_rows, from, to);
    for (int r = 0; r < g.n_rows; ++r) {
      g.alpha[r] = 1.0F;
      if (g.end(r) > to) weigh_rows<T>(g, r, 1, to, g.end(r));
    }
  }

  template <class T>
  static void block(const AttentionBlock& b) {
    if (b.next != nullptr) {
      const int64_t bytes = (b.k_dim + b.v_stride) * kPageTokens * static_cast<int64_t>(sizeof(T));
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(b.next + i, 0, 2);
    }
    for (int64_t first = 0; first < b.n_rows; first += kMaxRows) {
      Group g(b, first);
      int32_t low = g.begin(0);
      int32_t high = g.end(0);
      for (int r = 1; r < g.n_rows; ++r) {
        low = g.begin(r) < low ? g.begin(r) : low;
        high = g.end(r) > high ? g.end(r) : high;
      }
      low /= 16;
      high = (high + 15) / 16;
      score_group<T>(g, low, high);
      softmax_group(g, low, high);
      weigh_group<T>(g);
    }
  }

  static void scale(const float* x, int64_t n, float factor, float* out) {
    for (int64_t i = 0; i < n; ++i) out[i] = x[i] * factor;
  }

  static float sum_lanes(const float* lanes) {
    return reduce_add(F::load(lanes));
  }

  static void merge(float* max, float* sum, float* acc, float part_max, float part_sum, const float* part,
                    int64_t n) {
    const float top = part_max > *max ? part_max : *max;
    alignas(64) float factors[16] = {*max - top, part_max - top};
    exp2_negative(F::load(factors)).store(factors);
    const F mine = F::broadcast(factors[0]);
    const F theirs = F::broadcast(factors[1]);
    *max = top;
    *sum = *sum * factors[0] + part_sum * factors[1];
    for (int64_t i = 0; i < n; i += 16)
      fma(F::load(part + i), theirs, F::load(acc + i) * mine).store(acc + i);
  }
};

template <class Tag>
const AttentionKernels& attention_kernels_of() {
  using Impl = AttentionImpl<Tag>;
  static constexpr AttentionKernels kTable = {Impl::template block<uint16_t>, Impl::template block<float>,
                                              Impl::scale, Impl::sum_lanes, Impl::merge};
  return kTable;
}

}  // namespace tandem
