#include "comm/node_channel.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "ops/core/check.h"

namespace tandem {

// One rank's words. The sizes of an exchange and the votes are doubled by the number's parity: a rank can be
// one exchange (vote) ahead of a reader, never two, because being two ahead needs the reader's own flag of
// the next one.
struct NodeChannel::Line {
  alignas(kLineBytes) std::atomic<uint64_t> exchange{0};    // last exchange handed over
  std::atomic<uint64_t> exchange_bytes[2]{};                // its size
  alignas(kLineBytes) std::atomic<uint64_t> vote[2]{};      // 2 * number + (1 for yes)
  alignas(kLineBytes) std::atomic<uint64_t> piece_sent{0};  // last broadcast piece written by this rank
  alignas(kLineBytes) std::atomic<uint64_t> piece_taken{
      0};                                               // last broadcast piece read (or written) by this rank
  alignas(kLineBytes) std::atomic<uint64_t> remote{0};  // rank 0's: last exchange complete across nodes
};

struct NodeChannel::Mail {
  alignas(kLineBytes) std::byte bytes[kMailBytes];
};

static_assert(std::atomic<uint64_t>::is_always_lock_free, "the words are shared between processes");

size_t NodeChannel::memory_bytes(int n_ranks) {
  return static_cast<size_t>(n_ranks) * sizeof(Line) + 2 * sizeof(Mail);
}

void NodeChannel::construct(std::span<std::byte> memory, int n_ranks) {
  require(memory.size() >= memory_bytes(n_ranks), "a node channel's memory is too small", memory.size());
  std::uninitialized_value_construct_n(reinterpret_cast<Line*>(memory.data()), n_ranks);
  std::uninitialized_default_construct_n(
      reinterpret_cast<Mail*>(memory.data() + static_cast<size_t>(n_ranks) * sizeof(Line)), 2);
}

NodeChannel::NodeChannel(std::span<std::byte> memory, int rank, int n_ranks)
    : lines_(reinterpret_cast<Line*>(memory.data())),
      mail_(reinterpret_cast<Mail*>(memory.data() + static_cast<size_t>(n_ranks) * sizeof(Line))),
      rank_(rank),
      n_ranks_(n_ranks) {
  require(memory.size() >= memory_bytes(n_ranks), "a node channel's memory is too small", memory.size());
  require(0 <= rank && rank < n_ranks, "a node rank is out of range", rank, n_ranks);
}

bool NodeChannel::vote(bool mine) {
  const uint64_t number = ++n_votes_;
  lines_[rank_].vote[number % 2].store(number * 2 + (mine ? 1 : 0), std::memory_order_release);
  bool all = mine;
  for (int i = 1; i < n_ranks_; ++i) {
    const std::atomic<uint64_t>& theirs = lines_[(rank_ + i) % n_ranks_].vote[number % 2];
    uint64_t word = 0;
    wait_until(spin_, [&] { return (word = theirs.load(std::memory_order_acquire)) / 2 >= number; });
    require(word / 2 == number, "ranks disagree on the number of votes", rank_, word / 2, number);
    all = all && (word & 1) != 0;
  }
  return all;
}

void NodeChannel::broadcast(std::span<std::byte> bytes, int root) {
  if (n_ranks_ == 1) return;
  for (size_t begin = 0; begin < bytes.size(); begin += kMailBytes) {
    const std::span<std::byte> piece = bytes.subspan(begin, std::min(kMailBytes, bytes.size() - begin));
    ++n_pieces_;
    if (rank_ == root) {
      send_piece(piece);
    } else {
      receive_piece(piece, root);
    }
    lines_[rank_].piece_taken.store(n_pieces_, std::memory_order_release);
  }
}

void NodeChannel::send_piece(std::span<const std::byte> piece) {
  // The piece two before lay in the same place: it must have been read by all. One before lies in the other.
  for (int i = 1; i < n_ranks_ && n_pieces_ > 2; ++i) {
    const std::atomic<uint64_t>& taken = lines_[(rank_ + i) % n_ranks_].piece_taken;
    wait_until(spin_, [&] { return taken.load(std::memory_order_acquire) + 2 >= n_pieces_; });
  }
  std::memcpy(mail_[n_pieces_ % 2].bytes, piece.data(), piece.size());
  lines_[rank_].piece_sent.store(n_pieces_, std::memory_order_release);
}

void NodeChannel::receive_piece(std::span<std::byte> piece, int root) {
  const std::atomic<uint64_t>& sent = lines_[root].piece_sent;
  wait_until(spin_, [&] { return sent.load(std::memory_order_acquire) >= n_pieces_; });
  std::memcpy(piece.data(), mail_[n_pieces_ % 2].bytes, piece.size());
}

void NodeChannel::hand_over(uint64_t number, size_t n_bytes) {
  lines_[rank_].exchange_bytes[number % 2].store(n_bytes, std::memory_order_relaxed);
  lines_[rank_].exchange.store(number, std::memory_order_release);
}

void NodeChannel::await_all(uint64_t number, size_t n_bytes) {
  for (int i = 1; i < n_ranks_; ++i) {
    const Line& theirs = lines_[(rank_ + i) % n_ranks_];
    wait_until(spin_, [&] { return theirs.exchange.load(std::memory_order_acquire) >= number; });
    const uint64_t their_bytes = theirs.exchange_bytes[number % 2].load(std::memory_order_relaxed);
    require(their_bytes == n_bytes, "ranks disagree on the bytes of an exchange", their_bytes, n_bytes);
  }
}

void NodeChannel::announce_remote(uint64_t number) {
  lines_[rank_].remote.store(number, std::memory_order_release);
}

void NodeChannel::await_remote(uint64_t number) {
  wait_until(spin_, [&] { return lines_[0].remote.load(std::memory_order_acquire) >= number; });
}

}  // namespace tandem
