// What ranks say to each other. One interface for MPI (comm/mpi.h), for one rank and for threads in tests
// (below). Every call is collective unless it says otherwise: all ranks make the same calls in the same
// order, with the same sizes. One thread of a rank talks (MPI_THREAD_FUNNELED): all calls come from the
// thread that made the communicator. Called by runtime/engine and runtime/model/weights; knows no model and
// no math beyond sums.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ops/core/partial_exchange.h"

namespace tandem {

/// Memory that all ranks of one node see. Destroyed collectively: every rank of the node destroys its buffers
/// in the same order, before the communicator they came from. While an exception unwinds the stack the memory
/// is left to the process's end instead, because the other ranks may never come.
class NodeBuffer {
 public:
  virtual ~NodeBuffer() = default;
  virtual std::span<std::byte> bytes() = 0;
};

class Communicator : public PartialExchange {
 public:
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int node_rank() const = 0;  ///< among the ranks of this node
  virtual int node_size() const = 0;
  virtual int n_nodes() const = 0;

  // --- the exchange (PartialExchange): on one node a shared-memory one-shot: contribution() points into this
  // rank's slot, publish() waits for the others' flags, and nothing is copied. Why two sets of slots are
  // enough: comm/exchange.h.

  /// Copies root's bytes to every rank. Through shared memory on a node; a few KB cost about a microsecond.
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  virtual void barrier() = 0;

  /// True where every rank says true: the vote before work that can't be taken back.
  virtual bool all_agree(bool mine) = 0;

  /// Everyone's text in rank order, on every rank (control plane: errors, host names, placement).
  std::vector<std::string> gather_text(const std::string& mine);

  // --- the node
  /// Memory shared by the ranks of a node, the same size on each. Page-aligned, zeroed.
  virtual std::unique_ptr<NodeBuffer> node_buffer(size_t n_bytes) = 0;
  virtual void node_barrier() = 0;

  /// How many threads each rank keeps busy (not collective; default 1). With more of them on the node than
  /// cores, ranks that wait give their core away at once instead of spinning first.
  virtual void set_threads_per_rank(int n_threads) = 0;
};

/// The communicator of a process that is alone.
std::unique_ptr<Communicator> make_single_communicator();

/// `n_ranks` communicators for as many threads of one process: tests run every rank count without MPI. They
/// share their state; each is used by one thread, and destroyed when no other thread is inside a call.
std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int n_ranks);

}  // namespace tandem
