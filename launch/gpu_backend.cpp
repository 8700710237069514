#include "launch/gpu_backend.h"

#include <fmt/format.h>

#include "comm/cuda/collectives.h"
#include "comm/cuda/switched_collective.h"
#include "launch/gpu_placement.h"
#include "ops/core/error.h"
#include "ops/cuda/backend.h"
#include "ops/cuda/bulk_windows.h"

namespace tandem {

GpuBackend make_gpu_backend(const GpuRequest& request, Communicator& communicator) {
  const GpuPlacement placement = place_on_gpu(communicator, request.allow_share);
  GpuBackend out;
  out.lines = placement.lines;
  out.binding = placement.binding;
  CudaBackendOptions options;
  options.device = placement.gpu.device;
  options.rank = communicator.rank();
  options.shared = placement.shared;
  options.graphs = request.graphs;
  options.deterministic = request.deterministic;
  options.mem_fraction = request.mem_fraction;
  const int n_ranks = communicator.size();
  options.bulk = cuda::bulk_window(n_ranks, request.n_embd, request.n_vocab, request.max_tokens);
  out.gpu = placement.gpu;
  std::vector<std::unique_ptr<cuda::DeviceCollective>> ways;
  for (const std::string& comm : request.comms) {
    const cuda::WindowRequest windows{.n_bytes = static_cast<size_t>(options.bulk.end()),
                                      .copies = options.bulk.slot_bytes != 0};
    const auto order = request.deterministic ? cuda::SumOrder::ranked : cuda::SumOrder::any;
    cuda::CollectiveChoice choice =
        cuda::make_collective(cuda::parse_comm_kind(comm), communicator, windows, order);
    ways.push_back(std::move(choice.collective));
    out.way_names.emplace_back(ways.back()->name());
    if (communicator.size() > 1) out.lines.push_back("all-reduce: " + choice.reason);
  }
  if (communicator.size() == 1) {  // nobody to exchange with: the backend needs no way at all
    out.backend = make_cuda_backend(options, nullptr);
  } else if (ways.size() == 1 && !request.can_be_silent) {
    out.backend = make_cuda_backend(options, std::move(ways[0]));
  } else {
    auto switched = std::make_unique<cuda::SwitchedCollective>(std::move(ways), communicator.size());
    out.select_comm = [ways = switched.get()](size_t way, bool silent) { ways->select(way, silent); };
    out.backend = make_cuda_backend(options, std::move(switched));
  }
  return out;
}

}  // namespace tandem
