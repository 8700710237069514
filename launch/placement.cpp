#include "launch/placement.h"

#include <fmt/format.h>
#include <hwloc.h>

#include <algorithm>
#include <memory>

#include "ops/core/error.h"

namespace tandem {
namespace {

struct TopologyDeleter {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<std::remove_pointer_t<hwloc_topology_t>, TopologyDeleter>;

struct BitmapDeleter {
  void operator()(hwloc_bitmap_t bitmap) const { hwloc_bitmap_free(bitmap); }
};
using Bitmap = std::unique_ptr<std::remove_pointer_t<hwloc_bitmap_t>, BitmapDeleter>;

Topology load_topology() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) throw Error(ExitCode::unavailable, "hwloc can't start");
  Topology topology(raw);
  if (hwloc_topology_load(raw) != 0)
    throw Error(ExitCode::unavailable, "hwloc can't read this machine's topology");
  return topology;
}

/// The first CPU (hardware thread) of each core that `mask` allows.
std::vector<int> first_cpu_of_cores(hwloc_topology_t topology, hwloc_const_bitmap_t mask) {
  std::vector<int> cpus;
  const int n_cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
  for (int i = 0; i < n_cores; ++i) {
    const Bitmap allowed(hwloc_bitmap_alloc());
    hwloc_bitmap_and(allowed.get(),
                     hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, static_cast<unsigned>(i))->cpuset, mask);
    if (!hwloc_bitmap_iszero(allowed.get())) cpus.push_back(hwloc_bitmap_first(allowed.get()));
  }
  if (cpus.empty()) {  // a machine that tells of no cores
    for (int cpu = hwloc_bitmap_first(mask); cpu >= 0; cpu = hwloc_bitmap_next(mask, cpu))
      cpus.push_back(cpu);
  }
  return cpus;
}

}  // namespace

CpuPlacement place_on_cpus(int n_threads, Communicator& communicator) {
  const Topology topology = load_topology();
  const hwloc_const_bitmap_t machine = hwloc_topology_get_allowed_cpuset(topology.get());
  const Bitmap bound(hwloc_bitmap_alloc());
  if (hwloc_get_cpubind(topology.get(), bound.get(), HWLOC_CPUBIND_PROCESS) != 0)
    hwloc_bitmap_copy(bound.get(), machine);
  const bool launcher_bound =
      hwloc_bitmap_isincluded(bound.get(), machine) && !hwloc_bitmap_isequal(bound.get(), machine);
  // All ranks of a node must agree on who deals the cores: one that the launcher bound is enough to leave it
  // to the launcher.
  const bool nobody_bound = communicator.all_agree(!launcher_bound);

  const std::vector<int> all = first_cpu_of_cores(topology.get(), machine);
  const auto n_cores = static_cast<int>(all.size());
  CpuPlacement placement;
  if (!nobody_bound) {
    const std::vector<int> mine = first_cpu_of_cores(topology.get(), bound.get());
    placement.n_threads = n_threads > 0 ? n_threads : static_cast<int>(mine.size());
    placement.spin_us = placement.n_threads > static_cast<int>(mine.size()) ? 0 : placement.spin_us;
    placement.reason =
        fmt::format("{} threads on the {} cores that the launcher bound", placement.n_threads, mine.size());
    return placement;
  }
  const int n_ranks = communicator.node_size();
  const int first = n_cores * communicator.node_rank() / n_ranks;
  const int last = n_cores * (communicator.node_rank() + 1) / n_ranks;
  placement.n_threads = n_threads > 0 ? n_threads : std::max(1, last - first);
  if (n_ranks == 1 &&
      placement.n_threads == 1) {  // nobody to keep apart from: let the system find an idle core
    placement.reason = "1 thread, not bound: alone on its node";
    return placement;
  }
  // Binding is for when every thread gets a core of its own, on every rank.
  if (communicator.all_agree(placement.n_threads <= last - first)) {
    placement.cpus.assign(all.begin() + first, all.begin() + first + placement.n_threads);
    placement.reason =
        fmt::format("{} threads bound to CPUs {}", placement.n_threads, fmt::join(placement.cpus, ","));
  } else {
    placement.spin_us = 0;
    placement.reason =
        fmt::format("{} threads, not bound: {} ranks on {} cores", placement.n_threads, n_ranks, n_cores);
  }
  return placement;
}

std::string bind_to_numa_node(int numa_node) {
  if (numa_node < 0) return "not bound: the system names no NUMA node for the GPU";
  const Topology topology = load_topology();
  const hwloc_obj_t node =
      hwloc_get_numanode_obj_by_os_index(topology.get(), static_cast<unsigned>(numa_node));
  const hwloc_const_bitmap_t machine = hwloc_topology_get_allowed_cpuset(topology.get());
  const Bitmap near(hwloc_bitmap_alloc());
  if (node != nullptr) hwloc_bitmap_and(near.get(), node->cpuset, machine);
  if (hwloc_bitmap_iszero(near.get()))
    return fmt::format("not bound: none of NUMA node {}'s CPUs may be used here", numa_node);
  const Bitmap bound(hwloc_bitmap_alloc());
  const bool known = hwloc_get_cpubind(topology.get(), bound.get(), HWLOC_CPUBIND_PROCESS) == 0;
  if (known && !hwloc_bitmap_isincluded(machine, bound.get())) {
    const bool beside = hwloc_bitmap_intersects(bound.get(), near.get()) != 0;
    return fmt::format("bound by the launcher, {} the GPU's NUMA node {}", beside ? "on" : "away from",
                       numa_node);
  }
  if (hwloc_set_cpubind(topology.get(), near.get(), HWLOC_CPUBIND_PROCESS) != 0)
    return fmt::format("not bound: the system refuses to bind to NUMA node {}", numa_node);
  return fmt::format("bound to NUMA node {}, beside the GPU", numa_node);
}

}  // namespace tandem
