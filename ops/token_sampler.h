// Choosing tokens on the device: the last verb of a step, whose results the host collects later. The next
// step may be launched before: its tokens are then named by what they are, "the latest of this slot". A
// backend that can't (the CPU's) has none (Backend::token_sampler()); runtime/engine/executor then samples.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/core/range.h"
#include "ops/core/sampling_chain.h"

namespace tandem {

class Matrix;
class Vector;

/// In a step's tokens: what the latest step chose in the sequence's slot.
inline constexpr int32_t kLatestOfSlot = -1;

/// One token to choose in a step.
struct StepSample {
  int32_t token = 0;  ///< index within the step of the token behind which it comes
  int32_t slot = 0;
};

struct SamplingShape {
  std::vector<Range> vocab;  // (n_ranks): which token ids each rank's head has
  int64_t n_slots = 0;
};

class TokenSampler {
 public:
  virtual ~TokenSampler() = default;

  /// Once, before the first step; collective.
  virtual void open_sampling(const SamplingShape& shape) = 0;
  /// A slot begins, in order with the steps. history: the tokens before the slot's first step (of more than
  /// kHistoryTokens the last ones). bias: chain.n_bias entries, at most kMostBias.
  virtual void admit(int32_t slot, const sampling::Chain& chain, std::span<const sampling::Bias> bias,
                     std::span<const int32_t> history) = 0;
  /// The verb: head and choice of the step's samples.
  virtual void sample(const Vector& norm, float eps, const Matrix& head) = 0;
  /// Waits for the oldest launched step with samples that was not collected; its tokens in their order.
  /// Throws Error(bad_data) where no token had a finite score or the step's values were not finite.
  virtual std::vector<int32_t> collect() = 0;
};

}  // namespace tandem
