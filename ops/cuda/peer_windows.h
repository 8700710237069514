// The peer exchange: where each rank's partial rows lie in every rank's window of device memory. A value
// travels with the number of its exchange in one 8-byte store, so that a reader that sees the number has the
// value: no flag, no fence. Written by the GEMV's epilogue or by the norm kernel, read by the norm kernel
// (norm.cu).
//
// A window holds two sets of slots, used in turns, a slot a rank, a row a token: (2, n_ranks,
// kExchangeTokens, n_cols) packets {value, number}. Why two sets are enough: a rank writes exchange e after
// its own exchange e - 1 has ended, which took every peer's packets of e - 1, which a peer writes after its
// exchange e - 2 has ended: nobody still reads what e overwrites.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tandem::cuda {

inline constexpr int kMaxPeers = 8;
inline constexpr int64_t kExchangeTokens = 64;  ///< at once
inline constexpr int64_t kPacketBytes = 8;

constexpr int64_t exchange_slot_bytes(int64_t n_cols) {
  return kExchangeTokens * n_cols * kPacketBytes;
}
/// Bytes of a window that every rank makes; the proof that peers reach it wants a few.
constexpr int64_t exchange_window_bytes(int n_ranks, int64_t n_cols) {
  constexpr int64_t kLeast = 64 << 10;
  const int64_t n_bytes = 2 * n_ranks * exchange_slot_bytes(n_cols);
  return n_bytes < kLeast ? kLeast : n_bytes;
}

/// What a kernel needs of the exchange; fixed while a graph lives. No ranks: there is no exchange.
struct PeerWindows {
  std::byte* windows[kMaxPeers] = {};  ///< of each rank, as this device sees them
  int32_t n_ranks = 0;
  int32_t rank = 0;
  int64_t slot_bytes = 0;
  const uint32_t* number_base = nullptr;  ///< on the device: number of the step's first exchange
  uint32_t number = 0;                    ///< of this one, counted from the base
};

}  // namespace tandem::cuda
