// What ranks say to each other. One interface for MPI (comm/mpi), for one rank and for threads in tests
// (comm/local). Every call is collective unless it says otherwise: all ranks make the same calls in the same order.
// Called by runtime/engine and runtime/model/weights; knows no model and no math beyond sums.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace tandem {

/// Memory that all ranks of one node see. Freed collectively by its owner's destructor order (see Communicator).
class NodeBuffer {
 public:
  virtual ~NodeBuffer() = default;
  virtual std::span<std::byte> bytes() = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int node_rank() const = 0;   ///< among the ranks of this node
  virtual int node_size() const = 0;
  virtual int n_nodes() const = 0;

  // --- the exchange: every rank contributes `n_bytes`, every rank reads all contributions in rank order.
  // On one node it is a shared-memory one-shot: contribution() points into this rank's slot, publish() waits for
  // the others' flags, and nothing is copied. Slots are doubled, so what publish() returned stays valid until the
  // next-but-one publish(); a rank may begin the next contribution at once.

  /// Where this rank writes its next contribution; at least `n_bytes`, 64-byte aligned. Grows slots collectively.
  virtual std::byte* contribution(size_t n_bytes) = 0;
  /// Hands the contribution over and waits for everyone's. Element i points to rank i's bytes.
  virtual std::span<const std::byte* const> publish() = 0;

  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  virtual void barrier() = 0;

  /// True where every rank says true: the vote before work that can't be taken back.
  virtual bool all_agree(bool mine) = 0;

  /// Everyone's text in rank order, on every rank (control plane: errors, host names, placement).
  virtual std::vector<std::string> gather_text(const std::string& mine) = 0;

  // --- the node
  /// Memory shared by the ranks of a node, the same size on each. Page-aligned, zeroed.
  virtual std::unique_ptr<NodeBuffer> node_buffer(size_t n_bytes) = 0;
  virtual void node_barrier() = 0;
};

/// The communicator of a process that is alone.
std::unique_ptr<Communicator> make_single_communicator();

/// `n_ranks` communicators for as many threads of one process: tests run every rank count without MPI.
std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int n_ranks);

}  // namespace tandem
