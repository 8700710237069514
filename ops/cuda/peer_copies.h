// The exchange of two ranks' large partial sums without multiprocessors: a rank's copy engine writes its rows
// into the other's window (bulk_windows.h) while both go on multiplying, and behind each piece of rows its
// number (arrivals.h). Who reads awaits the number, within the kernel that adds its own rows and the other's
// in rank order (norm.h), so both get the same bits. Called by the backend.
//
// Exchanges use the two slots in turns. Why two are enough: a rank's copy of exchange e begins when its
// product e has ended, which in its stream is behind its sums of e - 1, which awaited every piece of the
// other's e - 1. The other sent its last piece of e - 1 when its product e - 1 had ended, which in its own
// stream is behind its sums of e - 2: nobody still reads the slot that e overwrites. So a caller keeps
// products and sums in one stream, and awaits every piece. A flag may be ahead of what is awaited (the other
// rank's next exchange, in the other slot), never behind what was awaited last.
//
// The wait ends when the other rank has come, or with the process: a rank whose peer dies is ended by its
// watchdog, as where a norm kernel awaits packets. It can't hold up what it waits for: a caller puts the
// copies of a whole exchange into their stream before it launches what awaits the other's; copies between two
// devices take no multiprocessor, and where ranks share a device, so that theirs may, await() takes only one
// thread.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>

#include "ops/core/range.h"
#include "ops/cuda/arrivals.h"
#include "ops/cuda/bulk_windows.h"
#include "ops/cuda/memory.h"

namespace tandem::cuda {

class PeerCopies {
 public:
  /// `rank`: 0 or 1, ours.
  PeerCopies(const BulkWindow& where, int rank) : where_(where), rank_(rank) {}

  /// Whether n floats have room in the windows. The same on both ranks.
  bool carries(int64_t n) const { return n * static_cast<int64_t>(sizeof(float)) <= where_.slot_bytes; }

  /// On the current device, before the first exchange.
  void open();
  /// Begins the next exchange, in windows: (2), in rank order, as this device sees them, zeroed
  /// when they were made, or used by this object before. Both ranks begin the same exchanges in the same
  /// order.
  void begin(std::span<std::byte* const> windows);
  /// Sends mine[floats], the exchange's next piece, in order with `stream`. Both ranks cut their floats
  /// alike, into fewer than kArrivalNumbers / 4. mine is on the device.
  void send(const float* mine, Range floats, cudaStream_t stream);
  /// Behind this in `stream` the other rank's rows are there, as many pieces as were sent.
  void await(cudaStream_t stream) const;
  /// What awaits them itself, where every piece but the last was of piece_tokens.
  Arrivals arrivals(int64_t piece_tokens) const;
  /// The other rank's floats of this exchange, as they lie in its memory.
  const float* theirs() const;

 private:
  int other() const { return 1 - rank_; }
  std::byte* slot(int of_rank) const {
    return windows_[of_rank] + where_.offset + kBulkFlagBytes + (n_exchanges_ % 2) * where_.slot_bytes;
  }
  uint32_t* flag(int of_rank) const { return reinterpret_cast<uint32_t*>(windows_[of_rank] + where_.offset); }

  BulkWindow where_;
  int rank_;
  DeviceBuffer<uint32_t> numbers_;  // (kArrivalNumbers): 0, 1, 2 …, to copy flags from
  std::byte* windows_[2] = {};
  uint32_t n_exchanges_ = 0;
  uint32_t n_pieces_ = 0;                           ///< that were sent, of all exchanges in these windows
  uint32_t first_piece_ = 0;                        ///< of this exchange
  std::map<const std::byte*, uint32_t> pieces_of_;  ///< of other windows, by the first
};

}  // namespace tandem::cuda
