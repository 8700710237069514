#include "launch/gpu_placement.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <launch/build_info.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>

#include "comm/cuda/nccl_collective.h"
#include "launch/placement.h"
#include "ops/cuda/status.h"

namespace tandem {
namespace {

std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU";
  for (size_t i = 0; i < sizeof uuid.bytes; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(uuid.bytes[i]));
  }
  return text;
}

int numa_node_of(const std::string& pci_bus_id) {
  std::ifstream file("/sys/bus/pci/devices/" + pci_bus_id + "/numa_node");
  int node = -1;
  return file >> node ? node : -1;
}

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::string version_text(int code) {
  return fmt::format("{}.{}", code / 1000, code % 1000 / 10);
}

}  // namespace

std::vector<GpuInfo> visible_gpus(std::string& why_none) {
  int n = 0;
  const cudaError_t status = cudaGetDeviceCount(&n);
  if (status != cudaSuccess || n == 0) {
    cudaGetLastError();
    int driver = 0;
    const bool has_driver = cudaDriverGetVersion(&driver) == cudaSuccess && driver != 0;
    why_none = !has_driver             ? "no NVIDIA driver is loaded"
               : status == cudaSuccess ? "no GPU is visible"
                                       : cudaGetErrorString(status);
    return {};
  }
  std::vector<GpuInfo> gpus;
  for (int device = 0; device < n; ++device) {
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, device));
    std::array<char, 32> bus_id{};
    cuda::check(cudaDeviceGetPCIBusId(bus_id.data(), static_cast<int>(bus_id.size()), device));
    GpuInfo gpu;
    gpu.device = device;
    gpu.name = properties.name;
    gpu.uuid = uuid_text(properties.uuid);
    gpu.pci_bus_id = bus_id.data();
    std::transform(gpu.pci_bus_id.begin(), gpu.pci_bus_id.end(), gpu.pci_bus_id.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    gpu.numa_node = numa_node_of(gpu.pci_bus_id);
    gpu.capability = 10 * properties.major + properties.minor;
    gpu.n_multiprocessors = properties.multiProcessorCount;
    gpu.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

GpuPlacement place_on_gpu(Communicator& communicator, bool allow_share) {
  std::string why_none;
  const RankView mine{
      .host = host_name(), .launcher_local_rank = launcher_local_rank(), .gpus = visible_gpus(why_none)};
  std::vector<RankView> all;
  for (const std::string& text : communicator.gather_text(to_text(mine)))
    all.push_back(rank_view_from_text(text));
  const std::vector<GpuChoice> choices = choose_gpus(all, allow_share);
  const GpuChoice& choice = choices[static_cast<size_t>(communicator.rank())];
  GpuPlacement placement;
  placement.gpu = mine.gpus[static_cast<size_t>(choice.gpu)];
  placement.shared = choice.shared;
  placement.lines = describe_choices(all, choices);
  placement.binding = bind_to_numa_node(placement.gpu.numa_node);
  cuda::check(cudaSetDevice(placement.gpu.device));
  return placement;
}

bool cuda_built() {
  return true;
}

std::string cuda_text() {
  int driver = 0;
  int runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  return fmt::format("{}, runtime {}, {}", kCuda, version_text(runtime),
                     driver == 0 ? "no driver here" : "driver for " + version_text(driver));
}

std::string nccl_text() {
  return cuda::nccl_info().text;
}

}  // namespace tandem
