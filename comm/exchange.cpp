#include "comm/exchange.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "ops/core/check.h"

namespace tandem {
namespace {

constexpr size_t kSmallestSetBytes = size_t{256}
                                     << 10;  // covers a decode step of most models: no growth there

// Slots start on lines of their own, and one line apart from a power of two: slots at equal offsets within a
// page would fight for the same sets of the first-level cache.
size_t stride_for(size_t n_bytes) {
  return (n_bytes + kLineBytes - 1) / kLineBytes * kLineBytes + kLineBytes;
}

size_t set_bytes_for(size_t needed_bytes) {
  return std::bit_ceil(std::max(needed_bytes, kSmallestSetBytes));
}

}  // namespace

size_t SlotExchange::memory_bytes(size_t n_bytes, int n_slots) {
  return 2 * set_bytes_for(stride_for(n_bytes) * static_cast<size_t>(n_slots));
}

SlotExchange::SlotExchange(NodeChannel& channel, int rank, std::vector<int> slot_of_rank, Allocate allocate,
                           Fetch fetch)
    : channel_(channel),
      rank_(rank),
      slot_of_rank_(std::move(slot_of_rank)),
      allocate_(std::move(allocate)),
      fetch_(std::move(fetch)),
      contributions_(slot_of_rank_.size(), nullptr) {}

std::byte* SlotExchange::set_begin() const {
  return slots_->bytes().data() + (number_ % 2) * set_bytes_;
}

std::byte* SlotExchange::contribution(size_t n_bytes) {
  if (!filling_) {
    filling_ = true;
    ++number_;
  }
  n_bytes_ = n_bytes;
  stride_bytes_ = stride_for(n_bytes);
  const size_t needed_bytes = stride_bytes_ * slot_of_rank_.size();
  if (needed_bytes > set_bytes_) grow(needed_bytes);
  return set_begin() + static_cast<size_t>(slot_of_rank_[static_cast<size_t>(rank_)]) * stride_bytes_;
}

void SlotExchange::grow(size_t needed_bytes) {
  // All ranks pass the same sizes, so all come here in the same call. The old slots stay until everyone's
  // flag of this exchange is seen. If they were only just made (contribution() called twice), nobody has read
  // them.
  if (!retired_) {
    retired_ = std::move(slots_);
  } else {
    slots_.reset();
  }
  set_bytes_ = set_bytes_for(needed_bytes);
  slots_ = allocate_(2 * set_bytes_);
}

std::span<const std::byte* const> SlotExchange::publish() {
  require(filling_, "publish() without contribution()", number_);
  filling_ = false;
  channel_.hand_over(number_, n_bytes_);
  std::byte* const set = set_begin();
  for (size_t r = 0; r < contributions_.size(); ++r) {
    contributions_[r] = set + static_cast<size_t>(slot_of_rank_[r]) * stride_bytes_;
  }
  if (!fetch_) {
    channel_.await_all(number_, n_bytes_);
  } else if (channel_.rank() == 0) {
    channel_.await_all(number_, n_bytes_);
    fetch_(set, stride_bytes_);
    channel_.announce_remote(number_);
  } else {
    channel_.await_remote(number_);
  }
  if (retired_) retired_.reset();
  return contributions_;
}

}  // namespace tandem
