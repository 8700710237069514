#include "launch/bench/report.h"

#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "launch/build_info.h"

namespace tandem {
namespace {

using nlohmann::ordered_json;

template <class T>
ordered_json or_null(const std::optional<T>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}
ordered_json or_null(const std::string& text) {
  return text.empty() ? ordered_json(nullptr) : ordered_json(text);
}

void add_machine(ordered_json& row, const BenchContext& context) {
  row["build_commit"] = std::string(kCommit);
  row["cpu_info"] = context.cpu;
  row["gpu_info"] = or_null(context.gpu);
  row["driver"] = or_null(context.driver);
  row["mpi"] = or_null(context.mpi);
  row["backends"] = context.backend;
  row["model_filename"] = context.model_path;
  row["model_type"] = context.model_type;
  row["model_size"] = context.model_bytes;
  row["n_layers"] = context.n_layers;
  row["n_nodes"] = context.n_nodes;
  row["n_ranks"] = context.n_ranks;
  row["split"] = or_null(context.split);
  row["n_threads"] = context.n_threads;
  row["n_batch"] = context.n_batch;
  row["type_k"] = context.cache_type;
  row["type_v"] = context.cache_type;
  row["deterministic"] = context.deterministic;
}

/// A decode step's bytes and time.
void add_roofline(ordered_json& row, const BenchContext& context, const BenchTest& test) {
  for (const char* name : {"weight_bytes_step", "weight_bytes_token", "weight_gbps", "sweep_gbps",
                           "sweep_percent", "us_per_layer"})
    row[name] = nullptr;
  row["sweep_gbps"] = context.roofline.read_gbps;
  if (!test.decodes()) return;
  const double step_s = mean(test.seconds) / test.n_gen;
  const double bytes = context.roofline.weight_bytes.at(test.n_parallel);
  row["weight_bytes_step"] = std::llround(bytes);
  row["weight_bytes_token"] = std::llround(bytes / test.n_parallel);
  row["weight_gbps"] = bytes / step_s * 1e-9;
  row["sweep_percent"] = bytes / step_s * 1e-7 / context.roofline.read_gbps;
  row["us_per_layer"] = step_s * 1e6 / static_cast<double>(context.n_layers);
}

void add_breakdown(ordered_json& row, const BenchContext& context, const BenchTest& test) {
  const std::optional<double> collectives = test.collective_seconds();
  row["kernel_us_per_layer"] = nullptr;
  row["collective_us_per_layer"] = nullptr;
  row["collective_share"] = nullptr;
  row["breakdown_by"] = nullptr;
  if (!collectives) return;
  const double all = mean(test.seconds);
  row["collective_share"] = *collectives / all;
  row["breakdown_by"] = test.breakdown_by;
  if (!test.decodes()) return;
  const double us_layer = 1e6 / (static_cast<double>(test.n_gen) * static_cast<double>(context.n_layers));
  row["collective_us_per_layer"] = *collectives * us_layer;
  row["kernel_us_per_layer"] = (all - *collectives) * us_layer;
}

void add_comparison(ordered_json& row, const BenchContext& context, const BenchTest& test) {
  for (const char* name : {"baseline_ts", "speedup", "tp_efficiency"}) row[name] = nullptr;
  const double one = context.baseline ? context.baseline->speed(test).value_or(0.0) : 0.0;
  if (one > 0) {
    const double speedup = mean(test.speeds()) / one;
    row["baseline_ts"] = one;
    row["speedup"] = speedup;
    row["tp_efficiency"] = speedup / context.n_ranks;
  }
  row["joules_per_token"] = nullptr;
  if (test.joules) {
    row["joules_per_token"] =
        *test.joules / (static_cast<double>(test.n_tokens()) * static_cast<double>(test.seconds.size()));
  }
}

/// A column of the markdown table: its head, its width (negative: to the left), a cell's text.
struct Column {
  std::string head;
  int width;
  std::function<std::string(const ordered_json& row)> cell;
};

std::string number(const ordered_json& value, double factor, int digits) {
  return value.is_null() ? "-" : fmt::format("{:.{}f}", value.get<double>() * factor, digits);
}

Column numbers(const char* head, int width, const char* key, double factor, int digits) {
  return {head, width, [=](const ordered_json& row) { return number(row.at(key), factor, digits); }};
}

std::string test_name(const ordered_json& row) {
  BenchTest test;
  test.n_prompt = row.at("n_prompt");
  test.n_gen = row.at("n_gen");
  test.depth = row.at("n_depth");
  test.n_parallel = row.at("n_parallel");
  return test.name();
}

/// Text stands in quotes, with those within it doubled.
std::string csv_field(const ordered_json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  std::string out = "\"";
  for (const char c : value.get<std::string>()) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

std::vector<Column> columns_of(const ordered_json& rows) {
  const auto text = [](const char* key) {
    return [key](const ordered_json& row) {
      return row.at(key).is_string() ? row.at(key).get<std::string>() : row.at(key).dump();
    };
  };
  std::vector<Column> columns = {
      {"model", -30, text("model_type")},
      {"size", 10,
       [](const ordered_json& row) { return number(row.at("model_size"), 1 / 0x1p30, 2) + " GiB"; }},
      {"backend", -8, text("backends")},
      {"ranks", 5, text("n_ranks")},
      {"threads", 7, text("n_threads")},
      {"comm", -6, text("comm")},
      {"test", 14, test_name},
      {"road", -10, text("road")},
      {"t/s", 20,
       [](const ordered_json& row) {
         return fmt::format("{:.2f} ± {:>5.2f}", row.at("avg_ts").get<double>(),
                            row.at("stddev_ts").get<double>());
       }},
      numbers("MB/token", 9, "weight_bytes_token", 1e-6, 1),
      numbers("% of sweep", 10, "sweep_percent", 1, 1),
      numbers("us/layer", 8, "us_per_layer", 1, 1),
      numbers("kernels", 8, "kernel_us_per_layer", 1, 1),
      numbers("exchange", 8, "collective_us_per_layer", 1, 1),
      numbers("exchange %", 10, "collective_share", 100, 1),
      numbers("speedup", 7, "speedup", 1, 2),
      numbers("efficiency", 10, "tp_efficiency", 1, 2),
      numbers("J/token", 8, "joules_per_token", 1, 3)};
  std::erase_if(columns, [&](const Column& column) {
    for (const ordered_json& row : rows) {
      const std::string cell = column.cell(row);
      if (cell != "-" && cell != "null") return false;
    }
    return true;
  });
  return columns;
}

}  // namespace

ordered_json bench_record(const BenchContext& context, const BenchTest& test) {
  ordered_json row;
  add_machine(row, context);
  row["comm"] = or_null(test.comm_name);
  row["n_prompt"] = test.n_prompt;
  row["n_gen"] = test.n_gen;
  row["n_depth"] = test.depth;
  row["n_parallel"] = test.n_parallel;
  row["road"] = or_null(test.roads.text());
  row["test_time"] = context.test_time;
  std::vector<int64_t> samples_ns;
  for (const double s : test.seconds) samples_ns.push_back(static_cast<int64_t>(s * 1e9));
  const std::vector<double> nanoseconds(samples_ns.begin(), samples_ns.end());
  row["avg_ns"] = static_cast<int64_t>(mean(nanoseconds));
  row["stddev_ns"] = static_cast<int64_t>(deviation(nanoseconds));
  row["avg_ts"] = mean(test.speeds());
  row["stddev_ts"] = deviation(test.speeds());
  add_roofline(row, context, test);
  add_breakdown(row, context, test);
  add_comparison(row, context, test);
  row["samples_ns"] = samples_ns;
  row["samples_ts"] = test.speeds();
  return row;
}

std::string bench_markdown(const ordered_json& rows) {
  const std::vector<Column> columns = columns_of(rows);
  std::string out = "|";
  for (const Column& c : columns)
    out +=
        c.width < 0 ? fmt::format(" {:<{}} |", c.head, -c.width) : fmt::format(" {:>{}} |", c.head, c.width);
  out += "\n|";
  for (const Column& c : columns)
    out +=
        c.width < 0 ? fmt::format(" {:-<{}} |", "", -c.width) : fmt::format(" {:->{}}: |", "", c.width - 1);
  out += '\n';
  for (const ordered_json& row : rows) {
    out += '|';
    for (const Column& c : columns) {
      const std::string cell = c.cell(row);
      out += c.width < 0 ? fmt::format(" {:<{}} |", cell, -c.width) : fmt::format(" {:>{}} |", cell, c.width);
    }
    out += '\n';
  }
  return out;
}

std::string bench_csv(const ordered_json& rows) {
  std::string out;
  for (const auto& row : rows) {
    std::string head;
    std::string line;
    for (const auto& [key, value] : row.items()) {
      if (value.is_array()) continue;
      head += key + ',';
      line += csv_field(value) + ',';
    }
    head.back() = '\n';
    line.back() = '\n';
    if (out.empty()) out += head;
    out += line;
  }
  return out;
}

}  // namespace tandem
