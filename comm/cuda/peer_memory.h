// A window of device memory on every rank of a node that all ranks' kernels can write to: CUDA IPC between
// processes, peer access between the devices of one. Believed only after kernels have proved it
// (comm/cuda/peer_check.h). Called by comm/cuda/collectives.cpp and `tandem doctor`.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace tandem::cuda {

class PeerMemory {
 public:
  /// Collective; every rank has chosen its device before. A window of `window_bytes` (from 64 KiB) on each
  /// rank's device, zeroed. Null where that can't be had, on all ranks, with the reason in `why_not` (the
  /// same text on all).
  static std::unique_ptr<PeerMemory> make(Communicator& comm, size_t window_bytes, std::string& why_not);
  /// Collective: no rank's memory goes before all have let go of it. While an exception unwinds the stack it
  /// is left to the process's end.
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  /// Every rank's window as this device sees it.
  std::span<std::byte* const> windows() const { return windows_; }  // (n_ranks)
  size_t window_bytes() const { return window_bytes_; }

 private:
  struct Offer;

  PeerMemory(Communicator& comm, size_t window_bytes);
  std::string allocate(Offer& mine);
  std::string open(const std::vector<std::string>& offers);
  std::string open_one(const Offer& offer, const Offer& mine, std::byte*& window);
  std::string prove();

  Communicator& comm_;
  size_t window_bytes_;
  std::byte* own_ = nullptr;
  std::vector<std::byte*> windows_;  // (n_ranks)
  std::vector<void*> opened_;        // by IPC, ours to close
  int n_exceptions_;
};

}  // namespace tandem::cuda
