// The input of matrix products: a (n_tokens × n_cols) matrix in the forms that its consumers want. Filled by
// norm, SwiGLU or attention (as floats), quantised in groups of 32 columns, read by ops/cpu/matmul.
//
// Forms:  f32  the floats themselves, for F32/F16/BF16 weights
//         q8   int8 q in [-127,127] and a scale a group: x ~ scale * q
//         q15  two int8 planes, x ~ scale * (128 * high + low), low in [-64,63]: 15-bit precision for twice
//         the
//              dot products, used where rounding costs most (the input of ffn_down and of the head)
// A group's integer sums are kept beside its scale: formats with an offset or a minimum multiply them.
// Quantising a group depends on that group's 32 floats alone, so the bits don't depend on batch or split.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "ops/core/range.h"
#include "ops/cpu/isa.h"

namespace tandem {

inline constexpr int64_t kActGroup = 32;

enum class ActForm : uint8_t { f32 = 1, q8 = 2, q15 = 4 };

/// A set of forms.
struct ActForms {
  uint8_t bits = 0;
  constexpr bool has(ActForm f) const { return (bits & static_cast<uint8_t>(f)) != 0; }
  constexpr ActForms with(ActForm f) const { return {static_cast<uint8_t>(bits | static_cast<uint8_t>(f))}; }
};

class Activations {
 public:
  /// Sizes the buffers for the given forms; keeps memory it already has. Contents are undefined afterwards.
  /// n_cols is padded up to a multiple of kActGroup inside; the padding floats must be written as zeros.
  void reshape(int64_t n_tokens, int64_t n_cols, ActForms forms);

  /// Bytes that reshape() of these takes.
  static size_t bytes_of(int64_t n_tokens, int64_t n_cols, ActForms forms);

  int64_t n_tokens() const { return n_tokens_; }
  int64_t n_cols() const { return n_cols_; }
  int64_t padded_cols() const { return round_up(n_cols_, kActGroup); }
  int64_t n_groups() const { return ceil_div(n_cols_, kActGroup); }
  ActForms forms() const { return forms_; }

  float* f32_row(int64_t token) { return f32_ + token * padded_cols(); }  // (padded_cols)
  const float* f32_row(int64_t token) const { return f32_ + token * padded_cols(); }

  // q8 or q15's high plane, and q15's low plane: (n_tokens, padded_cols)
  int8_t* high_row(ActForm form, int64_t token);
  const int8_t* high_row(ActForm form, int64_t token) const;
  int8_t* low_row(int64_t token);
  const int8_t* low_row(int64_t token) const;
  // scales (n_tokens, n_groups); sums of the group's integers, and of its first 16 alone (n_tokens, n_groups)
  float* scales(ActForm form, int64_t token);
  const float* scales(ActForm form, int64_t token) const;
  int32_t* sums(ActForm form, int64_t token);
  const int32_t* sums(ActForm form, int64_t token) const;
  int32_t* first_sums(ActForm form, int64_t token);
  const int32_t* first_sums(ActForm form, int64_t token) const;

  size_t capacity_bytes() const { return capacity_; }

 private:
  struct Plane {
    int8_t* values = nullptr;
    float* scales = nullptr;
    int32_t* sums = nullptr;
    int32_t* first_sums = nullptr;
  };
  size_t cut(std::byte* base);
  const Plane& plane(ActForm form) const { return form == ActForm::q8 ? q8_ : q15_; }

  int64_t n_tokens_ = 0;
  int64_t n_cols_ = 0;
  ActForms forms_;
  float* f32_ = nullptr;
  Plane q8_;
  Plane q15_;
  int8_t* q15_low_ = nullptr;
  struct FreeDeleter {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, FreeDeleter> memory_;
  size_t capacity_ = 0;
};

/// Fills every quantised form of `tokens` from the floats: scale = amax / 127 (q8) or amax / 16319 (q15),
/// values rounded to nearest even. A group whose largest magnitude is below 1e-36 becomes zeros. False where
/// a value is not finite.
[[nodiscard]] bool quantize(Activations& activations, Range tokens, Isa isa = best_isa());

}  // namespace tandem
