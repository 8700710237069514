// The rows of a page of the cache (ops/cpu/kv_cache.h) as floats, sixteen lanes at a time, for one
// instruction set: what attention_impl.h multiplies with. A block's value is code · scale: a product of 8
// bits by 11, so exact, and a quantised cache gives the bits of an f32 cache that holds the same values.
//
// Lines have line(k, v): lanes 16v … 16v+15 of row k, and fetch(k), which asks for the same row of a page
// that will be read next.
#pragma once

#include <cstddef>
#include <type_traits>

#include "ops/cpu/kernels/attention_kernels.h"
#include "ops/cpu/simd.h"

namespace tandem {

/// Rows of f16 or f32.
template <class Tag, class T, int kVectors>
struct PlainLines {
  using F = F32x16<Tag>;
  const T* rows;
  const T* ahead;  // the next page's, or null
  int64_t stride;  // elements from a row to the next

  [[gnu::always_inline]] void fetch(int64_t k) const {
    constexpr int64_t kLineElements = 64 / static_cast<int64_t>(sizeof(T));
    if (ahead == nullptr) return;
    for (int64_t v = 0; v < 16 * kVectors; v += kLineElements)
      __builtin_prefetch(ahead + k * stride + v, 0, 2);
  }
  [[gnu::always_inline]] F operator()(int64_t k, int v) const {
    if constexpr (std::is_same_v<T, float>) {
      return F::load(rows + k * stride + 16 * v);
    } else {
      return F::load_f16(rows + k * stride + 16 * v);
    }
  }
};

template <class Tag, KvType kType, int kVectors>
using PlainLinesOf = PlainLines<Tag, std::conditional_t<kType == KvType::f32, float, uint16_t>, kVectors>;

/// Sixteen codes as numbers. Of q4_0: the low halves of the bytes, or the high ones.
template <class Tag, KvType kType, bool kHigh>
[[gnu::always_inline]] inline F32x16<Tag> code_values(const std::byte* codes) {
  using I = I32x16<Tag>;
  if constexpr (kType == KvType::q8_0) {
    return to_float(I::load_i8(reinterpret_cast<const int8_t*>(codes)));
  } else {
    const I pairs = I::load_u8(reinterpret_cast<const uint8_t*>(codes));
    return to_float((kHigh ? shift_right<4>(pairs) : pairs & I::broadcast(15)) - I::broadcast(8));
  }
}

/// Some rows of a panel of keys: row k is a column of the head, a lane is a position. Lane l's scale is the
/// position's.
template <class Tag, KvType kType, bool kHigh, int kVectors>
struct KeyLines {
  using F = F32x16<Tag>;
  const std::byte* codes;  // (rows, kPageTokens)
  const std::byte* ahead;  // the next page's, or null
  const F (&scales)[kVectors];

  [[gnu::always_inline]] void fetch(int64_t k) const {
    if (ahead != nullptr) __builtin_prefetch(ahead + k * kPageTokens, 0, 2);
  }
  [[gnu::always_inline]] F operator()(int64_t k, int v) const {
    return code_values<Tag, kType, kHigh>(codes + k * kPageTokens + 16 * v) * scales[v];
  }
};

/// Calls f(begin, n, lines) for runs of key rows, the head's columns [begin, begin + n), in ascending order;
/// lanes: the 16·kVectors positions from 16·first on. ahead: the next page's keys, or null.
template <class Tag, KvType kType, int kVectors, class Fn>
[[gnu::always_inline]] inline void for_key_lines(const std::byte* keys, const std::byte* ahead, int64_t k_dim,
                                                 int first, Fn f) {
  if constexpr (is_quantised(kType)) {
    using F = F32x16<Tag>;
    constexpr int64_t kRows = code_bytes(kType);
    for (int64_t begin = 0; begin < k_dim; begin += kKvGroup, keys += panel_bytes(kType)) {
      F scales[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        scales[v] = F::load_f16(reinterpret_cast<const uint16_t*>(keys) + 16 * (first + v));
      const std::byte* codes = keys + kPanelCodes + 16 * first;
      const std::byte* next = ahead == nullptr ? nullptr : ahead + kPanelCodes + 16 * first;
      const int64_t left = k_dim - begin;
      f(begin, left < kRows ? left : kRows, KeyLines<Tag, kType, false, kVectors>{codes, next, scales});
      if constexpr (kType == KvType::q4_0) {
        if (left > kRows)
          f(begin + kRows, left - kRows < kRows ? left - kRows : kRows,
            KeyLines<Tag, kType, true, kVectors>{codes, nullptr, scales});
      }
      if (ahead != nullptr) ahead += panel_bytes(kType);
    }
  } else {
    using Lines = PlainLinesOf<Tag, kType, kVectors>;
    using T = std::remove_cvref_t<decltype(*Lines::rows)>;
    const auto at = [&](const std::byte* p) {
      return p == nullptr ? nullptr : reinterpret_cast<const T*>(p) + 16 * first;
    };
    f(0, k_dim, Lines{at(keys), at(ahead), kPageTokens});
  }
}

/// Value rows from position `from` on: a lane is a column of the head. kHigh: of the first sixteen columns,
/// whether they are the upper half of their block.
template <class Tag, KvType kType, bool kHigh, int kVectors>
struct ValueLines {
  using F = F32x16<Tag>;
  static constexpr int kPanels = (kVectors + static_cast<int>(kHigh) + 1) / 2;
  const std::byte* panel;  // that of the first column
  const std::byte* ahead;  // the next page's, or null
  int64_t from;
  const float (&scales)[kPanels][kPageTokens];  // of all positions

  [[gnu::always_inline]] static int64_t offset(int64_t position) {
    return kPanelCodes + position * code_bytes(kType);
  }
  [[gnu::always_inline]] void fetch(int64_t k) const {
    if (ahead == nullptr) return;
    for (int i = 0; i < kPanels; ++i)
      __builtin_prefetch(ahead + i * panel_bytes(kType) + offset(from + k), 0, 2);
  }
  [[gnu::always_inline]] F operator()(int64_t k, int v) const {
    const int half = v + static_cast<int>(kHigh);
    const std::byte* codes = panel + (half / 2) * panel_bytes(kType) + offset(from + k);
    const F scale = F::broadcast(scales[half / 2][from + k]);
    if constexpr (kType == KvType::q8_0) codes += 16 * (half % 2);
    return (half % 2 == 0 ? code_values<Tag, kType, false>(codes) : code_values<Tag, kType, true>(codes)) *
           scale;
  }
};

template <class Tag, KvType kType, bool kHigh, int kVectors, class Fn>
[[gnu::always_inline]] inline void with_panels(const std::byte* panel, const std::byte* ahead, int64_t from,
                                               Fn f) {
  using Lines = ValueLines<Tag, kType, kHigh, kVectors>;
  alignas(64) float scales[Lines::kPanels][kPageTokens];
  for (int i = 0; i < Lines::kPanels; ++i) {
    const auto* halves = reinterpret_cast<const uint16_t*>(panel + i * panel_bytes(kType));
    for (int64_t p = 0; p < kPageTokens; p += 16) F32x16<Tag>::load_f16(halves + p).store(scales[i] + p);
  }
  f(Lines{panel, ahead, from, scales});
}

/// Calls f(lines) with the value rows from position `from` on, the 16·kVectors columns from `column` on.
/// ahead: the next page's values, or null.
template <class Tag, KvType kType, int kVectors, class Fn>
[[gnu::always_inline]] inline void with_value_lines(const std::byte* values, const std::byte* ahead,
                                                    int64_t stride, int64_t from, int64_t column, Fn f) {
  if constexpr (is_quantised(kType)) {
    const int64_t offset = column / kKvGroup * panel_bytes(kType);
    const std::byte* next = ahead == nullptr ? nullptr : ahead + offset;
    if (column % kKvGroup == 0) {
      with_panels<Tag, kType, false, kVectors>(values + offset, next, from, f);
    } else if constexpr (kVectors == 1) {
      with_panels<Tag, kType, true, kVectors>(values + offset, next, from, f);
    }
  } else {
    using Lines = PlainLinesOf<Tag, kType, kVectors>;
    using T = std::remove_cvref_t<decltype(*Lines::rows)>;
    const auto at = [&](const std::byte* p) {
      return p == nullptr ? nullptr : reinterpret_cast<const T*>(p) + from * stride + column;
    };
    f(Lines{at(values), at(ahead), stride});
  }
}

}  // namespace tandem
