#include "comm/cuda/collectives.h"

#include <fmt/format.h>

#include <utility>

#include "comm/cuda/host_collective.h"
#include "comm/cuda/nccl_collective.h"
#include "comm/cuda/peer_memory.h"
#include "ops/core/error.h"
#include "ops/cuda/status.h"

namespace tandem::cuda {
namespace {

constexpr size_t kMeasuredBytes = size_t{32} << 10;  // a token's partial sums in a model of 8192 columns

class SingleCollective final : public DeviceCollective {
 public:
  std::string_view name() const override { return "single"; }
  bool capturable() const override { return true; }
  void all_reduce(float*, int64_t, cudaStream_t) override {}
  void all_gather(const std::byte* mine, std::byte* all, size_t n_bytes, cudaStream_t stream) override {
    check(cudaMemcpyAsync(all, mine, n_bytes, cudaMemcpyDeviceToDevice, stream));
  }
  std::span<std::byte* const> windows() const override { return {}; }
  size_t window_bytes() const override { return 0; }
};

/// Windows for the small sums, and for the large ones of two ranks where they have room; for all others
/// another collective.
class PeerCollective final : public DeviceCollective {
 public:
  PeerCollective(std::unique_ptr<PeerMemory> memory, std::unique_ptr<DeviceCollective> bulk)
      : memory_(std::move(memory)), bulk_(std::move(bulk)) {}

  std::string_view name() const override { return "peer"; }
  bool capturable() const override { return true; }
  void all_reduce(float* partial, int64_t n, cudaStream_t stream) override {
    bulk_->all_reduce(partial, n, stream);
  }
  void all_gather(const std::byte* mine, std::byte* all, size_t n_bytes, cudaStream_t stream) override {
    bulk_->all_gather(mine, all, n_bytes, stream);
  }
  bool bulk_capturable() const override { return bulk_->capturable(); }
  std::span<std::byte* const> windows() const override { return memory_->windows(); }
  size_t window_bytes() const override { return memory_->window_bytes(); }
  void check_health() override { bulk_->check_health(); }

 private:
  std::unique_ptr<PeerMemory> memory_;
  std::unique_ptr<DeviceCollective> bulk_;
};

[[noreturn]] void refuse(std::string_view kind, const std::string& why, const char* cure) {
  throw Error(ExitCode::unavailable, fmt::format("--comm {}: {}", kind, why), cure);
}

std::string microseconds(DeviceCollective& collective, Communicator& comm) {
  return fmt::format("{:.1f} us", measure_all_reduce_us(collective, comm, kMeasuredBytes));
}

/// Of two addends the order doesn't matter, so NCCL's own sum does for two ranks.
std::unique_ptr<DeviceCollective> make_nccl(Communicator& comm, SumOrder order, std::string& why_not) {
  const bool gathered = order == SumOrder::ranked && comm.size() > 2;
  return make_nccl_collective(comm, why_not, gathered ? NcclRoad::gathered : NcclRoad::all_reduce);
}

std::unique_ptr<DeviceCollective> make_mpi(Communicator& comm, SumOrder order) {
  return make_host_collective(comm, order == SumOrder::ranked ? HostRoad::staged : HostRoad::automatic);
}

/// NCCL where it can be had, else MPI; with what was measured of both.
struct Bulk {
  std::unique_ptr<DeviceCollective> collective;
  std::string reason;
};

Bulk make_bulk(Communicator& comm, SumOrder order) {
  std::string why_no_nccl;
  std::unique_ptr<DeviceCollective> nccl = make_nccl(comm, order, why_no_nccl);
  std::unique_ptr<DeviceCollective> mpi = make_mpi(comm, order);
  const std::string mpi_text = fmt::format("MPI {}", microseconds(*mpi, comm));
  if (!nccl) {
    return {std::move(mpi), fmt::format("no NCCL ({}); 32 KB: {}", why_no_nccl, mpi_text)};
  }
  std::string reason =
      fmt::format("NCCL {}; 32 KB: NCCL {}, {}", nccl_info().text, microseconds(*nccl, comm), mpi_text);
  return {std::move(nccl), std::move(reason)};
}

/// How the sums that are too large for packets travel beside windows.
std::string_view large_sums(const WindowRequest& windows, const DeviceCollective& bulk) {
  return windows.copies ? "copies" : bulk.name();
}

CollectiveChoice make_automatic(Communicator& comm, const WindowRequest& windows, SumOrder order) {
  Bulk bulk = make_bulk(comm, order);
  std::string why_no_peer;
  if (auto memory = PeerMemory::make(comm, windows.n_bytes, why_no_peer)) {
    std::string reason = fmt::format("peer: the GPUs reach each other's memory; large sums: {} ({})",
                                     large_sums(windows, *bulk.collective), bulk.reason);
    return {std::make_unique<PeerCollective>(std::move(memory), std::move(bulk.collective)),
            std::move(reason)};
  }
  std::string reason =
      fmt::format("{}: no peer access ({}); {}", bulk.collective->name(), why_no_peer, bulk.reason);
  return {std::move(bulk.collective), std::move(reason)};
}

CollectiveChoice make_peer(Communicator& comm, const WindowRequest& windows, SumOrder order) {
  std::string why_not;
  auto memory = PeerMemory::make(comm, windows.n_bytes, why_not);
  if (!memory)
    refuse("peer", why_not, "use --comm nccl or --comm auto; `tandem doctor` shows which GPUs reach which");
  std::unique_ptr<DeviceCollective> bulk = make_nccl(comm, order, why_not);
  if (!bulk) bulk = make_mpi(comm, order);
  std::string reason = fmt::format("peer: asked for; large sums: {}", large_sums(windows, *bulk));
  return {std::make_unique<PeerCollective>(std::move(memory), std::move(bulk)), std::move(reason)};
}

}  // namespace

CommKind parse_comm_kind(std::string_view text) {
  if (text == "auto") return CommKind::automatic;
  if (text == "peer") return CommKind::peer;
  if (text == "nccl") return CommKind::nccl;
  if (text == "mpi") return CommKind::mpi;
  throw Error(ExitCode::usage, fmt::format("--comm={}: not a way to exchange", text),
              "one of auto, peer, nccl, mpi");
}

CollectiveChoice make_collective(CommKind kind, Communicator& comm, const WindowRequest& windows,
                                 SumOrder order) {
  if (comm.size() == 1) return {std::make_unique<SingleCollective>(), "single: one rank has nobody to ask"};
  switch (kind) {
    case CommKind::automatic:
      return make_automatic(comm, windows, order);
    case CommKind::peer:
      return make_peer(comm, windows, order);
    case CommKind::nccl: {
      std::string why_not;
      std::unique_ptr<DeviceCollective> nccl = make_nccl(comm, order, why_not);
      if (!nccl) refuse("nccl", why_not, "use --comm mpi or --comm auto");
      return {std::move(nccl), fmt::format("nccl: asked for; NCCL {}", nccl_info().text)};
    }
    case CommKind::mpi:
      break;
  }
  return {make_mpi(comm, order), "mpi: asked for"};
}

}  // namespace tandem::cuda
