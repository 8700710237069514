// How a rank's partial sums reach the other ranks, as a backend sees it: it knows neither ranks nor MPI.
// Implemented by comm's communicators; used by backends whose partial sums lie in host memory.
#pragma once

#include <cstddef>
#include <span>

namespace tandem {

/// Every rank's partial sums, in rank order.
using PartialSlots = std::span<const std::byte* const>;

/// An exchange: every rank contributes `n_bytes` (the same number on all), every rank reads all contributions
/// in rank order. Slots are doubled, therefore:
///   - what publish() returned may be read until this rank CALLS publish() the next time, and no longer;
///   - in between a rank may call contribution() and fill it: that is the other set of slots.
class PartialExchange {
 public:
  virtual ~PartialExchange() = default;
  /// Where this rank writes its next contribution; at least `n_bytes`, 64-byte aligned, content unspecified.
  /// May grow the slots collectively. Calling it again before publish() starts the contribution anew.
  virtual std::byte* contribution(size_t n_bytes) = 0;
  /// Hands the contribution over and waits for everyone's. Element i points to rank i's bytes.
  virtual PartialSlots publish() = 0;
};

}  // namespace tandem
