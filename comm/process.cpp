#include "comm/process.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "comm/life_block.h"
#include "ops/core/check.h"

namespace tandem {
namespace {

constexpr int kRankZeroGraceMs = 250;  // so long another rank leaves the line to rank 0
constexpr int kSpeechGraceMs = 1000;   // so long a process waits for the one that took the line on
constexpr int kFollowMs = 120;         // so long the others' watchdogs may need to see the code
constexpr int kLastExitS = 3;
constexpr size_t kSignals = 65;
constexpr int kSignalGraceMs = 2000;

LifeBlock g_own_block;
RankLife g_own_rank;
std::atomic<LifeBlock*> g_block{&g_own_block};
std::atomic<RankLife*> g_mine{&g_own_rank};
std::atomic<int> g_n_requests{0};  // SIGTERM and SIGINT to this process since the last clear
std::atomic<int> g_n_clears_seen{0};
std::atomic<int> g_last_exit_code{1};
std::atomic<int> g_rank{0};
std::atomic<void (*)(int)> g_abort_job{nullptr};
std::thread::id g_job_thread;
std::array<std::atomic<int>, kSignals> g_answer_codes{};  // 0: as usual
std::array<std::atomic<int>, kSignals> g_answer_ms{};
std::atomic<int> g_checkpoint_file{-1};

void nap_ms(int ms) {
  const timespec nap{.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1'000'000L};
  nanosleep(&nap, nullptr);
}

/// Waits until `word` is set or the time is up.
bool wait_for(const std::atomic<int32_t>& word, int limit_ms) {
  for (int waited_ms = 0; waited_ms < limit_ms; waited_ms += 5) {
    if (word.load() != 0) return true;
    nap_ms(5);
  }
  return word.load() != 0;
}

extern "C" void on_end_request(int signal) {
  const int saved_errno = errno;
  LifeBlock& block = *g_block.load();
  int32_t none = 0;
  block.signal.compare_exchange_strong(none, signal);
  const int n_clears = block.n_clears.load();
  if (g_n_clears_seen.exchange(n_clears) != n_clears) g_n_requests.store(0);
  if ((signal == SIGTERM || signal == SIGINT) && g_n_requests.fetch_add(1) >= 1) {
    const int code = decide_exit_code(block, 128 + signal);
    block.spoken.store(1);  // the others follow without a word
    _exit(code);
  }
  errno = saved_errno;
}

extern "C" void on_last_exit(int) {
  _exit(g_last_exit_code.load());
}

void handle(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

[[noreturn]] void on_failed_requirement(const std::string& line) {
  end_all_ranks(70, line);
}

}  // namespace

LifeView life() {
  return {g_block.load(), g_mine.load()};
}

void use_life(LifeView view) {
  const LifeView before = life();
  const LifeView after = view.block != nullptr ? view : LifeView{&g_own_block, &g_own_rank};
  after.mine->phase.store(before.mine->phase.load());
  g_block.store(after.block);
  g_mine.store(after.mine);
  g_n_clears_seen.store(after.block->n_clears.load());
  int32_t none = 0;
  if (const int signal = before.block->signal.load(); signal != 0) {
    after.block->signal.compare_exchange_strong(none, signal);
  }
}

int decide_exit_code(LifeBlock& block, int exit_code) {
  int32_t decided = 0;
  return block.exit_code.compare_exchange_strong(decided, exit_code) ? exit_code : decided;
}

bool claim_speech(LifeBlock& block) {
  int32_t nobody = 0;
  return block.speaker.compare_exchange_strong(nobody, 1);
}

void speak(LifeBlock& block, const char* line, unsigned long n_bytes) {
  // One write, so that lines of several processes do not mix.
  char text[2048] = "tandem: ";
  const size_t n_head = std::strlen(text);
  const size_t n_line = std::min<size_t>(n_bytes, sizeof text - n_head - 1);
  std::memcpy(text + n_head, line, n_line);
  // One line, whatever a file's name or a peer's text holds.
  std::replace_if(
      text + n_head, text + n_head + n_line,
      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
  text[n_head + n_line] = '\n';
  [[maybe_unused]] const ssize_t n_written = write(STDERR_FILENO, text, n_head + n_line + 1);
  block.spoken.store(1);
}

void note_phase(std::string_view phase) {
  uint64_t word = 0;
  std::memcpy(&word, phase.data(), std::min(phase.size(), sizeof word));
  g_mine.load(std::memory_order_relaxed)->phase.store(word, std::memory_order_relaxed);
}

std::string current_phase() {
  const uint64_t word = g_mine.load()->phase.load();
  char text[sizeof word + 1] = "";
  std::memcpy(text, &word, sizeof word);
  return text;
}

void install_signal_handlers() {
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) handle(signal, on_end_request);
  struct sigaction hangup {};
  sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) handle(SIGHUP, on_end_request);  // nohup's wish is kept
  handle(SIGPIPE, SIG_IGN);
  set_requirement_hook(on_failed_requirement);
}

int pending_signal() {
  return g_block.load(std::memory_order_relaxed)->signal.load(std::memory_order_relaxed);
}

void clear_pending_signal() {
  LifeBlock& block = *g_block.load();
  block.n_clears.fetch_add(1);
  block.signal.store(0);
}

SignalAnswer signal_answer(int signal) {
  const auto i = static_cast<size_t>(signal);
  if (i >= kSignals || g_answer_codes[i].load() == 0) return {128 + signal, kSignalGraceMs};
  return {g_answer_codes[i].load(), g_answer_ms[i].load()};
}

void set_signal_answer(int signal, SignalAnswer answer) {
  const auto i = static_cast<size_t>(signal);
  require(i < kSignals && answer.exit_code != 0, "not an answer to a signal", signal, answer.exit_code);
  g_answer_ms[i].store(answer.grace_ms);
  g_answer_codes[i].store(answer.exit_code);
}

void set_checkpoint_file(int fd) {
  g_checkpoint_file.store(fd);
}

int checkpoint_file() {
  return g_checkpoint_file.load();
}

void arm_last_exit(int seconds, int exit_code) {
  g_last_exit_code.store(exit_code);
  handle(SIGALRM, on_last_exit);
  sigset_t alarm_only;
  sigemptyset(&alarm_only);
  sigaddset(&alarm_only, SIGALRM);
  pthread_sigmask(SIG_UNBLOCK, &alarm_only, nullptr);
  alarm(static_cast<unsigned>(seconds));
}

void set_job(int rank, void (*abort_job)(int exit_code)) {
  g_rank.store(rank);
  g_job_thread = std::this_thread::get_id();
  g_abort_job.store(abort_job);
}

void end_all_ranks(int exit_code, const std::string& line) {
  LifeBlock& block = *g_block.load();
  const int code = decide_exit_code(block, exit_code);
  arm_last_exit(kLastExitS, code);
  const int rank = g_rank.load();
  const bool others = &block != &g_own_block;  // who could say the same
  if (rank != 0 && others) wait_for(block.speaker, kRankZeroGraceMs);
  if (claim_speech(block)) {
    const std::string text = rank == 0 ? line : "rank " + std::to_string(rank) + ": " + line;
    speak(block, text.data(), text.size());
  } else {
    wait_for(block.spoken, kSpeechGraceMs);
  }
  // Launchers kill the rest when the first rank ends; a moment's patience lets all end by the same code.
  if (others) nap_ms(kFollowMs);
  const auto abort_job = g_abort_job.load();
  if (abort_job != nullptr && std::this_thread::get_id() == g_job_thread) abort_job(code);
  _exit(code);
}

}  // namespace tandem
