// Rows to sample, and what the host's sampler makes of them: the truth that the device's chain is held
// against, on the CPU (test_device_chain) and on GPUs (test_cuda_sampling).
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "ops/core/error.h"
#include "ops/core/sampling_chain.h"
#include "runtime/engine/sampler.h"

namespace tandem::test {

struct SamplingCase {
  std::string name;
  std::vector<float> logits;  // (n_vocab)
  SamplingParams params;
  std::vector<int32_t> history;
  uint64_t position = 0;
};

inline std::vector<float> normal_logits(int64_t n, uint32_t seed, float spread) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> logits(static_cast<size_t>(n));
  for (float& logit : logits) logit = normal(random);
  return logits;
}

/// Every combination of the parameters over steep, flat and tied rows.
inline std::vector<SamplingCase> sampling_cases(int64_t n_vocab) {
  std::vector<std::pair<std::string, std::vector<float>>> rows;
  rows.emplace_back("steep", normal_logits(n_vocab, 1, 6.0f));
  rows.emplace_back("usual", normal_logits(n_vocab, 2, 2.5f));
  rows.emplace_back("flat", normal_logits(n_vocab, 3, 0.01f));
  rows.emplace_back("level", std::vector<float>(static_cast<size_t>(n_vocab), 1.25f));
  std::vector<float> tied = normal_logits(n_vocab, 4, 3.0f);
  for (float& logit : tied) logit = std::nearbyint(logit);
  rows.emplace_back("tied", tied);
  std::vector<float> holes = normal_logits(n_vocab, 5, 3.0f);
  for (size_t i = 0; i < holes.size(); ++i) {
    if (i % 7 != 3) holes[i] = -std::numeric_limits<float>::infinity();
    if (i % 21 == 3) holes[i] = i % 2 == 0 ? 0.0f : -0.0f;
  }
  rows.emplace_back("holes", holes);
  std::vector<float> wide = normal_logits(n_vocab, 6, 300.0f);
  rows.emplace_back("wide", wide);

  std::vector<SamplingCase> cases;
  const auto add = [&](const std::string& what, const SamplingParams& params, size_t row) {
    SamplingCase c{rows[row].first + " " + what, rows[row].second, params, {}, 1000 + cases.size()};
    c.params.seed = 0x9e3779b97f4a7c15u * cases.size();
    std::mt19937 random(static_cast<uint32_t>(cases.size()));
    for (int i = 0; i < 300; ++i)
      c.history.push_back(static_cast<int32_t>(random() % 50 * random() % n_vocab));
    c.position = c.history.size();
    cases.push_back(std::move(c));
  };
  for (size_t row = 0; row < rows.size(); ++row) {
    SamplingParams greedy;
    greedy.temperature = 0.0f;
    add("greedy", greedy, row);
    for (const int32_t top_k : {0, 1, 40, 250, 700, 1500}) {
      for (const float top_p : {1.0f, 0.95f, 0.5f, 0.001f}) {
        for (const float min_p : {0.0f, 0.05f}) {
          SamplingParams p;
          p.temperature = row % 2 == 0 ? 0.8f : 1.7f;
          p.top_k = top_k;
          p.top_p = top_p;
          p.min_p = min_p;
          add("top_k " + std::to_string(top_k) + " top_p " + std::to_string(top_p) + " min_p " +
                  std::to_string(min_p),
              p, row);
        }
      }
    }
    for (const int32_t last_n : {0, 1, 64, -1}) {
      for (const int32_t top_k : {0, 40}) {
        SamplingParams p;
        p.top_k = top_k;
        p.repeat_penalty = 1.3f;
        p.frequency_penalty = 0.4f;
        p.presence_penalty = -0.7f;
        p.repeat_last_n = last_n;
        p.bias = {{5, 3.5f}, {static_cast<int32_t>(n_vocab) - 1, 20.0f}, {5, -0.1f}, {17, 1e-3f}, {5, 7.1f}};
        add("penalties over " + std::to_string(last_n), p, row);
        p.temperature = 0.0f;
        add("greedy with penalties over " + std::to_string(last_n), p, row);
      }
    }
  }
  SamplingParams p;
  SamplingCase none{"nothing left", std::vector<float>(static_cast<size_t>(n_vocab), -HUGE_VALF), p, {}, 1};
  cases.push_back(none);
  none.name = "one left";
  none.logits[static_cast<size_t>(n_vocab) / 2] = -5.0f;
  for (const int32_t top_k : {0, 40, 700}) {
    none.params.top_k = top_k;
    cases.push_back(none);
  }
  return cases;
}

/// What the host's sampler draws; kNoToken where it finds no finite score.
inline int32_t host_token(const SamplingCase& c) {
  const auto communicator = make_single_communicator();
  const auto n = static_cast<int64_t>(c.logits.size());
  Sampler sampler(*communicator, {0, n}, n);
  const SampleRow row{c.logits, &c.params, c.history, c.position};
  try {
    return sampler.sample({&row, 1})[0];
  } catch (const Error&) {
    return sampling::kNoToken;
  }
}

}  // namespace tandem::test
