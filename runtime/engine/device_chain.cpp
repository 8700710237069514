#include "runtime/engine/device_chain.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tandem {
namespace {

constexpr int32_t kMostCandidates = 256;  // of a rank: more are not worth their way

sampling::Road road_of(const SamplingParams& p, int n_ranks) {
  using sampling::Road;
  if (p.greedy()) return Road::best;
  if (p.top_k > 0) {
    const int32_t most = std::min(kMostCandidates, sampling::kPool / n_ranks);
    return p.top_k <= most ? Road::candidates : Road::everything;
  }
  return p.top_p < 1.0f || p.min_p > 0.0f ? Road::everything : Road::noise;
}

}  // namespace

std::optional<DeviceChain> device_chain(const SamplingParams& params, int n_ranks, int64_t context_tokens) {
  if (params.n_logprobs >= 0) return std::nullopt;  // they take all logits
  if (params.bias.size() > static_cast<size_t>(sampling::kMostBias)) return std::nullopt;
  DeviceChain out;
  sampling::Chain& chain = out.chain;
  if (params.has_penalties()) {
    const int64_t n_recent =
        params.repeat_last_n < 0 ? context_tokens : std::min<int64_t>(params.repeat_last_n, context_tokens);
    if (n_recent > sampling::kHistoryTokens) return std::nullopt;
    chain.n_recent = static_cast<int32_t>(n_recent);
  }
  chain.seed = params.seed;
  chain.road = road_of(params, n_ranks);
  chain.greedy = params.greedy();
  chain.inverse_temperature = chain.greedy ? 1.0f : 1.0f / params.temperature;
  chain.log_min_p = params.min_p > 0.0f ? std::log(params.min_p) : -std::numeric_limits<float>::infinity();
  chain.top_p = params.top_p;
  chain.top_k = params.top_k;
  chain.repeat_penalty = params.repeat_penalty;
  chain.frequency_penalty = params.frequency_penalty;
  chain.presence_penalty = params.presence_penalty;
  for (const LogitBias& bias : params.bias) out.bias.push_back({bias.token, bias.bias});
  std::stable_sort(out.bias.begin(), out.bias.end(),
                   [](const sampling::Bias& a, const sampling::Bias& b) { return a.token < b.token; });
  chain.n_bias = static_cast<int32_t>(out.bias.size());
  return out;
}

}  // namespace tandem
