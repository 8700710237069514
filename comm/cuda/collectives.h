// Chooses how partial sums reach all ranks. The door of comm/cuda: called by whoever makes the CUDA backend,
// once, after every rank has chosen its device.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "comm/communicator.h"
#include "ops/cuda/collective.h"

namespace tandem::cuda {

enum class CommKind { automatic, peer, nccl, mpi };

/// "auto", "peer", "nccl", "mpi". Throws Error{usage}.
CommKind parse_comm_kind(std::string_view text);

/// How sums may be added.
enum class SumOrder {
  any,     ///< as it is fastest: the same bits on all ranks, but perhaps others by another road
  ranked,  ///< in rank order by every road, so that all of them give the same bits (--deterministic)
};

/// Of each rank's window (peer).
struct WindowRequest {
  size_t n_bytes = 0;
  bool copies =
      false;  ///< whether large sums, too, travel through them (ops/cuda/peer_copies.h): for the reason
};

struct CollectiveChoice {
  std::unique_ptr<DeviceCollective> collective;
  std::string reason;  ///< one line for -v, the same on every rank: what, why, and what was measured
};

/// Collective. One rank: "single". `automatic`: peer where it is proved, else NCCL where it starts, else MPI;
/// whatever can be had of NCCL and MPI is measured (32 KB) and told. Throws Error{unavailable}, the same on
/// every rank, where `kind` asks for what can't be had. `comm` must outlive it.
CollectiveChoice make_collective(CommKind kind, Communicator& comm, const WindowRequest& windows,
                                 SumOrder order = SumOrder::any);

/// Collective. Median microseconds of one all_reduce() of `n_bytes`, the same number on every rank: recorded
/// in a graph where that can be, else call by call with the device idle in between.
double measure_all_reduce_us(DeviceCollective& collective, Communicator& comm, size_t n_bytes,
                             int n_repeats = 200);

}  // namespace tandem::cuda
