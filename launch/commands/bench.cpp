// tandem bench: prompt and generation speed in llama-bench's terms: mean and deviation over repetitions,
// after a warm-up.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <charconv>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "comm/process.h"
#include "launch/build_info.h"
#include "launch/command.h"
#include "launch/generation.h"
#include "launch/job.h"
#include "launch/option_parser.h"
#include "launch/options.h"
#include "launch/output.h"
#include "launch/progress.h"
#include "launch/session.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchOptions {
  std::vector<int> n_prompt = {512};
  std::vector<int> n_gen = {128};
  std::vector<int> depths = {0};
  int repetitions = 5;
  std::string output = "md";
};

/// One row of the table: a prompt of n_prompt tokens, or n_gen tokens one by one, behind `depth` cached
/// tokens.
struct BenchTest {
  int n_prompt = 0;
  int n_gen = 0;
  int depth = 0;
  std::vector<double> seconds;

  int n_tokens() const { return n_prompt + n_gen; }
  std::string name() const {
    const std::string base = n_prompt > 0 ? fmt::format("pp{}", n_prompt) : fmt::format("tg{}", n_gen);
    return depth > 0 ? fmt::format("{} @ d{}", base, depth) : base;
  }
  std::vector<double> speeds() const {
    std::vector<double> out;
    for (const double s : seconds) out.push_back(n_tokens() / s);
    return out;
  }
};

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double deviation(const std::vector<double>& values) {
  if (values.size() < 2) return 0.0;
  const double m = mean(values);
  double sum = 0.0;
  for (const double v : values) sum += (v - m) * (v - m);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

void add_counts(OptionParser& parser, const std::string& names, std::vector<int>& target,
                const std::string& help, const std::string& default_text) {
  parser.add_custom(
      names, "N,…", help, default_text, false, [&](const std::string& text, const std::string& origin) {
        target.clear();
        for (size_t begin = 0; begin <= text.size();) {
          const size_t end = std::min(text.find(',', begin), text.size());
          int value = -1;
          const auto [last, status] = std::from_chars(text.data() + begin, text.data() + end, value);
          if (status != std::errc{} || last != text.data() + end || value < 0 || value > (1 << 24)) {
            parser.fail_value(origin, text, "not a list of counts such as 512,2048");
          }
          target.push_back(value);
          begin = end + 1;
        }
      });
}

/// Token ids that no cache or branch predictor finds too easy; the same in every run.
std::vector<int32_t> bench_tokens(int64_t n, int64_t n_vocab) {
  std::vector<int32_t> tokens;
  uint64_t state = 42;
  for (int64_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(n_vocab)));
  }
  return tokens;
}

/// Runs a request to its end; false where a signal came.
bool drive(Engine& engine, GenerationRequest request) {
  engine.submit(std::move(request));
  return run_until_idle(engine) == 0;
}

/// One repetition: fills the cache to `depth` untimed, then times the test. False where a signal came.
bool repeat_once(Engine& engine, BenchTest& test, int64_t n_vocab, bool timed) {
  constexpr int64_t kCache = 1;
  GenerationRequest fill;
  fill.sampling.temperature = 0.0f;
  fill.session = kCache;
  fill.max_new_tokens = 0;
  const std::vector<int32_t> tokens = bench_tokens(test.depth + std::max(1, test.n_prompt), n_vocab);
  // Something else is in the cache first, so that the prompt is computed again.
  fill.prompt = {static_cast<int32_t>((tokens[0] + 1) % n_vocab)};
  if (!drive(engine, fill)) return false;
  if (test.depth > 0) {
    fill.prompt.assign(tokens.begin(), tokens.begin() + test.depth);
    if (!drive(engine, fill)) return false;
  }
  GenerationRequest request = fill;
  request.prompt = tokens;
  request.max_new_tokens = std::max(1, test.n_gen);
  const auto start = Clock::now();
  if (!drive(engine, std::move(request))) return false;
  if (timed) test.seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  return true;
}

std::string model_type(const Session& session) {
  return session.config().architecture + " " + session.config().name;
}

std::string markdown(const Session& session, const std::vector<BenchTest>& tests, int n_ranks,
                     int n_threads) {
  std::string out = fmt::format("| {:<30} | {:>10} | {:<8} | {:>5} | {:>7} | {:>14} | {:>20} |\n", "model",
                                "size", "backend", "ranks", "threads", "test", "t/s");
  out += fmt::format("| {:-<30} | {:->9}: | {:-<8} | {:->4}: | {:->6}: | {:->13}: | {:->19}: |\n", "", "", "",
                     "", "", "", "");
  for (const BenchTest& test : tests) {
    out += fmt::format("| {:<30} | {:>6.2f} GiB | {:<8} | {:>5} | {:>7} | {:>14} | {:>12.2f} ± {:>5.2f} |\n",
                       model_type(session), static_cast<double>(session.file().total_bytes()) / 0x1p30,
                       session.backend_kind(), n_ranks, n_threads, test.name(), mean(test.speeds()),
                       deviation(test.speeds()));
  }
  return out;
}

nlohmann::ordered_json record(const Session& session, const BenchTest& test, int n_ranks, int n_threads,
                              int n_batch) {
  std::vector<int64_t> samples_ns;
  for (const double s : test.seconds) samples_ns.push_back(static_cast<int64_t>(s * 1e9));
  std::vector<double> nanoseconds(samples_ns.begin(), samples_ns.end());
  nlohmann::ordered_json row;
  row["build_commit"] = std::string(kCommit);
  row["model_filename"] = session.file().path();
  row["model_type"] = model_type(session);
  row["model_size"] = session.file().total_bytes();
  row["backends"] = session.backend_kind();
  row["n_ranks"] = n_ranks;
  row["n_threads"] = n_threads;
  row["n_batch"] = n_batch;
  row["n_prompt"] = test.n_prompt;
  row["n_gen"] = test.n_gen;
  row["n_depth"] = test.depth;
  row["avg_ns"] = static_cast<int64_t>(mean(nanoseconds));
  row["stddev_ns"] = static_cast<int64_t>(deviation(nanoseconds));
  row["avg_ts"] = mean(test.speeds());
  row["stddev_ts"] = deviation(test.speeds());
  row["samples_ns"] = samples_ns;
  row["samples_ts"] = test.speeds();
  return row;
}

std::string csv(const nlohmann::ordered_json& rows) {
  std::string out;
  for (const auto& row : rows) {
    if (out.empty()) {
      for (const auto& [key, value] : row.items()) {
        if (!value.is_array()) out += (out.empty() ? "" : ",") + key;
      }
      out += '\n';
    }
    std::string line;
    for (const auto& [key, value] : row.items()) {
      if (!value.is_array()) line += (line.empty() ? "" : ",") + value.dump();
    }
    out += line + '\n';
  }
  return out;
}

}  // namespace

int bench_command(Job& job, const Arguments& arguments) {
  OptionParser parser("bench", "Measure prompt and generation speed",
                      "As llama-bench: every test is run once to warm up and -r times for the mean.");
  ModelOptions model;
  BenchOptions bench;
  add_model_options(parser, model);
  add_counts(parser, "n-prompt,p", bench.n_prompt, "prompt lengths; 0: none", "512");
  add_counts(parser, "n-gen,n", bench.n_gen, "numbers of tokens to generate; 0: none", "128");
  add_counts(parser, "n-depth,d", bench.depths, "tokens already in the cache", "0");
  parser.add_integer("repetitions,r", bench.repetitions, 1, 10000, "repetitions of each test");
  parser.add_choice("output,o", bench.output, {"md", "csv", "json"}, "the table's form");
  if (!parser.parse(arguments)) return 0;
  require_model(parser, model);
  std::vector<BenchTest> tests;
  int longest = 0;
  for (const int depth : bench.depths) {
    for (const int n : bench.n_prompt) {
      if (n > 0) tests.push_back({n, 0, depth, {}});
    }
    for (const int n : bench.n_gen) {
      if (n > 0) tests.push_back({0, n, depth, {}});
    }
  }
  for (const BenchTest& test : tests) longest = std::max(longest, test.depth + test.n_tokens() + 1);

  Communicator& communicator = job.start();
  note_phase("load");
  LoadBar bar(model.progress, communicator.rank());
  SessionOptions options = session_options(model);
  options.context_tokens = longest;
  options.share_prefixes = false;  // every repetition computes its prompt
  options.wants_tokenizer = false;
  options.on_progress = bar.callback();
  Session session(options, communicator);
  bar.finish();
  report_load(session, communicator);
  if (communicator.rank() != 0) return session.engine().follow();

  int code = 0;
  for (BenchTest& test : tests) {
    for (int r = 0; r <= bench.repetitions && code == 0; ++r) {
      if (!repeat_once(session.engine(), test, session.config().n_vocab, r > 0))
        code = 128 + pending_signal();
    }
  }
  session.engine().shutdown(code);
  if (code != 0) return code;
  const int n_threads = session.placement().n_threads;
  if (bench.output == "md") {
    print_result(markdown(session, tests, communicator.size(), n_threads));
    return 0;
  }
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const BenchTest& test : tests)
    rows.push_back(record(session, test, communicator.size(), n_threads, model.n_batch));
  print_result(bench.output == "json" ? rows.dump(2) + "\n" : csv(rows));
  return 0;
}

}  // namespace tandem
