// tandem bench: prompt and generation speed in llama-bench's terms: mean and deviation over repetitions,
// after a warm-up; and what it is made of: the memory's speed, exchanges, energy, one rank's speed.
//
// Every test runs in an engine of its own on the model that is loaded once: rank 0 ends an engine by a
// shutdown, and all ranks go on to the next. So ways to exchange can be changed in between.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>

#include "comm/process.h"
#include "launch/bench/baseline.h"
#include "launch/bench/bench_test.h"
#include "launch/bench/energy.h"
#include "launch/bench/report.h"
#include "launch/bench/roofline.h"
#include "launch/command.h"
#include "launch/doctor/host_probe.h"
#include "launch/generation.h"
#include "launch/job.h"
#include "launch/option_parser.h"
#include "launch/options.h"
#include "launch/output.h"
#include "launch/progress.h"
#include "launch/session.h"
#include "ops/core/error.h"
#include "ops/core/page.h"

namespace tandem {
namespace {

constexpr int kMostParallel = 256;  // sequences that an engine runs at once

struct BenchOptions {
  std::vector<int> n_prompt = {512};
  std::vector<int> n_gen = {128};
  std::vector<int> depths = {0};
  std::vector<int> n_parallel = {1};
  int repetitions = 5;
  bool breakdown = false;
  std::string baseline;
  std::string output = "md";
};

void add_counts(OptionParser& parser, const std::string& names, std::vector<int>& target, int least, int most,
                const std::string& help, const std::string& default_text) {
  parser.add_custom(
      names, "N,…", help, default_text, false,
      [&parser, &target, least, most](const std::string& text, const std::string& origin) {
        target.clear();
        for (size_t begin = 0; begin <= text.size();) {
          const size_t end = std::min(text.find(',', begin), text.size());
          int value = -1;
          const auto [last, status] = std::from_chars(text.data() + begin, text.data() + end, value);
          if (status != std::errc{} || last != text.data() + end || value < least || value > most) {
            parser.fail_value(
                origin, text,
                fmt::format("not a list of counts such as 512,2048 (each from {} to {})", least, most));
          }
          target.push_back(value);
          begin = end + 1;
        }
      });
}

/// Every depth's prompts, then its generations, for one way of exchanging and number of sequences after the
/// other. A batch generates behind its prompts of n_prompt tokens, as llama-batched-bench has it; a single
/// sequence behind the depth alone, as llama-bench.
std::vector<BenchTest> list_tests(const BenchOptions& bench, size_t n_comms) {
  std::vector<BenchTest> tests;
  for (size_t comm = 0; comm < n_comms; ++comm) {
    for (const int n_parallel : bench.n_parallel) {
      for (const int depth : bench.depths) {
        for (const int n : bench.n_prompt) {
          if (n > 0) tests.push_back({.n_prompt = n, .depth = depth, .n_parallel = n_parallel, .comm = comm});
        }
        for (const int n : bench.n_gen) {
          if (n == 0) continue;
          const std::vector<int> behind = n_parallel > 1 ? bench.n_prompt : std::vector<int>{0};
          for (const int n_prompt : behind) {
            tests.push_back({.n_gen = n, .depth = depth + n_prompt, .n_parallel = n_parallel, .comm = comm});
          }
        }
      }
    }
  }
  return tests;
}

SessionOptions bench_session_options(const ModelOptions& model, const BenchOptions& bench,
                                     const std::vector<BenchTest>& tests) {
  SessionOptions options = session_options(model);
  options.share_prefixes = PrefixSharing::off;  // every repetition computes its prompt
  options.wants_tokenizer = false;
  options.breakdown = bench.breakdown;
  options.n_sequences = 1;
  for (const BenchTest& test : tests) {
    options.n_sequences = std::max<int64_t>(options.n_sequences, test.n_parallel);
    options.context_tokens = std::max(options.context_tokens, test.n_positions());
    const int64_t whole_pages = ceil_div(test.n_positions(), kPageTokens) * kPageTokens;
    options.cache_tokens = std::max(options.cache_tokens, test.n_parallel * whole_pages);
  }
  return options;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  char text[32] = "";
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

/// Runs the tests in the same order on every rank; on rank 0 they have their results afterwards.
class BenchRun {
 public:
  BenchRun(Session& session, Communicator& comm, const BenchOptions& bench, const EnergyMeter& meter)
      : session_(session), comm_(comm), bench_(bench), meter_(meter) {}

  /// Returns the exit code, the same on every rank: 0, or that of a signal.
  int run(std::vector<BenchTest>& tests) {
    for (BenchTest& test : tests) {
      session_.select_comm(test.comm);
      if (const int code = in_new_engine(test, loud_clock(test)); code != 0) return code;
      if (!bench_.breakdown) continue;
      if (comm_.size() == 1) {
        test.breakdown_by = "alone";
        test.exchange_seconds = {0.0};
      } else if (session_.gpu()) {
        test.breakdown_by = "silence";
        session_.select_comm(test.comm, true);
        const BenchClock clock{[] {}, [&test](double s) { test.silent_seconds.push_back(s); }};
        if (const int code = in_new_engine(test, clock); code != 0) return code;
      } else {
        test.breakdown_by = "waits";
      }
    }
    return 0;
  }

 private:
  int in_new_engine(const BenchTest& test, const BenchClock& clock) {
    session_.renew_engine();
    Engine& engine = session_.engine();
    if (comm_.rank() != 0) return engine.follow();
    const bool done = run_test(engine, test, bench_.repetitions, session_.config().n_vocab, clock);
    const int code = done ? 0 : 128 + pending_signal();
    engine.shutdown(code);
    return code;
  }

  /// The roads since the last call; none on CPUs.
  cuda::RoadSet take_roads() {
    cuda::RoadTuner* const tuner = session_.model().backend().road_tuner();
    return tuner == nullptr ? cuda::RoadSet() : tuner->take_roads();
  }

  /// Keeps the time, the products' roads, and what exchanges and energy took.
  BenchClock loud_clock(BenchTest& test) {
    return {[this] {
              take_roads();
              joules_ = meter_.joules();
              exchange_ = session_.exchange_seconds();
            },
            [this, &test](double seconds) {
              const std::optional<double> joules = meter_.joules();
              test.seconds.push_back(seconds);
              test.roads.add(take_roads());
              if (joules && joules_) test.joules = test.joules.value_or(0.0) + *joules - *joules_;
              if (bench_.breakdown && !session_.gpu())
                test.exchange_seconds.push_back(session_.exchange_seconds() - exchange_);
            }};
  }

  Session& session_;
  Communicator& comm_;
  const BenchOptions& bench_;
  const EnergyMeter& meter_;
  std::optional<double> joules_;
  double exchange_ = 0.0;
};

BenchContext make_context(Session& session, Communicator& comm, const ModelOptions& model,
                          const EnergyMeter& meter) {
  BenchContext context;
  context.model_path = session.file().path();
  context.model_type = session.config().architecture + " " + session.config().name;
  context.model_bytes = session.file().total_bytes();
  context.n_layers = session.config().n_layers;
  context.backend = session.backend_kind();
  context.cpu = host_facts().at("cpu");
  if (session.gpu()) context.gpu = session.gpu()->name;
  context.driver = meter.driver().value_or("");
  if (comm.size() > 1) context.mpi = mpi_library_version();
  for (const double share : model.split) {
    context.split += fmt::format("{}{:g}", context.split.empty() ? "" : ",", share);
  }
  context.cache_type = model.cache_type_k;
  context.deterministic = model.deterministic || !session.gpu();
  context.test_time = utc_now();
  context.n_nodes = comm.n_nodes();
  context.n_ranks = comm.size();
  context.n_threads = session.placement().n_threads;
  context.n_batch = static_cast<int>(session.batch_tokens());
  return context;
}

/// --comm's list makes sense for several ranks on GPUs alone.
void check_comms(const std::vector<std::string>& comms, const Session& session, const Communicator& comm) {
  if (comms.size() == 1 || (session.gpu() && comm.size() > 1)) return;
  throw Error(ExitCode::usage,
              fmt::format("--comm={}: several ways to exchange, but {}", fmt::join(comms, ","),
                          comm.size() == 1 ? "there is one rank" : "the ranks compute on CPUs"),
              "the list compares how GPUs exchange: mpirun -np 2 tandem bench --comm peer,nccl,mpi");
}

void add_bench_options(OptionParser& parser, BenchOptions& bench) {
  constexpr int kMostTokens = 1 << 24;
  add_counts(parser, "n-prompt,p", bench.n_prompt, 0, kMostTokens, "prompt lengths; 0: none", "512");
  add_counts(parser, "n-gen,n", bench.n_gen, 0, kMostTokens, "numbers of tokens to generate; 0: none", "128");
  add_counts(parser, "n-depth,d", bench.depths, 0, kMostTokens, "tokens already in the cache", "0");
  add_counts(parser, "parallel,np", bench.n_parallel, 1, kMostParallel,
             "sequences at once: each has a prompt, behind which it generates", "1");
  parser.add_integer("repetitions,r", bench.repetitions, 1, 10000, "repetitions of each test");
  parser.add_flag("breakdown", bench.breakdown,
                  "tell the exchange's share: CPUs clock it, GPUs run every test again without it");
  parser.add_text("baseline", bench.baseline, "FILE",
                  "compare with a one-rank run's -o json: speedup and efficiency");
  parser.add_choice("output,o", bench.output, {"md", "csv", "json"}, "the table's form");
}

std::string table(const BenchContext& context, const std::vector<BenchTest>& tests, const std::string& form) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const BenchTest& test : tests) rows.push_back(bench_record(context, test));
  return form == "json"  ? json_text(rows)
         : form == "csv" ? bench_csv(rows)
         : rows.empty()  ? ""
                         : bench_markdown(rows);
}

}  // namespace

int bench_command(Job& job, const Arguments& arguments) {
  OptionParser parser("bench", "Measure prompt and generation speed",
                      "As llama-bench: every test is run once to warm up and -r times for the mean. MB/token "
                      "are the weights that all ranks read for a token; % of sweep is how fast, beside what "
                      "they reach by only reading.");
  ModelOptions model;
  BenchOptions bench;
  add_model_options(parser, model, true);
  add_bench_options(parser, bench);
  if (!parser.parse(arguments)) return 0;
  require_model(parser, model);
  const std::vector<std::string> comms = comm_list(model.comm);
  std::vector<BenchTest> tests = list_tests(bench, comms.size());

  Communicator& communicator = job.start(parser.settings());
  note_phase("load");
  LoadBar bar(model.progress, communicator.rank());
  SessionOptions options = bench_session_options(model, bench, tests);
  options.on_progress = bar.callback();
  Session session(options, communicator);
  bar.finish();
  report_load(session, communicator);
  check_comms(comms, session, communicator);
  std::optional<Baseline> baseline;
  if (!bench.baseline.empty() && communicator.rank() == 0)
    baseline.emplace(bench.baseline, session.file().total_bytes());
  const Roofline roofline = measure_roofline(session, communicator, bench.n_parallel);
  const EnergyMeter meter(communicator, session.gpu());
  if (const int code = BenchRun(session, communicator, bench, meter).run(tests); code != 0) return code;
  if (communicator.rank() != 0) return 0;

  BenchContext context = make_context(session, communicator, model, meter);
  context.roofline = roofline;
  context.baseline = std::move(baseline);
  for (BenchTest& test : tests) {
    if (session.gpu()) test.comm_name = session.comm_names().at(test.comm);
  }
  print_result(table(context, tests, bench.output));
  return 0;
}

}  // namespace tandem
