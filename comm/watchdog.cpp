#include "comm/watchdog.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>

#include "comm/mpi.h"
#include "comm/process.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

constexpr int kTickMs = 50;
constexpr int kSpeechGraceMs = 1000;
constexpr int kLastExitS = 3;
constexpr double kDefaultStaleS = 20;
constexpr size_t kMostPeers = 255;  // that one poll() looks at; more are asked by kill(pid, 0)

double stale_limit_s() {
  const char* text = std::getenv("TANDEM_WATCHDOG_S");
  if (text == nullptr || *text == '\0') return kDefaultStaleS;
  double seconds = 0;
  const char* const text_end = text + std::strlen(text);
  const auto [end, status] = std::from_chars(text, text_end, seconds);
  if (status != std::errc{} || end != text_end || !(seconds >= 0) || seconds > 1e6) {
    throw Error(ExitCode::usage, "TANDEM_WATCHDOG_S=" + std::string(text) + " is not a number of seconds",
                "0 switches the heartbeat off");
  }
  return seconds;
}

uint64_t own_pid_namespace() {
  struct stat info {};
  return stat("/proc/self/ns/pid", &info) == 0 ? info.st_ino : 0;
}

std::string host_name() {
  std::array<char, 256> text{};
  gethostname(text.data(), text.size() - 1);
  return text.data();
}

const char* signal_name(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGHUP:
      return "SIGHUP";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return "a signal";
  }
}

}  // namespace

Watchdog::Watchdog(Communicator& comm)
    : comm_(comm), host_(host_name()), n_exceptions_(std::uncaught_exceptions()) {
  silent_ticks_limit_ = static_cast<int64_t>(std::ceil(stale_limit_s() * 1000 / kTickMs));
  const auto n = static_cast<size_t>(comm.node_size());
  memory_ = comm.node_buffer(sizeof(LifeBlock) + n * sizeof(RankLife));
  std::byte* const base = memory_->bytes().data();
  block_ = reinterpret_cast<LifeBlock*>(base);
  ranks_ = reinterpret_cast<RankLife*>(base + sizeof(LifeBlock));
  if (comm.node_rank() == 0) {
    new (block_) LifeBlock;
    std::uninitialized_value_construct_n(ranks_, n);
  }
  comm.node_barrier();
  introduce(comm.rank());
  comm.node_barrier();
  find_peers();
  if (launcher_info().present) launcher_ = getppid();
  if (comm.n_nodes() == 1) set_job(comm.rank(), nullptr);  // all ranks see the block: no need of MPI_Abort
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  // The thread takes no signals: handlers run on the others, and SIGALRM can end this process while it
  // writes.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Watchdog::~Watchdog() {
  // While an exception unwinds the stack the others may never come: no barrier, and the node's block stays in
  // use.
  const bool unwinds = std::uncaught_exceptions() != n_exceptions_;
  if (!unwinds) comm_.node_barrier();
  stop_.store(true);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n_written = write(wake_fd_, &one, sizeof one);
  thread_.join();
  if (unwinds) {
    [[maybe_unused]] NodeBuffer* const kept = memory_.release();
  } else {
    use_life({});
  }
  for (const Peer& peer : peers_) {
    if (peer.pidfd >= 0) close(peer.pidfd);
  }
  if (wake_fd_ >= 0) close(wake_fd_);
}

void Watchdog::introduce(int rank) {
  RankLife& mine = ranks_[comm_.node_rank()];
  mine.pid.store(getpid());
  mine.rank.store(rank);
  mine.pid_namespace.store(own_pid_namespace());
  use_life({block_, &mine});
}

void Watchdog::find_peers() {
  const uint64_t own_namespace = own_pid_namespace();
  for (int i = 0; i < comm_.node_size(); ++i) {
    if (i == comm_.node_rank()) continue;
    Peer peer{.life = &ranks_[i]};
    peer.same_pids = own_namespace != 0 && peer.life->pid_namespace.load() == own_namespace &&
                     peer.life->pid.load() != getpid();
    if (peer.same_pids) {
      peer.pidfd = static_cast<int>(syscall(SYS_pidfd_open, peer.life->pid.load(), 0));
      if (peer.pidfd < 0 && errno == ESRCH) declare_dead(peer, "died");
    }
    peers_.push_back(peer);
  }
}

void Watchdog::run() {
  while (!stop_.load()) {
    ranks_[comm_.node_rank()].beat.fetch_add(1, std::memory_order_relaxed);
    look_at_exit_code();
    look_at_peers();
    look_at_launcher();
    look_at_signal();
    wait_a_tick();
  }
}

void Watchdog::wait_a_tick() {
  std::array<pollfd, kMostPeers + 1> fds{};
  nfds_t n = 0;
  fds[n++] = {wake_fd_, POLLIN, 0};
  for (const Peer& peer : peers_) {
    if (peer.pidfd >= 0 && n < fds.size()) fds[n++] = {peer.pidfd, POLLIN, 0};
  }
  poll(fds.data(), n, kTickMs);
}

void Watchdog::look_at_exit_code() {
  const int code = block_->exit_code.load();
  if (code == 0) return;
  // Somebody has decided the end and will say why; if not, we end without a word.
  for (int waited_ms = 0; waited_ms < kSpeechGraceMs && block_->spoken.load() == 0; waited_ms += 5)
    usleep(5000);
  _exit(code);
}

bool Watchdog::has_ended(Peer& peer) const {
  if (!peer.same_pids) return false;
  if (peer.pidfd < 0) return kill(peer.life->pid.load(), 0) != 0 && errno == ESRCH;
  pollfd fd{peer.pidfd, POLLIN, 0};
  return poll(&fd, 1, 0) > 0 && (fd.revents & POLLIN) != 0;
}

void Watchdog::look_at_peers() {
  for (Peer& peer : peers_) {
    if (has_ended(peer)) declare_dead(peer, "died");
    const uint64_t beat = peer.life->beat.load(std::memory_order_relaxed);
    // Counted in ticks of our own: when the whole job stands still (a stopped shell job, a suspended
    // machine), nobody counts.
    peer.n_silent_ticks = beat == peer.last_beat ? peer.n_silent_ticks + 1 : 0;
    peer.last_beat = beat;
    if (silent_ticks_limit_ > 0 && peer.n_silent_ticks > silent_ticks_limit_) {
      if (peer.same_pids) kill(peer.life->pid.load(), SIGKILL);  // a stopped process would stay behind
      declare_dead(peer, "gave no sign of life");
    }
  }
}

void Watchdog::look_at_launcher() {
  if (launcher_ == 0 || getppid() == launcher_) return;
  end(static_cast<int>(ExitCode::unavailable), "the launcher has died; all ranks end");
}

void Watchdog::look_at_signal() {
  const int signal = block_->signal.load();
  n_signal_ticks_ = signal == 0 ? 0 : n_signal_ticks_ + 1;
  if (n_signal_ticks_ == 1 && checkpoint_file() >= 0) fsync(checkpoint_file());
  const SignalAnswer answer = signal_answer(signal);
  if (n_signal_ticks_ <= answer.grace_ms / kTickMs) return;
  std::array<char, 160> line{};
  std::snprintf(line.data(), line.size(), "%s, and not ended after %g s (in %s); all ranks end",
                signal_name(signal), answer.grace_ms / 1000.0, current_phase().c_str());
  end(answer.exit_code, line.data());
}

void Watchdog::declare_dead(const Peer& peer, const char* how) {
  // A launcher that ends the job because of another node's rank kills ours one by one, after a SIGTERM: that
  // this one died is no news then, and the other node has said what is.
  const int signal = block_->signal.load();
  if (comm_.n_nodes() > 1 && signal != 0) end(signal_answer(signal).exit_code, nullptr);
  const uint64_t word = peer.life->phase.load();
  std::array<char, sizeof word + 1> phase{};
  std::memcpy(phase.data(), &word, sizeof word);
  std::array<char, 512> line{};
  std::snprintf(line.data(), line.size(), "rank %d (pid %d on %s) %s in %s; all ranks end",
                peer.life->rank.load(), peer.life->pid.load(), host_.c_str(), how,
                phase[0] != '\0' ? phase.data() : "start");
  end(static_cast<int>(ExitCode::unavailable), line.data());
}

void Watchdog::end(int exit_code, const char* line) {
  // If the dead rank said why (exit code set), or another watchdog was quicker, its word and code hold.
  int32_t none = 0;
  if (!block_->exit_code.compare_exchange_strong(none, exit_code)) look_at_exit_code();
  arm_last_exit(kLastExitS, exit_code);
  if (line == nullptr) {
    block_->spoken.store(1);
  } else if (claim_speech(*block_)) {
    speak(*block_, line, std::strlen(line));
  }
  look_at_exit_code();
  _exit(exit_code);
}

}  // namespace tandem
