// The kernels' side of the peer exchange (peer_windows.h): sending and awaiting packets.
#pragma once

#include "ops/cuda/peer_windows.h"

namespace tandem::cuda::device {

/// A packet in one 8-byte store that no cache holds back.
__device__ inline void store_packet(std::byte* p, float value, uint32_t number) {
  asm volatile("st.volatile.global.v2.u32 [%0], {%1,%2};" ::"l"(p), "r"(__float_as_uint(value)), "r"(number)
               : "memory");
}
/// Two packets of neighbouring columns; each holds its own number, so the store may be torn between them.
__device__ inline void store_packets(std::byte* p, float a, float b, uint32_t number) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1,%2,%3,%2};" ::"l"(p), "r"(__float_as_uint(a)),
               "r"(number), "r"(__float_as_uint(b))
               : "memory");
}
__device__ inline uint4 load_packets(const std::byte* p) {
  uint4 v;
  asm volatile("ld.volatile.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}

/// Number and slots of one exchange.
struct PeerSlots {
  const PeerWindows& peers;
  uint32_t number;
  int64_t set_offset;

  __device__ explicit PeerSlots(const PeerWindows& which)
      : peers(which),
        number(which.n_ranks == 0 ? 0 : *which.number_base + which.number),
        set_offset((number & 1U) * which.n_ranks * which.slot_bytes) {}
  /// Where rank `from`'s packets lie in rank `at`'s window.
  __device__ std::byte* slot(int at, int from) const {
    return peers.windows[at] + set_offset + from * peers.slot_bytes;
  }
};

/// Sends single values into this rank's slot of every window, its own included.
class PeerSender {
 public:
  __device__ explicit PeerSender(const PeerWindows& peers) : slots_(peers) {}
  __device__ int n_ranks() const { return slots_.peers.n_ranks; }
  __device__ void send(int64_t token, int64_t col, int64_t n_cols, float value) const {
    for (int r = 0; r < slots_.peers.n_ranks; ++r) {
      store_packet(slots_.slot(r, slots_.peers.rank) + (token * n_cols + col) * kPacketBytes, value,
                   slots_.number);
    }
  }

 private:
  PeerSlots slots_;
};

}  // namespace tandem::cuda::device
