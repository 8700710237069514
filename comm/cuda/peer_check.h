// The kernels that prove that ranks reach each other's memory, before anything relies on it. Some machines
// (address translation between PCIe devices, broken links) accept such writes and lose them. Used by
// comm/cuda/peer_memory.cpp only.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace tandem::cuda {

inline constexpr int kMostPeers = 8;

/// All windows as one rank sees them.
struct PeerWindows {
  uint64_t* data[kMostPeers] = {};  ///< element r: (n_words), of rank r
  int64_t n_words = 0;              ///< of a window
  int32_t n_ranks = 0;
  int32_t rank = 0;  ///< ours
};

/// The word that `writer` leaves at `index` of `owner`'s window: different for each of the three.
constexpr uint64_t pattern_word(int writer, int owner, int64_t index) {
  uint64_t x = static_cast<uint64_t>(index) * 0x9e3779b97f4a7c15U;
  x ^= (static_cast<uint64_t>(writer) << 56) ^ (static_cast<uint64_t>(owner) << 48) ^ 0x5bd1e9955bd1e995U;
  x ^= x >> 31;
  x *= 0xbf58476d1ce4e5b9U;
  return x ^ (x >> 29);
}

/// Who writes a word: the windows are dealt out in equal runs, so that every rank writes into every window.
constexpr int writer_of(int64_t index, int64_t n_words, int n_ranks) {
  return static_cast<int>(index * n_ranks / n_words);
}

/// Writes this rank's words of the pattern into every window.
void write_patterns(const PeerWindows& windows, cudaStream_t stream);
/// Adds to `n_wrong` the words of the own window that are not the pattern's.
void check_patterns(const PeerWindows& windows, unsigned long long* n_wrong, cudaStream_t stream);

/// The ranks' kernels greet each other while they run: `n_rounds` times each stores a word into every window
/// and waits for the others' in its own, at the windows' beginning (which must be zero). Gives up after
/// `limit_ms` and then sets `late` to 1 + the rank that was not heard of. All ranks launch it at about the
/// same time.
void greet_peers(const PeerWindows& windows, int n_rounds, int limit_ms, int* late, cudaStream_t stream);
/// Brings the kernels to the device, so that no launch has to wait for that.
void load_peer_checks();

}  // namespace tandem::cuda
