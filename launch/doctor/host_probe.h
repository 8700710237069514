// What `tandem doctor` learns of the host that a rank runs on: facts from the system, and two measurements
// with all ranks at work. Called by launch/commands/doctor.cpp only.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "comm/communicator.h"
#include "launch/placement.h"

namespace tandem {

/// host, cpu, cpus, usable_cpus, numa_nodes, memory_bytes, available_bytes. Not collective.
nlohmann::json host_facts();

/// How fast this rank's threads read memory, in GB/s, while those of the other ranks do. Collective.
double measure_memory_gbps(Communicator& comm, const CpuPlacement& placement);

/// The exchange of partial sums in host memory (fill, publish, add up), by size: [{bytes, us}], as rank 0
/// sees it. Collective.
nlohmann::json measure_host_exchange(Communicator& comm);

}  // namespace tandem
