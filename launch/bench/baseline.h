// A one-rank run of `tandem bench -o json`, to which runs of more ranks are compared. Pure; used by
// launch/bench/report.cpp and tests.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/bench/bench_test.h"

namespace tandem {

class Baseline {
 public:
  /// Reads `path`, for a model whose files have `model_size` bytes. Throws Error{io} where it can't be read,
  /// Error{bad_data} where it isn't such a document, is of more ranks or of another model.
  Baseline(const std::string& path, uint64_t model_size);

  /// Tokens/s of the same test on one rank; nothing where it wasn't run.
  std::optional<double> speed(const BenchTest& test) const;

 private:
  struct Row {
    int n_prompt, n_gen, depth, n_parallel;
    double avg_ts;
  };
  std::vector<Row> rows_;
};

}  // namespace tandem
