#include "comm/cuda/peer_check.h"

#include "ops/cuda/launch.h"
#include "ops/cuda/status.h"

namespace tandem::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 512;

struct CheckArgs {
  PeerWindows windows;
  unsigned long long* n_wrong = nullptr;
};

struct GreetArgs {
  PeerWindows windows;
  int32_t n_rounds = 0;
  int64_t limit_ns = 0;
  int* late = nullptr;
};

__device__ inline void store_for_peers(uint64_t* word, uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

__device__ inline uint64_t load_from_peers(const uint64_t* word) {
  uint64_t value = 0;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  return value;
}

__device__ inline int64_t now_ns() {
  int64_t ns = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

/// Thread map: a word a thread, striding over all words of each window in turn; writes 8 bytes for each that
/// is this rank's.
__global__ __launch_bounds__(kThreads) void write_patterns_kernel(const __grid_constant__ CheckArgs args) {
  const PeerWindows& w = args.windows;
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (int owner = 0; owner < w.n_ranks; ++owner) {
    for (int64_t i = first; i < w.n_words; i += int64_t{gridDim.x} * kThreads) {
      if (writer_of(i, w.n_words, w.n_ranks) == w.rank)
        store_for_peers(w.data[owner] + i, pattern_word(w.rank, owner, i));
    }
  }
}

/// Thread map: a word a thread, striding over the own window; reads each word once.
__global__ __launch_bounds__(kThreads) void check_patterns_kernel(const __grid_constant__ CheckArgs args) {
  const PeerWindows& w = args.windows;
  unsigned long long n_wrong = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < w.n_words;
       i += int64_t{gridDim.x} * kThreads) {
    const int writer = writer_of(i, w.n_words, w.n_ranks);
    n_wrong += load_from_peers(w.data[w.rank] + i) == pattern_word(writer, w.rank, i) ? 0 : 1;
  }
  if (n_wrong != 0) atomicAdd(args.n_wrong, n_wrong);
}

/// Thread map: one block, a thread a peer. 8 bytes to and from each peer a round.
__global__ __launch_bounds__(kMostPeers) void greet_peers_kernel(const __grid_constant__ GreetArgs args) {
  const PeerWindows& w = args.windows;
  const int peer = static_cast<int>(threadIdx.x);
  const int64_t begin_ns = now_ns();
  bool heard = true;
  for (int round = 1; round <= args.n_rounds; ++round) {
    // One word a round and writer: a word that comes late can't be taken for another round's.
    const int64_t base = int64_t{round - 1} * w.n_ranks;
    if (peer < w.n_ranks) {
      store_for_peers(w.data[peer] + base + w.rank, pattern_word(w.rank, peer, round));
      const uint64_t expected = pattern_word(peer, w.rank, round);
      while (heard && load_from_peers(w.data[w.rank] + base + peer) != expected)
        heard = now_ns() - begin_ns < args.limit_ns;
    }
    if (__syncthreads_or(!heard)) break;
  }
  if (!heard) atomicCAS(args.late, 0, peer + 1);
}

LaunchShape shape_of(int64_t n_words) {
  const int64_t n_blocks = (n_words + kThreads - 1) / kThreads;
  return {.n_blocks = n_blocks < kMostBlocks ? n_blocks : kMostBlocks, .threads = kThreads};
}

template <class Args>
const void* address_of(void (*kernel)(Args)) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace

void write_patterns(const PeerWindows& windows, cudaStream_t stream) {
  CheckArgs args{.windows = windows};
  launch(address_of(write_patterns_kernel), shape_of(windows.n_words), &args, stream);
}

void check_patterns(const PeerWindows& windows, unsigned long long* n_wrong, cudaStream_t stream) {
  CheckArgs args{.windows = windows, .n_wrong = n_wrong};
  launch(address_of(check_patterns_kernel), shape_of(windows.n_words), &args, stream);
}

void greet_peers(const PeerWindows& windows, int n_rounds, int limit_ms, int* late, cudaStream_t stream) {
  require(int64_t{n_rounds} * windows.n_ranks <= windows.n_words, "a window is too small to greet in");
  GreetArgs args{
      .windows = windows, .n_rounds = n_rounds, .limit_ns = int64_t{limit_ms} * 1'000'000, .late = late};
  launch(address_of(greet_peers_kernel), {.n_blocks = 1, .threads = kMostPeers}, &args, stream);
}

void load_peer_checks() {
  cudaFuncAttributes attributes{};
  for (const void* kernel :
       {address_of(write_patterns_kernel), address_of(check_patterns_kernel), address_of(greet_peers_kernel)})
    check(cudaFuncGetAttributes(&attributes, kernel));
}

}  // namespace tandem::cuda
