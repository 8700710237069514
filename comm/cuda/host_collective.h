// All-reduces through MPI: on device memory by an MPI library that takes it, else through pinned host memory
// and the communicator's own exchange. Works everywhere, and is the slowest. Called by
// comm/cuda/collectives.cpp.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "ops/cuda/collective.h"

namespace tandem::cuda {

enum class HostRoad {
  automatic,  ///< by the library where all ranks' libraries take device memory
  staged,     ///< through pinned memory, always
};

/// Collective. all_reduce() synchronises with its stream, and can't be recorded in a graph.
std::unique_ptr<DeviceCollective> make_host_collective(Communicator& comm,
                                                       HostRoad road = HostRoad::automatic);

}  // namespace tandem::cuda
