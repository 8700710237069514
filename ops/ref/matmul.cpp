#include "ops/ref/matmul.h"

#include "ops/quant/formats.h"

namespace tandem::ref {

std::vector<float> dequantize_row(const StoredMatrix& weight, int64_t row) {
  std::vector<float> values(static_cast<size_t>(weight.n_cols));
  const std::byte* stored = weight.data + row * row_bytes(weight.type, weight.n_cols);
  tandem::dequantize(weight.type, stored, weight.n_cols, values.data());
  return values;
}

std::vector<double> matmul(const StoredMatrix& weight, Range cols, const float* x, int64_t x_stride,
                           int64_t n_tokens) {
  std::vector<double> out(static_cast<size_t>(n_tokens * weight.n_rows));
  for (int64_t row = 0; row < weight.n_rows; ++row) {
    const std::vector<float> values = dequantize_row(weight, row);
    for (int64_t token = 0; token < n_tokens; ++token) {
      double sum = 0;
      for (int64_t col = cols.begin; col < cols.end; ++col) {
        const double input = x[token * x_stride + col - cols.begin];
        sum += static_cast<double>(values[static_cast<size_t>(col)]) * input;
      }
      out[static_cast<size_t>(token * weight.n_rows + row)] = sum;
    }
  }
  return out;
}

double nmse(const float* a, const double* b, size_t n) {
  double error = 0;
  double power = 0;
  for (size_t i = 0; i < n; ++i) {
    const double difference = static_cast<double>(a[i]) - b[i];
    error += difference * difference;
    power += b[i] * b[i];
  }
  return error / power;
}

}  // namespace tandem::ref
