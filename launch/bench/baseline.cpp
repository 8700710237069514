#include "launch/bench/baseline.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "ops/core/error.h"

namespace tandem {
namespace {

using nlohmann::json;

constexpr const char* kHint = "make it with: tandem bench … -o json > FILE, on one rank, with the same model";

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(ExitCode::bad_data, fmt::format("--baseline {}: {}", path, why), kHint);
}

}  // namespace

Baseline::Baseline(const std::string& path, uint64_t model_size) {
  std::ifstream file(path);
  if (!file) throw Error(ExitCode::io, fmt::format("--baseline {}: {}", path, std::strerror(errno)));
  const json rows = json::parse(file, nullptr, false);
  if (!rows.is_array() || rows.empty()) refuse(path, "not a list as `tandem bench -o json` prints it");
  try {
    for (const json& row : rows) {
      if (row.at("n_ranks") != 1)
        refuse(path, fmt::format("a run of {} ranks, not of one", row.at("n_ranks").dump()));
      if (row.at("model_size") != model_size)
        refuse(path,
               fmt::format("a model of {} bytes, this one has {}", row.at("model_size").dump(), model_size));
      rows_.push_back({row.at("n_prompt").get<int>(), row.at("n_gen").get<int>(),
                       row.at("n_depth").get<int>(), row.at("n_parallel").get<int>(),
                       row.at("avg_ts").get<double>()});
    }
  } catch (const json::exception& error) {
    refuse(path, fmt::format("not as `tandem bench -o json` prints it ({})", error.what()));
  }
}

std::optional<double> Baseline::speed(const BenchTest& test) const {
  for (const Row& row : rows_) {
    if (row.n_prompt == test.n_prompt && row.n_gen == test.n_gen && row.depth == test.depth &&
        row.n_parallel == test.n_parallel && row.avg_ts > 0)
      return row.avg_ts;
  }
  return std::nullopt;
}

}  // namespace tandem
