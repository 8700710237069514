// The words by which the processes of a node know of each other's life and end. In memory that the node's
// ranks share (comm/watchdog.cpp makes it), or in this process alone before that and where there are no
// others. Used by comm/process.cpp and comm/watchdog.cpp only. Written from signal handlers too: lock-free
// atomics, nothing else.
#pragma once

#include <atomic>
#include <cstdint>

namespace tandem {

/// One process's words; written by that process only.
struct RankLife {
  alignas(128) std::atomic<uint64_t> beat{0};  // counted up by its watchdog thread
  std::atomic<uint64_t> phase{0};              // up to eight characters, the first in the lowest byte
  std::atomic<uint64_t> pid_namespace{0};      // pids mean something only within one
  std::atomic<int32_t> pid{0};
  std::atomic<int32_t> rank{0};  // in the job
};

/// What the processes of a node decide together. A word that is set stays set (but
/// for `signal`, which rank 0 may clear); the ones that several could set go by compare-and-swap from 0.
struct LifeBlock {
  alignas(128) std::atomic<int32_t> exit_code{0};  // not 0: every process ends with it
  std::atomic<int32_t> speaker{0};                 // 1: somebody has taken it on to print the one line
  std::atomic<int32_t> spoken{0};                  // 1: the line is out, or there is none to wait for
  std::atomic<int32_t> signal{0};                  // the first signal that asked for the end
  std::atomic<int32_t> n_clears{0};                // how often that was taken back
};

static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<int32_t>::is_always_lock_free);

/// Where this process's words are. Swapped by the watchdog between this process's own and the node's.
struct LifeView {
  LifeBlock* block = nullptr;
  RankLife* mine = nullptr;
};

/// The view in use now.
LifeView life();
/// Takes `view` into use (the node's), or this process's own words where it is empty. What is pending is
/// carried over.
void use_life(LifeView view);

/// Sets the exit code unless there is one already. Returns the one that holds.
int decide_exit_code(LifeBlock& block, int exit_code);
/// True for the one process that is to print the line.
bool claim_speech(LifeBlock& block);
/// Writes "tandem: `line`" to stderr in one piece and says so in the block.
void speak(LifeBlock& block, const char* line, unsigned long n_bytes);

}  // namespace tandem
