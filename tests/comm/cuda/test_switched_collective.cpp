// The switch between ways to exchange: each is used where it is selected, none where it is silent, and no two
// states share a recorded step. Needs no GPU.
#include <gtest/gtest.h>

#include <set>

#include "comm/cuda/switched_collective.h"

namespace tandem::cuda {
namespace {

class Counting final : public DeviceCollective {
 public:
  Counting(std::string_view name, bool capturable, size_t n_windows, int& n_calls)
      : name_(name), capturable_(capturable), windows_(n_windows), n_calls_(n_calls) {}
  std::string_view name() const override { return name_; }
  bool capturable() const override { return capturable_; }
  void all_reduce(float*, int64_t, cudaStream_t) override { ++n_calls_; }
  void all_gather(const std::byte*, std::byte*, size_t, cudaStream_t) override { ++n_calls_; }
  std::span<std::byte* const> windows() const override { return windows_; }
  size_t window_bytes() const override { return windows_.size() * 64; }

 private:
  std::string_view name_;
  bool capturable_;
  std::vector<std::byte*> windows_;
  int& n_calls_;
};

TEST(SwitchedCollective, uses_what_is_selected) {
  int n_peer = 0;
  int n_mpi = 0;
  std::vector<std::unique_ptr<DeviceCollective>> ways;
  ways.push_back(std::make_unique<Counting>("peer", true, 2, n_peer));
  ways.push_back(std::make_unique<Counting>("mpi", false, 0, n_mpi));
  SwitchedCollective switched(std::move(ways), 2);
  std::set<int> variants = {switched.variant()};
  EXPECT_EQ(switched.name(), "peer");
  EXPECT_EQ(switched.windows().size(), 2U);
  switched.all_reduce(nullptr, 1, nullptr);
  switched.all_gather(nullptr, nullptr, 1, nullptr);
  EXPECT_EQ(n_peer, 2);

  switched.select(0, true);
  variants.insert(switched.variant());
  EXPECT_TRUE(switched.windows().empty());
  EXPECT_EQ(switched.window_bytes(), 0U);
  EXPECT_TRUE(switched.has_windows());
  EXPECT_TRUE(switched.capturable());
  switched.all_reduce(nullptr, 1, nullptr);
  EXPECT_EQ(n_peer, 2);

  switched.select(1, false);
  variants.insert(switched.variant());
  EXPECT_EQ(switched.name(), "mpi");
  EXPECT_FALSE(switched.capturable());
  EXPECT_FALSE(switched.has_windows());
  switched.all_reduce(nullptr, 1, nullptr);
  EXPECT_EQ(n_mpi, 1);

  switched.select(1, true);
  variants.insert(switched.variant());
  EXPECT_FALSE(switched.capturable());
  switched.all_reduce(nullptr, 1, nullptr);
  EXPECT_EQ(n_mpi, 1);
  EXPECT_EQ(variants.size(), 4U);

  switched.select(0, false);
  EXPECT_EQ(switched.windows().size(), 2U);
}

}  // namespace
}  // namespace tandem::cuda
