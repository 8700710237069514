#include "ops/cuda/peer_copies.h"

#include <vector>

#include "ops/core/check.h"
#include "ops/cuda/arrivals_device.cuh"
#include "ops/cuda/launch.h"
#include "ops/cuda/status.h"

namespace tandem::cuda {
namespace {

/// Thread map: one thread, which awaits one piece.
__global__ void __launch_bounds__(32) await_kernel(const __grid_constant__ Arrivals arrivals) {
  if (threadIdx.x == 0) device::await_arrival(arrivals.flag, arrivals.number);
}

}  // namespace

void PeerCopies::open() {
  std::vector<uint32_t> numbers(kArrivalNumbers);
  for (uint32_t i = 0; i < kArrivalNumbers; ++i) numbers[i] = i;
  numbers_ = DeviceBuffer<uint32_t>(numbers.size());
  check(cudaMemcpy(numbers_.data(), numbers.data(), numbers_.bytes(), cudaMemcpyHostToDevice));
}

void PeerCopies::begin(std::span<std::byte* const> windows) {
  require(windows.size() == 2 && where_.slot_bytes > 0 && numbers_.data() != nullptr, "copies: windows",
          windows.size());
  if (windows[0] != windows_[0]) {  // another set, whose flags know its own pieces alone
    pieces_of_[windows_[0]] = n_pieces_;
    n_pieces_ = pieces_of_[windows[0]];
  }
  windows_[0] = windows[0];
  windows_[1] = windows[1];
  ++n_exchanges_;
  first_piece_ = n_pieces_ + 1;
}

void PeerCopies::send(const float* mine, Range floats, cudaStream_t stream) {
  require(windows_[0] != nullptr && !floats.empty() && carries(floats.end), "copies: floats", floats.begin,
          floats.end);
  auto* to = reinterpret_cast<float*>(slot(other())) + floats.begin;
  check(cudaMemcpyAsync(to, mine + floats.begin, static_cast<size_t>(floats.size()) * sizeof(float),
                        cudaMemcpyDeviceToDevice, stream));
  const uint32_t* number = numbers_.data() + ++n_pieces_ % kArrivalNumbers;
  check(cudaMemcpyAsync(flag(other()), number, sizeof *number, cudaMemcpyDeviceToDevice, stream));
}

void PeerCopies::await(cudaStream_t stream) const {
  require(windows_[0] != nullptr && n_pieces_ >= first_piece_, "copies: nothing was sent", n_pieces_);
  Arrivals last{flag(rank_), n_pieces_, 1};
  launch(reinterpret_cast<const void*>(await_kernel), {1, 32}, &last, stream);
}

Arrivals PeerCopies::arrivals(int64_t piece_tokens) const {
  require(piece_tokens > 0, "copies: tokens of a piece", piece_tokens);
  return {flag(rank_), first_piece_, piece_tokens};
}

const float* PeerCopies::theirs() const {
  return reinterpret_cast<const float*>(slot(rank_));
}

}  // namespace tandem::cuda
