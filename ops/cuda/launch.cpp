#include "ops/cuda/launch.h"

#include <unordered_map>

#include "ops/cuda/status.h"

namespace tandem::cuda {

namespace {

const cudaFuncAttributes& attributes_of(const void* kernel) {
  thread_local std::unordered_map<const void*, cudaFuncAttributes> known;
  const auto [place, is_new] = known.try_emplace(kernel);
  if (is_new) check(cudaFuncGetAttributes(&place->second, kernel));
  return place->second;
}

}  // namespace

int code_version(const void* kernel) {
  return attributes_of(kernel).ptxVersion;
}

bool is_hopper_code(const void* kernel) {
  return code_version(kernel) >= 90;
}

bool is_code_of_hopper_only(const void* kernel) {
  // Made for 9.0 without its own instructions, these kernels are empty: they take a handful of registers.
  constexpr int kLeastRegisters = 64;
  const cudaFuncAttributes& attributes = attributes_of(kernel);
  return attributes.ptxVersion == 90 && attributes.binaryVersion == 90 &&
         attributes.numRegs >= kLeastRegisters;
}

void launch(const void* kernel, const LaunchShape& shape, void* args, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.n_blocks), static_cast<unsigned>(shape.n_rows),
                        static_cast<unsigned>(shape.n_planes));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  constexpr int64_t kAlwaysAllowed = 48 * 1024;
  if (shape.shared_bytes > kAlwaysAllowed) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)));
  }
  cudaLaunchAttribute attributes[2]{};
  config.attrs = attributes;
  if (shape.early && is_hopper_code(kernel)) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = 1;
  }
  void* arguments[] = {args};
  check(cudaLaunchKernelExC(&config, kernel, arguments));
}

}  // namespace tandem::cuda
