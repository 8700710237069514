#include "comm/cuda/switched_collective.h"

#include <utility>

#include "ops/core/check.h"

namespace tandem::cuda {
namespace {

class SilentCollective final : public DeviceCollective {
 public:
  std::string_view name() const override { return "silent"; }
  bool capturable() const override { return true; }
  void all_reduce(float*, int64_t, cudaStream_t) override {}
  std::span<std::byte* const> windows() const override { return {}; }
  size_t window_bytes() const override { return 0; }
};

}  // namespace

std::unique_ptr<DeviceCollective> make_silent_collective() {
  return std::make_unique<SilentCollective>();
}

SwitchedCollective::SwitchedCollective(std::vector<std::unique_ptr<DeviceCollective>> ways)
    : ways_(std::move(ways)) {
  require(!ways_.empty(), "a switch without a way");
}

void SwitchedCollective::select(size_t index) {
  require(index < ways_.size(), "there is no such way to exchange", index, ways_.size());
  index_ = index;
}

}  // namespace tandem::cuda
