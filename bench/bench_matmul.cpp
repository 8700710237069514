// Matrix products of one thread: how fast a single token's product streams weights from memory (GB/s of
// packed weights, beside a plain read of the same bytes), and how many multiply-adds a second prompts reach.
//
//   bench_matmul --benchmark_filter=gemv        TANDEM_ISA=avx2 bench_matmul --benchmark_filter='gemm/Q4_K'
//
// A shared machine interrupts long runs, so `gemv` times pieces of a megabyte or so and reports their median.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "ops/core/check.h"
#include "ops/cpu/matmul.h"
#include "tests/support/random_matrix.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// A matrix of random blocks; rows repeat after a while, which costs nothing in memory traffic.
PackedMatrix make_weight(TensorType type, int64_t n_rows, int64_t n_cols) {
  const int64_t n_distinct = std::min<int64_t>(n_rows, 256);
  const testing::RandomMatrix m = testing::random_matrix(type, n_distinct, n_cols, 1);
  PackedMatrix weight(type, n_rows, {0, n_cols});
  for (int64_t row = 0; row < n_rows; row += n_distinct) {
    weight.put_rows(row, std::min(n_distinct, n_rows - row), m.bytes.data(), m.row_stride);
  }
  return weight;
}

Activations make_input(int64_t n_tokens, int64_t n_cols) {
  Activations x;
  x.reshape(n_tokens, n_cols, ActForms{}.with(ActForm::f32).with(ActForm::q8).with(ActForm::q15));
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int64_t c = 0; c < x.padded_cols(); ++c) {
      x.f32_row(t)[c] = c < n_cols ? static_cast<float>((c * 7 + t * 13) % 31 - 15) * 0.125F : 0.0F;
    }
  }
  require(quantize(x, {0, n_tokens}), "finite values do not quantise");
  return x;
}

/// Reads n bytes as the processor does it fastest without further help.
int64_t read_all(const std::byte* p, int64_t n) {
  int64_t sums[8] = {};
  for (int64_t i = 0; i + 64 <= n; i += 64) {
    const auto* words = reinterpret_cast<const int64_t*>(p + i);
    for (int k = 0; k < 8; ++k) sums[k] += words[k];
  }
  int64_t total = 0;
  for (const int64_t sum : sums) total += sum;
  return total;
}

/// One token, weights far above any cache: the median speed of pieces, and of a plain read of the same
/// pieces.
void gemv(benchmark::State& state, TensorType type, bool wide) {
  const int64_t n_rows = 16384;
  const int64_t n_cols = 8192;
  const PackedMatrix weight = make_weight(type, n_rows, n_cols);
  const Activations x = make_input(1, n_cols);
  std::vector<float> out(static_cast<size_t>(n_rows));
  const int64_t panel_bytes = static_cast<int64_t>(weight.bytes()) / weight.n_panels();
  const int64_t piece = std::max<int64_t>(1, 1000000 / panel_bytes);
  std::vector<double> products;
  std::vector<double> reads;
  for (auto _ : state) {
    for (int64_t p = 0; p + piece <= weight.n_panels(); p += piece) {
      const auto start = Clock::now();
      matmul(weight, x, activation_form(type, wide), {p, p + piece}, {0, 1}, out.data(), n_rows);
      products.push_back(seconds_since(start));
    }
    benchmark::DoNotOptimize(out.data());
    for (int64_t p = 0; p + piece <= weight.n_panels(); p += piece) {
      const auto start = Clock::now();
      benchmark::DoNotOptimize(read_all(weight.data() + p * panel_bytes, piece * panel_bytes));
      reads.push_back(seconds_since(start));
    }
  }
  const double piece_gb = static_cast<double>(piece * panel_bytes) * 1e-9;
  state.counters["GB/s"] = piece_gb / median(products);
  state.counters["read GB/s"] = piece_gb / median(reads);
}

void gemm(benchmark::State& state, TensorType type, bool wide, int64_t n_rows, int64_t n_cols) {
  const int64_t n_tokens = state.range(0);
  const PackedMatrix weight = make_weight(type, n_rows, n_cols);
  const Activations x = make_input(n_tokens, n_cols);
  std::vector<float> out(static_cast<size_t>(n_rows * n_tokens));
  std::vector<double> times;
  for (auto _ : state) {
    const auto start = Clock::now();
    matmul(weight, x, activation_form(type, wide), {0, weight.n_panels()}, {0, n_tokens}, out.data(), n_rows);
    times.push_back(seconds_since(start));
    benchmark::DoNotOptimize(out.data());
  }
  const double best = *std::min_element(times.begin(), times.end());
  state.counters["GMAC/s"] = static_cast<double>(n_rows * n_cols * n_tokens) * 1e-9 / best;
}

void quantize_rows(benchmark::State& state) {
  Activations x = make_input(64, 4096);
  std::vector<double> times;
  for (auto _ : state) {
    const auto start = Clock::now();
    require(quantize(x, {0, 64}), "finite values do not quantise");
    times.push_back(seconds_since(start));
  }
  state.counters["Gvalues/s"] = 64 * 4096e-9 / *std::min_element(times.begin(), times.end());
}

/// Rows of the file to panels: the loader's step.
void pack(benchmark::State& state, TensorType type) {
  const testing::RandomMatrix m = testing::random_matrix(type, 64, 4096, 1);
  PackedMatrix weight(type, 64, {0, 4096});
  std::vector<double> times;
  for (auto _ : state) {
    const auto start = Clock::now();
    weight.put_rows(0, 64, m.bytes.data(), m.row_stride);
    times.push_back(seconds_since(start));
  }
  state.counters["GB/s"] =
      static_cast<double>(m.bytes.size()) * 1e-9 / *std::min_element(times.begin(), times.end());
}

void register_all() {
  for (const TensorType type : testing::computable_types()) {
    const std::string name(type_info(type).name);
    const bool floats = activation_form(type, true) == ActForm::f32;
    benchmark::RegisterBenchmark(("pack/" + name).c_str(), pack, type);
    benchmark::RegisterBenchmark(("gemv/" + name).c_str(), gemv, type, false)->Iterations(3);
    for (const bool wide : {false, true}) {
      if (wide && floats) continue;
      const int64_t shapes[][2] = {{576, 576}, {1536, 576}, {576, 1536}, {4096, 14336}};
      for (const auto& [n_rows, n_cols] : shapes) {
        if (n_cols % type_info(type).block_elements != 0) continue;
        const std::string shape = std::to_string(n_rows) + "x" + std::to_string(n_cols);
        auto* entry = benchmark::RegisterBenchmark(
            fmt::format("gemm/{}/{}/{}", name, wide ? "q15" : "q8", shape).c_str(), gemm, type, wide, n_rows,
            n_cols);
        for (const int64_t n_tokens : {1, 4, 16, 512}) entry->Arg(n_tokens);
        entry->MinTime(0.2);
      }
    }
  }
  benchmark::RegisterBenchmark("quantize/64x4096", quantize_rows);
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  tandem::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
