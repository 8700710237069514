// How partial sums reach all ranks, as the forward pass sees it: an all-reduce of a buffer, or windows of
// device memory into which every rank's kernels write. Made by comm/cuda/collectives.h, because only comm
// knows MPI and NCCL; used by the CUDA backend, which knows neither.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace tandem::cuda {

/// Collective in all: every rank makes the same calls in the same order with the same sizes. Destroyed
/// collectively and after every graph that recorded a call; while an exception unwinds the stack what needs
/// the other ranks is left to the process's end.
class DeviceCollective {
 public:
  virtual ~DeviceCollective() = default;

  virtual std::string_view name() const = 0;  ///< "single", "peer", "nccl", "mpi"
  /// Whether the exchange may be recorded in a CUDA graph: all_reduce(), for peer what kernels do with
  /// windows().
  virtual bool capturable() const = 0;

  /// Sums `partial` (n floats on this rank's device) over the ranks in place, in order with `stream`. Every
  /// rank gets the same bits. For peer this is the road of buffers that find no room in windows() (by NCCL
  /// where it is there, else through MPI), which can be recorded only where bulk_capturable() says so.
  virtual void all_reduce(float* partial, int64_t n, cudaStream_t stream) = 0;
  virtual bool bulk_capturable() const { return capturable(); }

  /// Puts every rank's `n_bytes` one behind the other to `all`: (n_ranks, n_bytes), on every rank's device,
  /// in order with `stream`; recordable where capturable() says so, but for peer, where bulk_capturable()
  /// does.
  virtual void all_gather(const std::byte* mine, std::byte* all, size_t n_bytes, cudaStream_t stream) = 0;

  /// For peer: the window of every rank as this device sees it (element r is rank r's, own included), zeroed
  /// when the collective was made; empty for the others.
  virtual std::span<std::byte* const> windows() const = 0;  // (n_ranks), each window_bytes()
  virtual size_t window_bytes() const = 0;
  /// Whether this way has windows, also while it is kept from using them: what products are cut by.
  virtual bool has_windows() const { return !windows().empty(); }

  /// Changes where the exchange does (another way was chosen): a recorded step holds for one of them only.
  virtual int variant() const { return 0; }

  /// What an exchange has failed of outside the stream (NCCL's asynchronous errors); throws
  /// Error{unavailable}. Not collective. Costs microseconds: ask while waiting, or once a step.
  virtual void check_health() {}

 protected:
  DeviceCollective() = default;
  DeviceCollective(const DeviceCollective&) = delete;
  DeviceCollective& operator=(const DeviceCollective&) = delete;
};

}  // namespace tandem::cuda
