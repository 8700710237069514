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

/// All ranks' GPUs together: {peer: {works, why_not, gbps[from][to]}, all_reduce: [{bytes, nccl_us,
/// mpi_us}]}, whole on every rank. Collective.
nlohmann::json probe_gpu_exchange(Communicator& comm);

}  // namespace tandem
