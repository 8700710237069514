// Times a product's roads on the device with the model's own weights. Called by backend_roads.cpp, between
// loading and the first step.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "ops/cuda/products.h"

namespace tandem::cuda {

class RoadTimer {
 public:
  /// `alike`: the parts of products of one shape, which are multiplied in turn; at least one, each with rows
  /// and columns. `form`: of few tokens. All stay the caller's, and have their roads back after each call.
  RoadTimer(Products& products, std::vector<std::vector<CudaMatrix*>> alike, ActForm form, bool early);

  /// Device memory for inputs and outputs, at most.
  size_t bytes() const;

  /// `of_expert`: the first road's end stays as it is. `behind_gate`: as Product; where the first two roads
  /// meet, the upper one's time is with the rounding of its input. Some tens of milliseconds.
  Roads measure(bool of_expert, bool behind_gate = false);

 private:
  bool takes_halves() const;
  int32_t last_token(Road lower, Road upper, bool upper_fills, int32_t least, int32_t built_in,
                     std::span<const int32_t> n_tokens);
  double time_us(Road road, bool fills, int64_t n_tokens);
  void multiply_all(CudaActivations& x, bool fills, int64_t n_tokens);
  CudaActivations& input(ActForm form);

  Products& products_;
  std::vector<std::vector<CudaMatrix*>> alike_;
  ActForm form_;
  bool early_;
  int64_t n_rows_ = 0;  ///< of all parts
  int64_t most_tokens_ = 0;
  Stream stream_;
  DeviceBuffer<float> out_;  // (parts)(most_tokens, the part's rows)
  std::array<std::optional<CudaActivations>, kActForms> inputs_;
};

}  // namespace tandem::cuda
