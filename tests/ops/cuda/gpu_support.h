// What the GPU tests share: is there a device, copies, and activations taken apart on the host.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "ops/cuda/activation_layout.h"
#include "ops/cuda/activations.h"

namespace tandem::cuda {

inline bool has_device() {
  int n = 0;
  const bool found = cudaGetDeviceCount(&n) == cudaSuccess && n > 0;
  return found;
}

template <class T>
DeviceBuffer<T> to_device(const std::vector<T>& host) {
  DeviceBuffer<T> buffer(host.size());
  if (!host.empty()) check(cudaMemcpy(buffer.data(), host.data(), buffer.bytes(), cudaMemcpyHostToDevice));
  check(cudaDeviceSynchronize());  // a copy from pageable memory isn't ordered with non-blocking streams
  return buffer;
}

template <class T>
std::vector<T> to_host(const T* data, size_t n) {
  std::vector<T> host(n);
  if (n != 0) check(cudaMemcpy(host.data(), data, n * sizeof(T), cudaMemcpyDeviceToHost));
  return host;
}

/// A record's column as a float, and what must be zero where the shard doesn't own it.
inline float decode(const std::byte* record, ActForm form, int col) {
  float value = 0;
  if (form == ActForm::f32) {
    std::memcpy(&value, record + 4 * col, sizeof(value));
    return value;
  }
  require(form != ActForm::f16, "halves have a scale a token");
  float scale = 0;
  std::memcpy(&scale, record + ActLayout::kMeta + 8 * (col / 32), sizeof(scale));
  const auto plane = [&](int begin) {
    return static_cast<int>(static_cast<int8_t>(record[begin + ActLayout::position(col)]));
  };
  const int q =
      form == ActForm::q8 ? plane(ActLayout::kHigh) : 128 * plane(ActLayout::kHigh) + plane(ActLayout::kLow);
  return static_cast<float>(q) * scale;
}

inline int record_bytes_of(ActForm form) {
  return form == ActForm::f32   ? ActLayout::kF32Bytes
         : form == ActForm::f16 ? ActLayout::kF16Bytes
         : form == ActForm::q8  ? ActLayout::kQ8Bytes
                                : ActLayout::kQ15Bytes;
}

/// A token's columns in halves. row: its records, and its scale behind them.
inline void decode_halves(const std::byte* row, int64_t n_segments, std::vector<float>& values) {
  float scale = 0;
  std::memcpy(&scale, row + n_segments * ActLayout::kF16Bytes, sizeof scale);
  for (int64_t col = 0; col < n_segments * kSegmentCols; ++col) {
    uint16_t bits = 0;
    std::memcpy(&bits,
                row + col / kSegmentCols * ActLayout::kF16Bytes +
                    2 * ActLayout::half_position(static_cast<int>(col % kSegmentCols)),
                sizeof bits);
    values.push_back(scale * f16_bits_to_float(bits));
  }
}

/// The columns of all tokens of activations on the device, as what they stand for: (n_tokens, columns of
/// whole segments).
inline std::vector<float> decode_all(const CudaActivations& x, int64_t n_tokens) {
  const auto bytes = to_host(x.data(), static_cast<size_t>(n_tokens * x.token_bytes()));
  std::vector<float> values;
  if (x.form() == ActForm::f16) {
    for (int64_t t = 0; t < n_tokens; ++t)
      decode_halves(bytes.data() + t * x.token_bytes(), segments_of(x.cols()).size(), values);
    return values;
  }
  for (size_t i = 0; i < bytes.size(); i += static_cast<size_t>(record_bytes_of(x.form()))) {
    for (int c = 0; c < kSegmentCols; ++c) values.push_back(decode(bytes.data() + i, x.form(), c));
  }
  return values;
}

/// Activations that were read back: (n_tokens, x's own columns).
struct Decoded {
  std::vector<float> meaning;  ///< what the form stands for
  bool padding_is_zero = true;
};
inline Decoded decode_own(const CudaActivations& x, int64_t n_tokens) {
  Decoded out;
  const std::vector<float> values = decode_all(x, n_tokens);
  const Range segments = segments_of(x.cols());
  const int64_t width = segments.size() * kSegmentCols;
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t col = segments.begin * kSegmentCols + static_cast<int64_t>(i) % width;
    if (x.cols().contains(col)) {
      out.meaning.push_back(values[i]);
    } else {
      out.padding_is_zero &= values[i] == 0.0F;
    }
  }
  return out;
}

}  // namespace tandem::cuda
