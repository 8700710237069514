// The slow truth of the sampling helpers (ops/cpu/sampling.h): plain loops, double precision. Called by tests
// only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::ref {

/// Ids by descending logit, lower id first among equals, without those at -infinity; at most k.
std::vector<int32_t> top_k(std::span<const float> logits, int k);

/// Σ exp((logit − max) · inverse_temperature).
double sum_exp(std::span<const float> logits, double max, double inverse_temperature);

/// -log(-log(1 - (word + 1/2) / 2^32)).
double gumbel(uint32_t word);

}  // namespace tandem::ref
