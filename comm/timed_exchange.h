// An exchange that counts the time spent in it: what `tandem bench --breakdown` calls the collectives' share
// on CPUs. Made by launch/session around the communicator; knows nothing of what is exchanged.
#pragma once

#include <chrono>
#include <cstddef>

#include "ops/core/partial_exchange.h"

namespace tandem {

class TimedExchange final : public PartialExchange {
 public:
  /// `inner` must outlive it.
  explicit TimedExchange(PartialExchange& inner) : inner_(inner) {}

  std::byte* contribution(size_t n_bytes) override { return inner_.contribution(n_bytes); }
  /// Counted: handing over, and waiting for the slowest rank. What adds up the sums afterwards is compute.
  PartialSlots publish() override {
    const auto begin = std::chrono::steady_clock::now();
    const PartialSlots slots = inner_.publish();
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return slots;
  }

  /// Since it was made.
  double seconds() const { return seconds_; }

 private:
  PartialExchange& inner_;
  double seconds_ = 0.0;
};

}  // namespace tandem
