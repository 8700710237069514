// Several ways to exchange behind one door, of which one is in use: `tandem bench` compares them on a model
// that is loaded once. Made by launch/gpu_backend where more than one is asked for; lives in the backend.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/cuda/collective.h"

namespace tandem::cuda {

/// Exchanges nothing: every rank goes on with its own partial sums. Results are wrong, speeds those of the
/// kernels alone: what `bench --breakdown` subtracts.
std::unique_ptr<DeviceCollective> make_silent_collective();

class SwitchedCollective final : public DeviceCollective {
 public:
  /// From one on; the first is in use.
  explicit SwitchedCollective(std::vector<std::unique_ptr<DeviceCollective>> ways);

  /// Collective in effect: every rank chooses the same one between the same two steps.
  void select(size_t index);

  std::string_view name() const override { return current().name(); }
  bool capturable() const override { return current().capturable(); }
  void all_reduce(float* partial, int64_t n, cudaStream_t stream) override {
    current().all_reduce(partial, n, stream);
  }
  bool bulk_capturable() const override { return current().bulk_capturable(); }
  std::span<std::byte* const> windows() const override { return current().windows(); }
  size_t window_bytes() const override { return current().window_bytes(); }
  void check_health() override { current().check_health(); }
  int variant() const override { return static_cast<int>(index_); }

 private:
  DeviceCollective& current() const { return *ways_[index_]; }

  std::vector<std::unique_ptr<DeviceCollective>> ways_;
  size_t index_ = 0;
};

}  // namespace tandem::cuda
