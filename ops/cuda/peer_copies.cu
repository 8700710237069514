#include "ops/cuda/peer_copies.h"

#include "ops/core/check.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/status.h"

namespace tandem::cuda {
namespace {

struct MeetArgs {
  uint32_t* theirs = nullptr;      ///< the flag in the other's window
  const uint32_t* mine = nullptr;  ///< in ours
  uint32_t number = 0;
};

/// Thread map: one thread. Says that all rows up to piece `number` are in the other's window (the copies
/// before this kernel in its stream have ended), and waits until the other says so of ours. 4 bytes each way.
__global__ void __launch_bounds__(32) meet_kernel(const __grid_constant__ MeetArgs args) {
  if (threadIdx.x != 0) return;
  __threadfence_system();
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(args.theirs), "r"(args.number) : "memory");
  uint32_t seen = 0;
  do {
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(args.mine) : "memory");
  } while (static_cast<int32_t>(seen - args.number) < 0);
  __threadfence_system();
}

}  // namespace

void PeerCopies::begin(std::span<std::byte* const> windows) {
  require(windows.size() == 2 && where_.slot_bytes > 0, "copies: windows", windows.size());
  windows_[0] = windows[0];
  windows_[1] = windows[1];
  ++n_exchanges_;
}

void PeerCopies::swap(const float* mine, Range floats, cudaStream_t stream) {
  require(windows_[0] != nullptr && !floats.empty() && carries(floats.end), "copies: floats", floats.begin,
          floats.end);
  auto* to = reinterpret_cast<float*>(slot(other())) + floats.begin;
  check(cudaMemcpyAsync(to, mine + floats.begin, static_cast<size_t>(floats.size()) * sizeof(float),
                        cudaMemcpyDeviceToDevice, stream));
  const auto flag = [&](int rank) { return reinterpret_cast<uint32_t*>(windows_[rank] + where_.offset); };
  MeetArgs args{flag(other()), flag(rank_), ++n_pieces_};
  launch(reinterpret_cast<const void*>(meet_kernel), {1, 32}, &args, stream);
}

const float* PeerCopies::theirs() const {
  return reinterpret_cast<const float*>(slot(rank_));
}

}  // namespace tandem::cuda
