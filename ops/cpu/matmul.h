// Matrix products of the CPU backend: packed weights × activations. Serial over the panels it is given; the
// backend shares panels out to threads. Everything here gives the same bits for a (row, token) whatever the
// number of tokens, the panel range, the instruction set or the split.
//
// Packed layout: a panel is 16 rows; a SIMD lane is a row, so that a dot product never sums across lanes and
// each row adds its groups of 32 columns in column order. The truth of a format stays ops/quant's group().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "ops/core/range.h"
#include "ops/cpu/activations.h"
#include "ops/cpu/isa.h"
#include "ops/quant/tensor_type.h"

namespace tandem {

inline constexpr int64_t kPanelRows = 16;

/// Gives mapped pages back.
struct UnmapPages {
  size_t bytes = 0;
  void operator()(std::byte* p) const;
};

/// A shard of a weight matrix: all of its local rows, and the columns `cols` of the stored matrix.
/// For quantised formats `cols` begins and ends at multiples of 32 (or at the row's end); it may begin inside
/// a 256-element super-block.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(TensorType type, int64_t n_rows, Range cols);

  /// What bytes() of such a matrix is.
  static size_t bytes_of(TensorType type, int64_t n_rows, Range cols);

  TensorType type() const { return type_; }
  int64_t n_rows() const { return n_rows_; }
  int64_t n_cols() const { return cols_.size(); }
  Range cols() const { return cols_; }
  int64_t n_panels() const { return ceil_div(n_rows_, kPanelRows); }
  bool empty() const { return n_rows_ == 0 || cols_.empty(); }
  size_t bytes() const { return bytes_; }

  /// Packs local rows [row_begin, row_begin + n_rows). `rows` holds whole rows of the file as stored (all of
  /// the stored matrix's columns), `row_stride` bytes apart. Different row ranges may be put from different
  /// threads as long as no panel is shared.
  void put_rows(int64_t row_begin, int64_t n_rows, const std::byte* rows, size_t row_stride);

  /// One row as floats, exactly the values the format stands for. out: (n_cols)
  void dequantize_row(int64_t row, float* out) const;

  const std::byte* data() const { return memory_.get(); }

 private:
  TensorType type_ = TensorType::f32;
  int64_t n_rows_ = 0;
  Range cols_;
  size_t bytes_ = 0;
  std::unique_ptr<std::byte, UnmapPages> memory_;
};

/// What form of activations a product with this format reads. `wide`: the more precise one where there is a
/// choice.
ActForm activation_form(TensorType type, bool wide);

/// out[token][row] = Σ_col weight[row][col] · x[token][col], for the rows of `panels` and for `tokens`.
/// out: (n_tokens, out_stride), indexed by the matrix's local row. `form` must be present in `x`.
void matmul(const PackedMatrix& weight, const Activations& x, ActForm form, Range panels, Range tokens,
            float* out, int64_t out_stride, Isa isa = best_isa());

/// The row-split form: adds this shard's share to fixed-point sums (ops/core/fixed_point.h).
/// Floats are added within chunks of `chunk_cols` columns (chunks begin at multiples of chunk_cols of the
/// *stored* matrix; the last may be short), each chunk's sum is rounded to fixed point, and those are added
/// exactly; shards begin and end at chunk boundaries, so the total doesn't depend on the split. False where a
/// chunk's sum is out of range or not a number. out: (n_tokens, out_stride)
[[nodiscard]] bool matmul_partial(const PackedMatrix& weight, const Activations& x, ActForm form,
                                  int64_t chunk_cols, Range panels, Range tokens, int64_t* out,
                                  int64_t out_stride, Isa isa = best_isa());

}  // namespace tandem
