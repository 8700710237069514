#include "launch/gpu_backend.h"

#include <fmt/format.h>

#include "comm/cuda/collectives.h"
#include "launch/gpu_placement.h"
#include "ops/core/error.h"
#include "ops/cuda/backend.h"
#include "ops/cuda/sampling_windows.h"

namespace tandem {

GpuBackend make_gpu_backend(const GpuRequest& request, Communicator& communicator) {
  const GpuPlacement placement = place_on_gpu(communicator, request.allow_share);
  GpuBackend out;
  out.lines = placement.lines;
  out.binding = placement.binding;
  CudaBackendOptions options;
  options.device = placement.gpu.device;
  options.rank = communicator.rank();
  options.graphs = request.graphs;
  options.mem_fraction = request.mem_fraction;
  std::unique_ptr<cuda::DeviceCollective> collective;
  if (communicator.size() > 1) {
    const auto n_bytes =
        static_cast<size_t>(cuda::whole_window_bytes(communicator.size(), request.n_embd, request.n_vocab));
    cuda::CollectiveChoice choice =
        cuda::make_collective(cuda::parse_comm_kind(request.comm), communicator, n_bytes);
    collective = std::move(choice.collective);
    out.lines.push_back("all-reduce: " + choice.reason);
  }
  out.backend = make_cuda_backend(options, std::move(collective));
  return out;
}

}  // namespace tandem
