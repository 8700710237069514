// `tandem bench`'s table as md, csv and json, with llama-bench's field names where it has the field. Used by
// launch/commands/bench.cpp, on rank 0.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "launch/bench/baseline.h"
#include "launch/bench/bench_test.h"
#include "launch/bench/roofline.h"

namespace tandem {

/// What all rows of a table have in common.
struct BenchContext {
  std::string model_path;
  std::string model_type;
  uint64_t model_bytes = 0;
  int64_t n_layers = 0;
  std::string backend;
  std::string cpu;
  std::string gpu;     ///< or empty
  std::string driver;  ///< or empty
  std::string mpi;     ///< or empty: one rank without a launcher
  std::string split;   ///< or empty: equal shares
  std::string cache_type;
  bool deterministic = false;
  std::string test_time;  ///< UTC, as 2026-11-27T04:00:00Z
  int n_nodes = 1;
  int n_ranks = 1;
  int n_threads = 1;  ///< a rank
  int n_batch = 512;
  Roofline roofline;
  std::optional<Baseline> baseline;
};

/// A row as an object. Every row has every field: null is what wasn't measured or makes no sense for the
/// test.
///   deterministic: a sequence's bits don't depend on what else is computed (CPUs: always)
///   n_parallel: sequences at once; avg_ts counts all their tokens
///   comm: how GPUs' partial sums travelled (peer, nccl, mpi; single: one rank)
///   road: which kernels multiplied the layers' matrices on rank 0's GPU in what was timed (gemv, batch,
///     unpacked; gemv+batch where matrices or steps differ)
///   weight_bytes_step: that all ranks together must read for one decode step; weight_bytes_token: the same
///     by n_parallel; weight_gbps: those by the step's time; sweep_gbps: what a plain read reaches;
///     sweep_percent
///   us_per_layer: a decode step's time by layers, head and sampling included
///   collective_us_per_layer, kernel_us_per_layer, collective_share: what part of it (or of a prompt) goes
///     into exchanging partial sums, waiting for the slower rank included; breakdown_by: "waits" where rank 0
///     clocked its exchanges (CPUs; with uneven shares the slowest rank waits least), "silence" where it is
///     the difference to the same steps with sums left where they are (GPUs, graphs included), "alone" for
///     one rank
///   baseline_ts, speedup, tp_efficiency: against one rank
///   joules_per_token: of all ranks' GPUs
nlohmann::ordered_json bench_record(const BenchContext& context, const BenchTest& test);

/// Columns that no row fills are left out.
std::string bench_markdown(const nlohmann::ordered_json& rows);
/// Arrays are left out; null is an empty field.
std::string bench_csv(const nlohmann::ordered_json& rows);

}  // namespace tandem
