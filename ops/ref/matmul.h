// The slow truth of matrix products: weights dequantised by ops/quant, products and sums in double. Tests
// only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ops/core/range.h"
#include "ops/quant/tensor_type.h"

namespace tandem::ref {

/// A stored matrix: whole rows of n_cols elements, row_bytes(type, n_cols) apart.
struct StoredMatrix {
  TensorType type = TensorType::f32;
  int64_t n_rows = 0;
  int64_t n_cols = 0;
  const std::byte* data = nullptr;
};

/// Row `row` as floats: (n_cols).
std::vector<float> dequantize_row(const StoredMatrix& weight, int64_t row);

/// Σ over the columns `cols` of weight[row][col] · x[token][col - cols.begin]; x: (n_tokens, x_stride).
/// Result: (n_tokens, n_rows).
std::vector<double> matmul(const StoredMatrix& weight, Range cols, const float* x, int64_t x_stride,
                           int64_t n_tokens);

/// Σ (a - b)² / Σ b²; both (n). Not a number where either holds one.
double nmse(const float* a, const double* b, size_t n);

}  // namespace tandem::ref
