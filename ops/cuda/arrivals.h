// How a reader knows that rows which another rank's copy engine writes are there: pieces are numbered
// through, and behind each piece its number is copied to a flag beside the rows (peer_copies.h). Numbers go
// round: the flag may be ahead of what is awaited by less than half of them, and is never behind it by as
// much.
#pragma once

#include <cstdint>

namespace tandem::cuda {

inline constexpr uint32_t kArrivalNumbers = 4096;

/// Of one exchange's rows.
struct Arrivals {
  const uint32_t* flag = nullptr;  ///< on the reader's device; null: the rows are there
  uint32_t number = 0;             ///< of the first piece
  int64_t piece_tokens = 1;        ///< of each but the last
};

constexpr bool has_arrived(uint32_t seen, uint32_t number) {
  return (seen - number) % kArrivalNumbers < kArrivalNumbers / 2;
}

}  // namespace tandem::cuda
