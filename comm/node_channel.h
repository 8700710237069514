// The shared-memory words by which the ranks of a node signal each other: votes, broadcasts, and the flags of
// the exchange (comm/exchange.h). Works on any memory that all of them see: an MPI window or one process's
// heap. Used by comm/threads.cpp and comm/mpi.cpp only; knows neither MPI nor who allocated the memory.
//
// Every word has one writer, its rank, and lies on a line of its own. A writer stores with release after its
// data, a reader loads with acquire before it, so data needs no atomics. Counters only grow.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "comm/wait.h"

namespace tandem {

inline constexpr size_t kLineBytes = 128;  // two cache lines: x86 prefetches them in pairs

class NodeChannel {
 public:
  /// Shared bytes that a channel of `n_ranks` needs.
  static size_t memory_bytes(int n_ranks);
  /// Makes the words in `memory`; one rank calls it, before any rank makes its NodeChannel.
  static void construct(std::span<std::byte> memory, int n_ranks);

  /// This rank's end. `memory` must outlive it. `rank` < `n_ranks` counts within the node.
  NodeChannel(std::span<std::byte> memory, int rank, int n_ranks);

  int rank() const { return rank_; }
  int n_ranks() const { return n_ranks_; }
  void set_may_spin(bool may_spin) { spin_.allowed = may_spin; }
  SpinPolicy& spin_policy() { return spin_; }

  /// True where all say true. Also a barrier.
  bool vote(bool mine);
  /// Copies root's bytes to all ranks, in pieces of kMailBytes.
  void broadcast(std::span<std::byte> bytes, int root);

  /// Says that this rank's bytes of exchange `number` are in place. Numbers rise by one.
  void hand_over(uint64_t number, size_t n_bytes);
  /// Waits until every rank of the node has handed over exchange `number`, and checks that all sizes are
  /// `n_bytes`.
  void await_all(uint64_t number, size_t n_bytes);
  /// Rank 0 of the node says that the other nodes' bytes of exchange `number` have arrived here; the rest
  /// await it.
  void announce_remote(uint64_t number);
  void await_remote(uint64_t number);

 private:
  struct Line;
  struct Mail;
  static constexpr size_t kMailBytes = size_t{64} << 10;

  void send_piece(std::span<const std::byte> piece);
  void receive_piece(std::span<std::byte> piece, int root);

  Line* lines_;  // (n_ranks)
  Mail* mail_;   // (2): piece i lies in mail_[i % 2]
  int rank_;
  int n_ranks_;
  SpinPolicy spin_;
  uint64_t n_votes_ = 0;
  uint64_t n_pieces_ = 0;  // of all broadcasts, whoever the root was
};

}  // namespace tandem
