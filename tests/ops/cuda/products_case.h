// Cases of products of many tokens for the GPU tests: random inputs in a form, with what the form stands for;
// matrices on the device, and a run of their product.
#pragma once

#include <cmath>
#include <random>

#include "ops/cuda/products.h"
#include "tests/ops/cuda/gpu_support.h"
#include "tests/support/random_matrix.h"

namespace tandem::cuda {

using testing::random_matrix;
using testing::RandomMatrix;

inline constexpr double kTolerance = 1e-6;  // NMSE: weights are rounded to 11 bits twice

/// Values that depend on (token, stored column) alone.
inline std::vector<float> floats_of(int64_t n_tokens, Range cols, float size) {
  std::vector<float> x;
  for (int64_t t = 0; t < n_tokens; ++t) {
    std::mt19937 random(static_cast<uint32_t>(1000 + t));
    std::normal_distribution<float> normal(0.2F, 1.0F);
    for (int64_t c = 0; c < cols.end; ++c) {
      const float value = normal(random) * size * (t % 3 == 1 ? 1e-3F : 1.0F);
      if (c >= cols.begin) x.push_back(value);
    }
  }
  return x;
}

struct Input {
  CudaActivations device;
  std::vector<float> given;    // (n_tokens, cols)
  std::vector<float> meaning;  // (n_tokens, cols): what the form stands for
  int64_t n_tokens = 0;
  bool padding_is_zero = true;
};

inline Input make_input(int64_t n_tokens, Range cols, ActForm form, float size = 1.0F) {
  Input input{CudaActivations(n_tokens, cols, form), floats_of(n_tokens, cols, size), {}, n_tokens};
  const DeviceBuffer<float> x = to_device(input.given);
  const Stream stream;
  input.device.fill(x.data(), cols.size(), n_tokens, nullptr, stream.get());
  stream.synchronize();
  const Decoded decoded = decode_own(input.device, n_tokens);
  input.meaning = decoded.meaning;
  input.padding_is_zero = decoded.padding_is_zero;
  return input;
}

inline CudaMatrix upload(const RandomMatrix& m, Range cols) {
  CudaMatrix matrix(m.stored.type, m.stored.n_rows, cols);
  matrix.put_rows(0, m.stored.n_rows, m.bytes.data(), m.row_stride);
  return matrix;
}

inline double nmse(const std::vector<float>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  return ref::nmse(a.data(), b.data(), b.size());
}

/// (n_tokens, n_rows) of each part, poisoned before.
inline std::vector<std::vector<float>> multiply(Products& products,
                                                const std::vector<const CudaMatrix*>& weights, const Input& x,
                                                GemvOptions options = {}, const std::vector<float>& bias = {},
                                                bool prompt = false) {
  const DeviceBuffer<float> device_bias = to_device(bias);
  std::vector<DeviceBuffer<float>> outs;
  std::vector<GemvOperand> parts;
  for (const CudaMatrix* weight : weights) {
    outs.push_back(to_device(std::vector<float>(static_cast<size_t>(x.n_tokens * weight->n_rows()), NAN)));
    parts.push_back(
        {weight, bias.empty() ? nullptr : device_bias.data(), outs.back().data(), weight->n_rows()});
  }
  const Stream stream;
  products.multiply(parts, x.device, x.n_tokens, options, stream.get(), prompt);
  stream.synchronize();
  std::vector<std::vector<float>> results;
  for (const DeviceBuffer<float>& out : outs) results.push_back(to_host(out.data(), out.size()));
  return results;
}

}  // namespace tandem::cuda
