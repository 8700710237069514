// Communicators without MPI: one for a process that is alone, and one for several threads of a process
// (tests).
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>

#include "comm/communicator.h"
#include "comm/exchange.h"
#include "comm/node_channel.h"
#include "ops/core/check.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

/// Zeroed pages of this process, which its threads share.
class Pages {
 public:
  explicit Pages(size_t n_bytes) : n_bytes_(n_bytes) {
    if (n_bytes == 0) return;
    memory_ = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) {
      throw Error(ExitCode::unavailable,
                  "cannot allocate " + std::to_string(n_bytes) + " bytes: " + std::strerror(errno));
    }
  }
  ~Pages() {
    if (n_bytes_ > 0) munmap(memory_, n_bytes_);
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  std::span<std::byte> bytes() { return {static_cast<std::byte*>(memory_), n_bytes_}; }

 private:
  void* memory_ = nullptr;
  size_t n_bytes_;
};

/// A thread's share in pages that all threads hold; the last one to let go frees them.
class ThreadBuffer final : public NodeBuffer {
 public:
  explicit ThreadBuffer(std::shared_ptr<Pages> pages) : pages_(std::move(pages)) {}
  std::span<std::byte> bytes() override { return pages_->bytes(); }

 private:
  std::shared_ptr<Pages> pages_;
};

/// What the threads of a group share.
struct ThreadGroup {
  explicit ThreadGroup(int n_ranks_in) : n_ranks(n_ranks_in), words(NodeChannel::memory_bytes(n_ranks_in)) {
    NodeChannel::construct(words.bytes(), n_ranks);
  }
  int n_ranks;
  Pages words;
  std::shared_ptr<Pages> handed_round;  // written by rank 0 between two votes
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadGroup> group, int rank)
      : group_(std::move(group)),
        channel_(group_->words.bytes(), rank, group_->n_ranks),
        exchange_(
            channel_, rank, identity(group_->n_ranks), [this](size_t n) { return node_buffer(n); }, nullptr) {
    set_threads_per_rank(1);
  }

  int rank() const override { return channel_.rank(); }
  int size() const override { return channel_.n_ranks(); }
  int node_rank() const override { return channel_.rank(); }
  int node_size() const override { return channel_.n_ranks(); }
  int n_nodes() const override { return 1; }

  std::byte* contribution(size_t n_bytes) override { return exchange_.contribution(n_bytes); }
  std::span<const std::byte* const> publish() override { return exchange_.publish(); }
  void broadcast(std::span<std::byte> bytes, int root) override { channel_.broadcast(bytes, root); }
  void barrier() override { channel_.vote(true); }
  bool all_agree(bool mine) override { return channel_.vote(mine); }
  void node_barrier() override { channel_.vote(true); }

  std::unique_ptr<NodeBuffer> node_buffer(size_t n_bytes) override {
    if (rank() == 0) group_->handed_round = std::make_shared<Pages>(n_bytes);
    channel_.vote(true);
    auto mine = std::make_unique<ThreadBuffer>(group_->handed_round);
    channel_.vote(true);  // all have taken it: rank 0 may let go
    if (rank() == 0) group_->handed_round.reset();
    require(mine->bytes().size() == n_bytes, "ranks disagree on the size of a node buffer", n_bytes);
    return mine;
  }

  void set_threads_per_rank(int n_threads) override {
    channel_.set_may_spin(n_threads * group_->n_ranks <= usable_cores());
  }

 private:
  static std::vector<int> identity(int n) {
    std::vector<int> slots(static_cast<size_t>(n));
    std::iota(slots.begin(), slots.end(), 0);
    return slots;
  }

  std::shared_ptr<ThreadGroup> group_;
  NodeChannel channel_;
  SlotExchange exchange_;
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<ThreadCommunicator>(std::make_shared<ThreadGroup>(1), 0);
}

std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int n_ranks) {
  require(n_ranks >= 1, "a thread group needs a rank", n_ranks);
  const auto group = std::make_shared<ThreadGroup>(n_ranks);
  std::vector<std::unique_ptr<Communicator>> all;
  all.reserve(static_cast<size_t>(n_ranks));
  for (int rank = 0; rank < n_ranks; ++rank) all.push_back(std::make_unique<ThreadCommunicator>(group, rank));
  return all;
}

}  // namespace tandem
