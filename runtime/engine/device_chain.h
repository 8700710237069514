// A request's sampling parameters as a device reads them (ops/core/sampling_chain.h).
#pragma once

#include <optional>
#include <vector>

#include "ops/core/sampling_chain.h"
#include "runtime/engine/sampling.h"

namespace tandem {

struct DeviceChain {
  sampling::Chain chain;
  std::vector<sampling::Bias> bias;  ///< sorted by token, those of one token in their order
};

/// None where the device's tables have no room for it, so that the host must sample: more than kMostBias
/// entries, or penalties that look back further than kHistoryTokens. context_tokens: most of a sequence.
std::optional<DeviceChain> device_chain(const SamplingParams& params, int n_ranks, int64_t context_tokens);

}  // namespace tandem
