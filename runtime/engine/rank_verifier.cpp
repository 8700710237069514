#include "runtime/engine/rank_verifier.h"

#include <fmt/format.h>

#include <cstring>

#include "ops/core/error.h"

namespace tandem {
namespace {

/// What a rank shows the others.
struct Shown {
  uint64_t digest = 0;
  uint64_t step = 0;
  int32_t token = -1;
  int32_t padding = 0;
};

uint64_t mixed(uint64_t digest, uint64_t value) {
  digest = (digest ^ value) * 0x9E3779B97F4A7C15U;
  return digest ^ digest >> 29;
}

}  // namespace

void RankVerifier::note(uint64_t step, std::span<const int32_t> tokens) {
  if (every_ == 0 || tokens.empty()) return;
  digest_ = mixed(digest_, step);
  for (const int32_t token : tokens) digest_ = mixed(digest_, static_cast<uint32_t>(token));
  step_ = step;
  token_ = tokens[0];
  n_tokens_ += static_cast<int64_t>(tokens.size());
  ++n_noted_;
  if (n_noted_ - n_compared_ >= every_) compare();
}

void RankVerifier::finish() {
  if (n_noted_ > n_compared_) compare();
}

void RankVerifier::compare() {
  const Shown mine{digest_, step_, token_, 0};
  std::memcpy(communicator_.contribution(sizeof(mine)), &mine, sizeof(mine));
  const auto slots = communicator_.publish();
  Shown first;
  std::memcpy(&first, slots[0], sizeof(first));
  for (size_t r = 1; r < slots.size(); ++r) {
    Shown other;
    std::memcpy(&other, slots[r], sizeof(other));
    if (other.digest == first.digest) continue;
    const std::string since = every_ > 1 ? fmt::format(" or in the {} steps before it", every_ - 1) : "";
    throw Error(ExitCode::internal,
                fmt::format("rank {} chose other tokens than rank 0 in step {}{}: {} there, {} on rank 0", r,
                            other.step, since, other.token, first.token));
  }
  n_compared_ = n_noted_;
}

}  // namespace tandem
