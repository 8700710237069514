// A matrix of the CUDA backend: tiles on the device, filled through the backend's row stager, and the form of
// activations that it is multiplied with.
#pragma once

#include "ops/cuda/gemv.h"
#include "ops/cuda/row_stager.h"

namespace tandem::cuda {

class DeviceMatrix final : public CudaMatrix {
 public:
  DeviceMatrix(TensorType type, int64_t n_rows, Range cols, InputPrecision precision, RowStager& stager)
      : CudaMatrix(type, n_rows, cols),
        form_(activation_form(type, precision == InputPrecision::wide)),
        stager_(stager) {}
  ActForm form() const { return form_; }
  void put_rows(int64_t row_begin, int64_t n_rows, const std::byte* rows, size_t row_stride) override {
    stager_.put(*this, row_begin, n_rows, rows, row_stride);
  }

 private:
  ActForm form_;
  RowStager& stager_;
};

class DeviceVector final : public Vector {
 public:
  explicit DeviceVector(std::span<const float> values) : values_(values.size()) {
    if (values.empty()) return;
    check(cudaMemcpy(values_.data(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice));
  }
  int64_t size() const override { return static_cast<int64_t>(values_.size()); }
  const float* data() const { return values_.data(); }

 private:
  DeviceBuffer<float> values_;
};

inline const DeviceMatrix& on_device(const Matrix& matrix) {
  return static_cast<const DeviceMatrix&>(matrix);
}
inline const float* on_device(const Vector* vector) {
  return vector == nullptr ? nullptr : static_cast<const DeviceVector*>(vector)->data();
}

}  // namespace tandem::cuda
