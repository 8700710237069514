// Attention over one page for one instruction set (attention_kernels.h).
//
// Both products are the same small matrix product, C (rows × lanes) += A (rows × k) · B (k × lanes), with C
// in registers: scores = q · K with lanes = positions, then acc += p · V with lanes = columns. Each element
// of C adds its products in the order of k by fused multiply-adds, so how many rows or lanes share a pass
// doesn't show in the bits. B's rows come as floats from kv_lines.h, exactly, whatever the cache's type.
// Thread map: serial. Bytes read a page: (k_dim + v_stride) · 64 elements for every kMaxRows rows, from
// memory once.
#pragma once

#include <type_traits>

#include "ops/cpu/kernels/attention_kernels.h"
#include "ops/cpu/kernels/kv_lines.h"
#include "ops/cpu/kernels/vector_math.h"
#include "ops/cpu/simd.h"

namespace tandem {

template <class Tag>
struct AttentionImpl {
  using F = F32x16<Tag>;
  // Rows and vectors of C: 6 × 4 accumulators fill the 32 registers of AVX-512, 6 × 1 pairs the 16 of AVX2.
  // The plain set is there to be right, and small enough to compile under the sanitizers.
  static constexpr int kMaxRows = std::is_same_v<Tag, Generic> ? 2 : 6;
  static constexpr int kMaxVectors = std::is_same_v<Tag, Avx512> ? 4 : 1;
  static constexpr int kPageVectors = static_cast<int>(kPageTokens) / 16;
  static constexpr float kNone = -__builtin_inff();

  /// c[r][v] += Σ_k a[r][k] · lines(k, v), k ascending; lines.fetch(k) asks for what is read a page later.
  template <int kRows, int kVectors, class Lines>
  [[gnu::always_inline]] static void multiply(const float* a, int64_t a_stride, int64_t n_k,
                                              const Lines& lines, F (&c)[kRows][kVectors]) {
    for (int64_t k = 0; k < n_k; ++k) {
      // A row at a time, into the second level: in bursts the requests stop the arithmetic (16 against 20
      // GB/s).
      lines.fetch(k);
      F line[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) line[v] = lines(k, v);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const F factor = F::broadcast(a[r * a_stride + k]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) c[r][v] = fma(factor, line[v], c[r][v]);
      }
    }
  }

  /// scores (kRows, kPageTokens) = q (kRows, k_dim) · keys, for 16·kVectors positions from 16·first on.
  template <KvType kType, int kRows, int kVectors>
  static void score(const float* q, int64_t k_dim, const std::byte* keys, const std::byte* ahead, int first,
                    float* scores) {
    F c[kRows][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) c[r][v] = F::zero();
    }
    const auto add = [&](int64_t begin, int64_t n, const auto& lines) __attribute__((always_inline)) {
      multiply(q + begin, k_dim, n, lines, c);
    };
    for_key_lines<Tag, kType, kVectors>(keys, ahead, k_dim, first, add);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) c[r][v].store(scores + r * kPageTokens + 16 * (first + v));
    }
  }

  /// acc (kRows, stride) = acc · alpha + p (kRows, [from, to) of kPageTokens) · values, 16·kVectors columns
  /// from `column` on.
  template <KvType kType, int kRows, int kVectors>
  static void weigh(const float* p, const float* alpha, const std::byte* values, const std::byte* ahead,
                    int64_t stride, int64_t from, int64_t to, int64_t column, float* acc) {
    F c[kRows][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const F factor = F::broadcast(alpha[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) c[r][v] = F::load(acc + r * stride + column + 16 * v) * factor;
    }
    const auto add = [&](const auto& lines) __attribute__((always_inline)) {
      multiply(p + from, kPageTokens, to - from, lines, c);
    };
    with_value_lines<Tag, kType, kVectors>(values, ahead, stride, from, column, add);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) c[r][v].store(acc + r * stride + column + 16 * v);
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

  /// Slots that any, and that all rows of a group see.
  struct Seen {
    int32_t any_begin, any_end, all_begin, all_end;
  };

  /// Up to kMaxRows rows of a block.
  struct Group {
    // The arrays are left as they are: each is written before it is read.
    [[gnu::always_inline]] Group(const AttentionBlock& block_in, int64_t first_in)
        : block(block_in),
          first(first_in),
          n_rows(block_in.n_rows - first_in < kMaxRows ? static_cast<int>(block_in.n_rows - first_in)
                                                       : kMaxRows) {}

    const AttentionBlock& block;
    int64_t first;
    int n_rows;
    alignas(64) float p[kBlockPages][kMaxRows * kPageTokens];  // scores, then 2^(score - max)
    alignas(64) float max[kBlockPages][16];                    // a row each: the maximum up to the page
    alignas(64) float alpha[kBlockPages][16];                  // what earlier pages' sums are multiplied by

    [[gnu::always_inline]] int32_t begin(int r) const { return block.begin[first + r]; }
    [[gnu::always_inline]] int32_t end(int r) const { return block.end[first + r]; }
    [[gnu::always_inline]] Seen seen() const {
      Seen s{begin(0), end(0), begin(0), end(0)};
      for (int r = 1; r < n_rows; ++r) {
        s.any_begin = begin(r) < s.any_begin ? begin(r) : s.any_begin;
        s.any_end = end(r) > s.any_end ? end(r) : s.any_end;
        s.all_begin = begin(r) > s.all_begin ? begin(r) : s.all_begin;
        s.all_end = end(r) < s.all_end ? end(r) : s.all_end;
      }
      return s;
    }
  };

  /// p = q · K of a page, for its groups of sixteen positions [low, high).
  template <KvType kType>
  static void score_page(Group& g, int page, int low, int high) {
    const AttentionBlock& b = g.block;
    const float* q = b.q + g.first * b.k_dim;
    const std::byte* keys = b.pages[page].keys;
    const std::byte* ahead = (page + 1 < b.n_pages ? b.pages[page + 1] : b.next).keys;
    for (int v = low; v < high; v += kMaxVectors) {
      with_sizes(g.n_rows, high - v, [&](auto rows, auto vectors) {
        score<kType, rows(), vectors()>(q, b.k_dim, keys, ahead, v, g.p[page]);
      });
    }
  }

  static void cap_scores(float* p, float factor, int low, int high) {
    for (int v = low; v < high; ++v) (F::broadcast(factor) * tanh(F::load(p + 16 * v))).store(p + 16 * v);
  }

  /// Caps a row's scores of a page, makes those of positions that the row doesn't see -infinity (all of those
  /// outside [low, high)), and returns the largest. kFull: the row sees the whole page.
  template <bool kFull>
  [[gnu::always_inline]] static float mask_scores(Group& g, int page, int r, int low, int high) {
    float* p = g.p[page] + r * kPageTokens;
    if (g.block.cap_factor > 0.0F) cap_scores(p, g.block.cap_factor, low, high);
    F s[kPageVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kPageVectors; ++v) {
      s[v] = F::broadcast(kNone);
      if (!kFull && (v < low || v >= high)) continue;
      s[v] = F::load(p + 16 * v);
      if constexpr (!kFull) {
        const F slot = to_float(lane_numbers<Tag>() + I32x16<Tag>::broadcast(16 * v));
        s[v] = select(less(slot, F::broadcast(static_cast<float>(g.begin(r)))), F::broadcast(kNone), s[v]);
        s[v] = select(less(slot, F::broadcast(static_cast<float>(g.end(r)))), s[v], F::broadcast(kNone));
      }
      if constexpr (!kFull) s[v].store(p + 16 * v);
    }
    return reduce_max(max(max(s[0], s[1]), max(s[2], s[3])));
  }

  /// Turns a row's scores of a page into powers and brings its sum up to date.
  template <bool kFull>
  [[gnu::always_inline]] static void raise_scores(Group& g, int page, int r, int low, int high) {
    float* p = g.p[page] + r * kPageTokens;
    const F top = F::broadcast(g.max[page][r]);
    F e[kPageVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kPageVectors; ++v) {
      e[v] = F::zero();
      if (!kFull && (v < low || v >= high)) continue;
      e[v] = exp2_negative(F::load(p + 16 * v) - top);
      e[v].store(p + 16 * v);
    }
    float* sum = g.block.state.sum + (g.first + r) * 16;
    fma(F::load(sum), F::broadcast(g.alpha[page][r]), (e[0] + e[1]) + (e[2] + e[3])).store(sum);
  }

  /// All pages' maxima first, then all powers: what one row of one page waits for, the others fill.
  template <bool kFull>
  static void softmax_pages(Group& g, int low, int high) {
    float* state_max = g.block.state.max + g.first;
    for (int page = 0; page < g.block.n_pages; ++page) {
      for (int r = 0; r < g.n_rows; ++r) g.max[page][r] = mask_scores<kFull>(g, page, r, low, high);
    }
    F before = F::load_partial(state_max, g.n_rows);
    for (int page = 0; page < g.block.n_pages; ++page) {
      const F now = max(F::load_partial(g.max[page], g.n_rows), before);
      now.store(g.max[page]);
      exp2_negative(before - now).store(g.alpha[page]);
      before = now;
    }
    before.store_partial(state_max, g.n_rows);
    for (int page = 0; page < g.block.n_pages; ++page) {
      for (int r = 0; r < g.n_rows; ++r) raise_scores<kFull>(g, page, r, low, high);
    }
  }

  /// acc = acc · alpha + p · V for `n_rows` rows from `r` on, over slots [from, to).
  template <KvType kType>
  static void weigh_rows(Group& g, int page, int r, int n_rows, int64_t from, int64_t to) {
    const AttentionBlock& b = g.block;
    const std::byte* values = b.pages[page].values;
    const std::byte* ahead = (page + 1 < b.n_pages ? b.pages[page + 1] : b.next).values;
    const float* p = g.p[page] + r * kPageTokens;
    float* acc = b.state.acc + (g.first + r) * b.v_stride;
    for (int64_t column = 0; column < b.v_stride; column += 16 * kMaxVectors) {
      const auto left = static_cast<int>((b.v_stride - column) / 16);
      with_sizes(n_rows, left, [&](auto rows, auto vectors) {
        weigh<kType, rows(), vectors()>(p, g.alpha[page] + r, values, ahead, b.v_stride, from, to, column,
                                        acc);
      });
    }
  }

  /// A row never touches a slot that it doesn't see, not even with a weight of zero: the slot may hold a NaN,
  /// or a later token's values. So rows go together over the slots that all see, [from, to), and alone before
  /// and after.
  template <KvType kType>
  static void weigh_page_partly(Group& g, int64_t from, int64_t to) {
    if (from >= to) {
      for (int r = 0; r < g.n_rows; ++r) weigh_rows<kType>(g, 0, r, 1, g.begin(r), g.end(r));
      return;
    }
    for (int r = 0; r < g.n_rows; ++r) {
      if (g.begin(r) == from) continue;
      weigh_rows<kType>(g, 0, r, 1, g.begin(r), from);
      g.alpha[0][r] = 1.0F;
    }
    weigh_rows<kType>(g, 0, 0, g.n_rows, from, to);
    for (int r = 0; r < g.n_rows; ++r) {
      g.alpha[0][r] = 1.0F;
      if (g.end(r) > to) weigh_rows<kType>(g, 0, r, 1, to, g.end(r));
    }
  }

  template <KvType kType>
  static void block(const AttentionBlock& b) {
    for (int64_t first = 0; first < b.n_rows; first += kMaxRows) {
      Group g(b, first);
      const Seen seen = g.seen();
      if (seen.all_begin == 0 && seen.all_end == kPageTokens) {
        for (int page = 0; page < b.n_pages; ++page) score_page<kType>(g, page, 0, kPageVectors);
        softmax_pages<true>(g, 0, kPageVectors);
        for (int page = 0; page < b.n_pages; ++page) weigh_rows<kType>(g, page, 0, g.n_rows, 0, kPageTokens);
      } else {
        const int low = seen.any_begin / 16;
        const int high = (seen.any_end + 15) / 16;
        score_page<kType>(g, 0, low, high);
        softmax_pages<false>(g, low, high);
        weigh_page_partly<kType>(g, seen.all_begin, seen.all_end);
      }
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
  static constexpr AttentionKernels kTable = {
      {Impl::template block<KvType::f16>, Impl::template block<KvType::f32>,
       Impl::template block<KvType::q8_0>, Impl::template block<KvType::q4_0>},
      Impl::scale,
      Impl::sum_lanes,
      Impl::merge};
  return kTable;
}

}  // namespace tandem
