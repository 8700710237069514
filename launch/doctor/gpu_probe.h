// What `tandem doctor` measures on GPUs. gpu_probe_none.cpp stands in where CUDA isn't built in. Called by
// launch/commands/doctor.cpp only, after launch/gpu_placement.h has chosen the device.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "comm/communicator.h"
#include "launch/gpu_plan.h"

namespace tandem {

/// This rank's GPU: facts (driver, memory, links), read_gbps by size, fp16_tflops (or fp16_why), host_to_gpu
/// and gpu_to_host GB/s. All ranks at once; collective.
nlohmann::json probe_gpu(Communicator& comm, const GpuInfo& gpu);

/// How fast this rank's GPU reads its memory, in GB/s, over up to 1 GiB of what is free. All ranks at once;
/// collective.
double measure_gpu_read_gbps(Communicator& comm, const GpuInfo& gpu);

/// All ranks' GPUs together: {peer: {works, why_not, gbps[from][to]}, all_reduce: {sizes: [{bytes,
/// peer_fused_us, nccl_us, mpi_us}], why_no_nccl}}, whole on every rank. peer_fused_us includes residual,
/// norm and quantisation, in a graph of such kernels; the others are the sum alone. Collective. `shared`:
/// this rank's GPU is another's too; then kernels can't wait for each other, and peer_fused_us is null.
nlohmann::json probe_gpu_exchange(Communicator& comm, bool shared);

}  // namespace tandem
