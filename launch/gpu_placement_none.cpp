// GPUs in a build without CUDA.
#include "launch/gpu_placement.h"
#include "ops/core/error.h"

namespace tandem {

std::vector<GpuInfo> visible_gpus(std::string& why_none) {
  why_none = "this build has no CUDA backend";
  return {};
}

GpuPlacement place_on_gpu(Communicator&, bool) {
  throw Error(ExitCode::unavailable, "this build has no CUDA backend", "build with the preset cuda");
}

bool cuda_built() {
  return false;
}

std::string cuda_text() {
  return "not built in";
}

std::string nccl_text() {
  return "not built in";
}

}  // namespace tandem
