// Several ways to exchange behind one door, of which one is in use, or none: `tandem bench` compares them on
// a model that is loaded once. Made by launch/gpu_backend where that is asked for; lives in the backend.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/cuda/collective.h"

namespace tandem::cuda {

class SwitchedCollective final : public DeviceCollective {
 public:
  /// From one on; the first is in use.
  SwitchedCollective(std::vector<std::unique_ptr<DeviceCollective>> ways, int n_ranks);

  /// Collective in effect: every rank chooses the same between the same two steps. `silent`: partial sums
  /// stay where they are, every rank goes on with its own, and all else is as it was. Results are then wrong,
  /// and speeds those of everything but the exchange: what `bench --breakdown` subtracts.
  void select(size_t index, bool silent);

  std::string_view name() const override { return current().name(); }
  bool capturable() const override { return current().capturable(); }
  void all_reduce(float* partial, int64_t n, cudaStream_t stream) override {
    if (!silent_) current().all_reduce(partial, n, stream);
  }
  void all_gather(const std::byte* mine, std::byte* all, size_t n_bytes, cudaStream_t stream) override;
  bool bulk_capturable() const override { return current().bulk_capturable(); }
  std::span<std::byte* const> windows() const override {
    return silent_ ? std::span<std::byte* const>() : current().windows();
  }
  size_t window_bytes() const override { return silent_ ? 0 : current().window_bytes(); }
  bool has_windows() const override { return current().has_windows(); }
  void check_health() override { current().check_health(); }
  int variant() const override { return static_cast<int>(2 * index_) + (silent_ ? 1 : 0); }

 private:
  DeviceCollective& current() const { return *ways_[index_]; }

  std::vector<std::unique_ptr<DeviceCollective>> ways_;
  int n_ranks_;
  size_t index_ = 0;
  bool silent_ = false;
};

}  // namespace tandem::cuda
