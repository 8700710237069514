// What the CUDA benchmarks share: the clock of a graph, the facts of the machine, the document that they
// print and the way they are started. Included by bench_cuda_*.
#pragma once

#include <functional>
#include <string>

#include "ops/cuda/memory.h"

namespace tandem::cuda {

/// Microseconds of what `record` puts on the stream, as a graph: the median of 9 replays.
double graph_us(const Stream& stream, const std::function<void()>& record);

/// The driver's version as the kernel's module tells it, e.g. 580.159.04; empty where it doesn't.
std::string driver_version();
/// The current device's name.
std::string device_name();
/// Today in UTC, e.g. 2026-11-27.
std::string utc_date();

/// As printf would print it.
[[gnu::format(printf, 1, 2)]] std::string format(const char* how, ...);

/// A JSON document on stdout: facts of the machine and the run, then `results`, an object a line.
class Report {
 public:
  explicit Report(const std::string& commit);
  /// One more fact before the results: `json` is its value as JSON.
  void fact(const char* name, const std::string& json);
  /// Adds a result: fields as JSON without the braces.
  void result(const std::string& fields);
  void end();

 private:
  bool in_results_ = false;
  bool first_ = true;
};

struct BenchArguments {
  bool quick = false;  ///< --quick: fewer cases
  std::string commit;  ///< --commit ID
};
/// main() of a benchmark: reads the arguments, runs it, tells errors. Returns the exit code.
int bench_main(int argc, char** argv, const char* name,
               const std::function<void(const BenchArguments&)>& run);

}  // namespace tandem::cuda
