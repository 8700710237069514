#include "launch/bench/bench_test.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "launch/session.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

/// Token ids that no cache or branch predictor finds too easy; another list for each stream, the same in
/// every run.
std::vector<int32_t> bench_tokens(int64_t n, uint64_t stream, int64_t n_vocab) {
  std::vector<int32_t> tokens;
  uint64_t state = 42 + stream * 0x9e3779b97f4a7c15U;
  for (int64_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(n_vocab)));
  }
  return tokens;
}

GenerationRequest request_of(std::vector<int32_t> prompt, int64_t n_new, int64_t session) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0.0f;
  request.session = session;
  request.max_new_tokens = n_new;
  return request;
}

/// One repetition. Every sequence keeps its cache under a session of its own and begins with tokens that no
/// other does. What lies behind `depth` is the same each time, so that it is filled once; a prompt that is
/// timed is another one each time, so that no cache has it.
bool repeat_once(Engine& engine, const BenchTest& test, uint64_t repetition, int64_t n_vocab,
                 const BenchClock* clock) {
  std::vector<std::vector<int32_t>> prompts;
  for (int s = 0; s < test.n_parallel; ++s) {
    const auto stream = static_cast<uint64_t>(s);
    prompts.push_back(bench_tokens(test.depth, stream, n_vocab));
    const std::vector<int32_t> timed =
        bench_tokens(std::max(1, test.n_prompt), (repetition + 1) * 65536 + stream, n_vocab);
    prompts.back().insert(prompts.back().end(), timed.begin(), timed.end());
  }
  for (size_t s = 0; s < prompts.size() && test.depth > 0; ++s) {
    std::vector<int32_t> filled(prompts[s].begin(), prompts[s].begin() + test.depth);
    engine.submit(request_of(std::move(filled), 0, static_cast<int64_t>(s) + 1));
  }
  if (run_until_idle(engine) != 0) return false;
  if (clock != nullptr) clock->begin();
  const auto start = Clock::now();
  for (size_t s = 0; s < prompts.size(); ++s)
    engine.submit(request_of(std::move(prompts[s]), std::max(1, test.n_gen), static_cast<int64_t>(s) + 1));
  if (run_until_idle(engine) != 0) return false;
  if (clock != nullptr) clock->end(std::chrono::duration<double>(Clock::now() - start).count());
  return true;
}

}  // namespace

std::string BenchTest::name() const {
  std::string text = n_prompt > 0 ? fmt::format("pp{}", n_prompt) : fmt::format("tg{}", n_gen);
  if (n_parallel > 1) text += fmt::format(" x{}", n_parallel);
  if (depth > 0) text += fmt::format(" @ d{}", depth);
  return text;
}

std::vector<double> BenchTest::speeds() const {
  std::vector<double> out;
  for (const double s : seconds) out.push_back(static_cast<double>(n_tokens()) / s);
  return out;
}

std::optional<double> BenchTest::collective_seconds() const {
  if (!exchange_seconds.empty()) return mean(exchange_seconds);
  if (!silent_seconds.empty()) return std::max(0.0, mean(seconds) - mean(silent_seconds));
  return std::nullopt;
}

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

bool run_test(Engine& engine, const BenchTest& test, int n_repetitions, int64_t n_vocab,
              const BenchClock& clock) {
  for (int r = 0; r <= n_repetitions; ++r) {
    if (!repeat_once(engine, test, static_cast<uint64_t>(r), n_vocab, r > 0 ? &clock : nullptr)) return false;
  }
  return true;
}

}  // namespace tandem
