#include "comm/cuda/switched_collective.h"

#include <utility>

#include "ops/core/check.h"

namespace tandem::cuda {

SwitchedCollective::SwitchedCollective(std::vector<std::unique_ptr<DeviceCollective>> ways)
    : ways_(std::move(ways)) {
  require(!ways_.empty(), "a switch without a way");
}

void SwitchedCollective::select(size_t index, bool silent) {
  require(index < ways_.size(), "there is no such way to exchange", index, ways_.size());
  index_ = index;
  silent_ = silent;
}

}  // namespace tandem::cuda
