// NCCL in a build that found no nccl.h.
#include "comm/cuda/nccl_collective.h"

namespace tandem::cuda {

const NcclInfo& nccl_info() {
  static const NcclInfo info{.found = false, .text = "this build has no NCCL"};
  return info;
}

std::unique_ptr<DeviceCollective> make_nccl_collective(Communicator&, std::string& why_not, NcclRoad) {
  why_not = nccl_info().text;
  return nullptr;
}

}  // namespace tandem::cuda
