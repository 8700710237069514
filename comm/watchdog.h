// The thread by which every wait of a rank has an end. It watches the other processes of this node (pidfds,
// and a heartbeat in shared memory for stopped or vanished ones), the launcher, the job's exit code
// (comm/life_block.h) and the pending signal, and ends this process when the job can't go on. Made by
// launch/job.cpp once the communicator stands. It makes no MPI calls, takes no locks and allocates nothing
// while it watches.
//
// Who dies how: a rank that dies is named in one line by one of the others, and all end with
// ExitCode::unavailable. A rank that calls end_all_ranks() has said why; all end with its code. Ranks on
// other nodes are ended by MPI_Abort or by the launcher, which kills a job of which a rank ended early (under
// srun: --kill-on-bad-exit).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "comm/life_block.h"

namespace tandem {

class Watchdog {
 public:
  /// Collective on the node. A peer whose heartbeat stands still for TANDEM_WATCHDOG_S seconds (default 20, 0
  /// never) of this watchdog's own running time counts as dead; a rank that is merely busy goes on beating.
  /// Throws Error{usage} where the variable is not a number of seconds.
  explicit Watchdog(Communicator& comm);
  /// Collective on the node: waits for all ranks, still watching, and then lets them go. Left out while an
  /// exception unwinds the stack.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  struct Peer {
    RankLife* life = nullptr;
    bool same_pids = false;  // its pid means something here
    int pidfd = -1;          // -1: the kernel has none, kill(pid, 0) instead
    uint64_t last_beat = 0;
    int64_t n_silent_ticks = 0;
  };

  void introduce(int rank);
  void find_peers();
  void run();
  void wait_a_tick();
  void look_at_exit_code();
  void look_at_peers();
  void look_at_launcher();
  void look_at_signal();
  bool has_ended(Peer& peer) const;
  [[noreturn]] void declare_dead(const Peer& peer, const char* how);
  [[noreturn]] void end(int exit_code, const char* line);  // null: nothing to say

  Communicator& comm_;
  std::unique_ptr<NodeBuffer> memory_;  // a LifeBlock, then a RankLife for each rank of the node
  LifeBlock* block_ = nullptr;
  RankLife* ranks_ = nullptr;  // (node_size)
  std::vector<Peer> peers_;
  std::string host_;
  pid_t launcher_ = 0;  // the parent at the start; 0 where nobody launched us
  int wake_fd_ = -1;    // an eventfd: written to end the thread
  int64_t silent_ticks_limit_ = 0;
  int64_t n_signal_ticks_ = 0;
  int n_exceptions_ = 0;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace tandem
