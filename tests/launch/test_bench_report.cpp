// What tandem bench makes of its samples: rooflines, shares and comparisons by their definitions, the tables'
// forms, and which baselines are refused.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "launch/bench/report.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

BenchContext context() {
  BenchContext out;
  out.model_type = "llama \"8B\", tuned";
  out.model_bytes = 1000;
  out.n_layers = 10;
  out.backend = "CUDA";
  out.cpu = "EPYC";
  out.gpu = "H200";
  out.n_ranks = 2;
  out.roofline.read_gbps = 800.0;
  out.roofline.weight_bytes = {{1, 40e9}, {4, 60e9}};
  return out;
}

/// 100 steps of 100 ms on average.
BenchTest decode() {
  BenchTest test;
  test.n_gen = 100;
  test.seconds = {9.0, 11.0};
  return test;
}

TEST(BenchReport, roofline) {
  const ordered_json row = bench_record(context(), decode());
  EXPECT_EQ(row.at("weight_bytes_token"), 40'000'000'000);
  EXPECT_DOUBLE_EQ(row.at("weight_gbps"), 400.0);
  EXPECT_DOUBLE_EQ(row.at("sweep_percent"), 50.0);
  EXPECT_DOUBLE_EQ(row.at("us_per_layer"), 10'000.0);
  EXPECT_TRUE(row.at("collective_share").is_null());
  EXPECT_TRUE(row.at("joules_per_token").is_null());
  EXPECT_TRUE(row.at("tp_efficiency").is_null());

  BenchTest batch = decode();
  batch.n_parallel = 4;
  const ordered_json four = bench_record(context(), batch);
  EXPECT_EQ(four.at("weight_bytes_step"), 60'000'000'000);
  EXPECT_EQ(four.at("weight_bytes_token"), 15'000'000'000);
  EXPECT_DOUBLE_EQ(four.at("weight_gbps"), 600.0);
  EXPECT_DOUBLE_EQ(four.at("avg_ns").get<double>(), 10e9);
  EXPECT_DOUBLE_EQ(four.at("samples_ts")[0], 400 / 9.0);
}

TEST(BenchReport, a_prompt_has_no_decode_step) {
  BenchTest test = decode();
  test.n_gen = 0;
  test.n_prompt = 512;
  test.exchange_seconds = {2.0, 3.0};
  test.breakdown_by = "waits";
  const ordered_json row = bench_record(context(), test);
  for (const char* key : {"weight_bytes_token", "sweep_percent", "us_per_layer", "kernel_us_per_layer"})
    EXPECT_TRUE(row.at(key).is_null()) << key;
  EXPECT_DOUBLE_EQ(row.at("collective_share"), 0.25);
}

TEST(BenchReport, breakdown) {
  BenchTest clocked = decode();
  clocked.exchange_seconds = {1.0, 3.0};
  clocked.breakdown_by = "waits";
  const ordered_json a = bench_record(context(), clocked);
  EXPECT_DOUBLE_EQ(a.at("collective_share"), 0.2);
  EXPECT_DOUBLE_EQ(a.at("collective_us_per_layer"), 2000.0);
  EXPECT_DOUBLE_EQ(a.at("kernel_us_per_layer"), 8000.0);

  BenchTest silenced = decode();
  silenced.silent_seconds = {7.0, 8.0};
  silenced.breakdown_by = "silence";
  const ordered_json b = bench_record(context(), silenced);
  EXPECT_DOUBLE_EQ(b.at("collective_us_per_layer"), 2500.0);
  EXPECT_DOUBLE_EQ(b.at("kernel_us_per_layer"), 7500.0);
  EXPECT_EQ(b.at("breakdown_by"), "silence");
}

TEST(BenchReport, energy) {
  BenchTest test = decode();
  test.joules = 500.0;  // of both repetitions
  EXPECT_DOUBLE_EQ(bench_record(context(), test).at("joules_per_token"), 2.5);
}

TEST(BenchReport, markdown_leaves_out_what_nobody_measured) {
  ordered_json rows = ordered_json::array({bench_record(context(), decode())});
  std::string text = bench_markdown(rows);
  EXPECT_NE(text.find("% of sweep"), std::string::npos);
  for (const char* head : {"exchange", "efficiency", "J/token", "comm", "road"})
    EXPECT_EQ(text.find(head), std::string::npos) << head;
  BenchTest test = decode();
  test.exchange_seconds = {0.0, 0.0};
  test.comm_name = "peer";
  rows.push_back(bench_record(context(), test));
  text = bench_markdown(rows);
  for (const char* head : {"exchange", "kernels", "comm", "peer"})
    EXPECT_NE(text.find(head), std::string::npos) << head;
}

TEST(BenchReport, deterministic) {
  BenchContext other = context();
  other.deterministic = !other.deterministic;
  for (const BenchContext& one : {context(), other})
    EXPECT_EQ(bench_record(one, decode()).at("deterministic"), one.deterministic);
}

TEST(BenchReport, roads) {
  EXPECT_TRUE(bench_record(context(), decode()).at("road").is_null());
  BenchTest test = decode();
  test.roads.add(cuda::Road::batch);
  test.roads.add(cuda::Road::gemv);
  const ordered_json row = bench_record(context(), test);
  EXPECT_EQ(row.at("road"), "gemv+batch");
  EXPECT_NE(bench_markdown(ordered_json::array({row})).find("| gemv+batch |"), std::string::npos);
  EXPECT_NE(bench_csv(ordered_json::array({row})).find(",\"gemv+batch\","), std::string::npos);
}

TEST(BenchReport, csv_quotes_text) {
  const std::string text = bench_csv(ordered_json::array({bench_record(context(), decode())}));
  EXPECT_NE(text.find(",\"llama \"\"8B\"\", tuned\","), std::string::npos) << text;
  EXPECT_EQ(text.find("null"), std::string::npos);
  EXPECT_EQ(text.find("samples"), std::string::npos);
}

class BenchBaseline : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }
  std::string write(const json& document) {
    std::ofstream(path_) << document.dump();
    return path_;
  }
  void expect_refused(const json& document, ExitCode code, const std::string& says) {
    try {
      const Baseline baseline(write(document), 1000);
      ADD_FAILURE() << "taken: " << document.dump();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
  }
  static json row() {
    return {{"n_ranks", 1}, {"model_size", 1000}, {"n_prompt", 0},  {"n_gen", 100},
            {"n_depth", 0}, {"n_parallel", 1},    {"avg_ts", 6.25}, {"more", "ignored"}};
  }
  std::string path_ = testing::TempDir() + "bench_baseline.json";
};

TEST_F(BenchBaseline, compares_the_same_test_only) {
  json other = row();
  other["n_depth"] = 64;
  other["avg_ts"] = 1.0;
  BenchContext with = context();
  with.baseline.emplace(write(json::array({other, row()})), 1000);
  BenchTest test = decode();
  test.seconds = {10.0};  // 10 tokens/s
  const ordered_json found = bench_record(with, test);
  EXPECT_DOUBLE_EQ(found.at("baseline_ts"), 6.25);
  EXPECT_DOUBLE_EQ(found.at("speedup"), 1.6);
  EXPECT_DOUBLE_EQ(found.at("tp_efficiency"), 0.8);
  test.n_parallel = 4;
  EXPECT_TRUE(bench_record(with, test).at("speedup").is_null());
}

TEST_F(BenchBaseline, refuses_what_is_none) {
  json two = row();
  two["n_ranks"] = 2;
  json other = row();
  other["model_size"] = 999;
  json partial = row();
  partial.erase("avg_ts");
  expect_refused(json::array({row(), two}), ExitCode::bad_data, "of 2 ranks");
  expect_refused(json::array({other}), ExitCode::bad_data, "999 bytes");
  expect_refused(json::array({partial}), ExitCode::bad_data, "avg_ts");
  expect_refused(json::object(), ExitCode::bad_data, "not a list");
  expect_refused(json::array(), ExitCode::bad_data, "not a list");
  std::ofstream(path_) << "| model |";
  EXPECT_THROW(Baseline(path_, 1000), Error);
  EXPECT_THROW(Baseline(path_ + ".none", 1000), Error);
}

}  // namespace
}  // namespace tandem
