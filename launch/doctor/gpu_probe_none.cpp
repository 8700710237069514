// GPU measurements in a build without CUDA: nobody gets here, because no GPU is visible to it.
#include <nlohmann/json.hpp>

#include "launch/doctor/gpu_probe.h"
#include "ops/core/check.h"

namespace tandem {

nlohmann::json probe_gpu(Communicator&, const GpuInfo&) {
  require(false, "a GPU is measured in a build without CUDA");
  return {};
}

double measure_gpu_read_gbps(Communicator&, const GpuInfo&) {
  require(false, "a GPU is measured in a build without CUDA");
  return 0;
}

nlohmann::json probe_gpu_exchange(Communicator&, bool) {
  require(false, "GPUs are measured in a build without CUDA");
  return {};
}

}  // namespace tandem
