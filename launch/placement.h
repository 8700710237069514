// Which cores a rank's threads run on. Called by launch/session when it makes the CPU backend.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"

namespace tandem {

struct CpuPlacement {
  int n_threads = 1;
  std::vector<int> cpus;  ///< CPU of each thread, or empty: not bound by us
  int spin_us = 100;      ///< how long idle threads spin: 0 where ranks × threads exceed the node's cores
  std::string reason;     ///< in words, for -v
};

/// Deals the node's cores to its ranks. `n_threads` 0: as many as this rank's cores. Where the launcher has
/// bound the process (its mask is smaller than the node's), that binding is kept. Collective.
CpuPlacement place_on_cpus(int n_threads, Communicator& communicator);

/// Binds this process, threads that it has included, to the CPUs of a NUMA node (-1: none is known) unless
/// the launcher has bound it already. For ranks whose work is done by a GPU: few threads, which shall be near
/// it. Not collective. Says in words what it did.
std::string bind_to_numa_node(int numa_node);

}  // namespace tandem
