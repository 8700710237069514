// The tests of `tandem bench`: what is run, how it is timed, and what was measured. Used by
// launch/commands/bench.cpp and launch/bench.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ops/cuda/roads.h"
#include "runtime/engine/engine.h"

namespace tandem {

/// One row of the table: of each of n_parallel sequences a prompt of n_prompt tokens, or n_gen tokens one by
/// one, behind `depth` cached tokens.
struct BenchTest {
  int n_prompt = 0;
  int n_gen = 0;
  int depth = 0;
  int n_parallel = 1;
  size_t comm = 0;  ///< number of --comm's way

  // --- measured; a sample a repetition
  std::vector<double> seconds = {};
  std::vector<double> silent_seconds = {};    ///< without the exchange of partial sums (GPUs, --breakdown)
  std::vector<double> exchange_seconds = {};  ///< spent in exchanges (CPUs, --breakdown)
  std::optional<double> joules = {};          ///< of all ranks' GPUs in all of `seconds`
  cuda::RoadSet roads = {};                   ///< that the layers' products took on rank 0 (GPUs)
  std::string comm_name = {};
  std::string breakdown_by = {};  ///< how the exchange's share was found

  /// Of all sequences in one repetition.
  int64_t n_tokens() const { return int64_t{n_prompt + n_gen} * n_parallel; }
  /// Positions of the cache that the test needs of a sequence.
  int64_t n_positions() const { return int64_t{depth} + n_prompt + n_gen + 1; }
  bool decodes() const { return n_gen > 0; }
  std::string name() const;
  std::vector<double> speeds() const;  ///< tokens/s of each sample

  /// Seconds of the exchanges in an average repetition, and which way they were found; nothing where they
  /// weren't.
  std::optional<double> collective_seconds() const;
};

double mean(const std::vector<double>& values);
/// Of a sample (n - 1); 0 for a single value.
double deviation(const std::vector<double>& values);

/// Called right before and right after what is timed.
struct BenchClock {
  std::function<void()> begin;
  std::function<void(double seconds)> end;
};

/// Repeats `test` n_repetitions times after a warm-up that isn't counted: the caches are filled to the test's
/// depth untimed, then the clock runs. False where a signal came. Rank 0 only; the engine is new.
bool run_test(Engine& engine, const BenchTest& test, int n_repetitions, int64_t n_vocab,
              const BenchClock& clock);

}  // namespace tandem
