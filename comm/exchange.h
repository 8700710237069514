// The exchange of comm/communicator.h over a NodeChannel: slots in shared memory, two sets of them, no copy.
// Used by comm/threads.cpp and comm/mpi.cpp only.
//
// Why a slot is free when contribution() hands it out. Exchange k uses set k % 2, so the last use of the set
// that exchange k + 2 writes to was exchange k. A rank reaches contribution() for k + 2 only after its
// publish() of k + 1 returned, that is after every rank's flag said k + 1. A rank sets its flag k + 1 by
// calling publish(), and by the interface's contract what exchange k returned is not read any more from that
// call on. So all readers of exchange k are done; their flags' release stores and our acquire loads order
// their reads before our writes. One barrier an exchange (the flags themselves) is all that is needed; with
// one set a second barrier would be. The same holds for a set written by another node's bytes (remote
// exchange): the node's rank 0 receives them for exchange k after it saw all local flags at k.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "comm/node_channel.h"

namespace tandem {

class SlotExchange {
 public:
  /// Makes `n_bytes` of memory shared by the ranks of the node; collective on it.
  using Allocate = std::function<std::unique_ptr<NodeBuffer>(size_t n_bytes)>;
  /// Brings the other nodes' slots of a set here; called on rank 0 of the node once its own slots are filled.
  /// `set`: (n_slots * stride_bytes), slot s begins at s * stride_bytes.
  using Fetch = std::function<void(std::byte* set, size_t stride_bytes)>;

  /// `slot_of_rank`[r]: the place of rank r's slot in a set (the ranks of a node side by side). `fetch` is
  /// empty on a single node.
  SlotExchange(NodeChannel& channel, int rank, std::vector<int> slot_of_rank, Allocate allocate, Fetch fetch);

  /// Shared bytes of a node for contributions of n_bytes (the largest so far) in n_slots slots.
  static size_t memory_bytes(size_t n_bytes, int n_slots);

  std::byte* contribution(size_t n_bytes);
  std::span<const std::byte* const> publish();

 private:
  std::byte* set_begin() const;
  void grow(size_t needed_bytes);

  NodeChannel& channel_;
  int rank_;
  std::vector<int> slot_of_rank_;  // (n_ranks)
  Allocate allocate_;
  Fetch fetch_;
  std::unique_ptr<NodeBuffer> slots_;  // two sets of set_bytes_
  std::unique_ptr<NodeBuffer>
      retired_;  // the slots before the last growth: still read until the next publish()
  size_t set_bytes_ = 0;
  size_t n_bytes_ = 0;       // of the contribution that is being filled
  size_t stride_bytes_ = 0;  // from slot to slot, for n_bytes_
  bool filling_ = false;
  uint64_t number_ = 0;                          // of the exchange that is being filled, or of the last one
  std::vector<const std::byte*> contributions_;  // (n_ranks): what publish() returned
};

}  // namespace tandem
