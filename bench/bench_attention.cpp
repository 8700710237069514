// Attention of the CPU backend: a prompt of 512 tokens over all layers of a model, and one token at depth.
//   bench_attention --benchmark_repetitions=5 --benchmark_report_aggregates_only=true
// prompt: wall time of all layers; GFMA_s counts q·k and p·v of visible pairs. decode: bytes_per_second is of
// cached keys and values; each layer has its own cache, so that they come from memory.
#include <benchmark/benchmark.h>

#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "ops/core/range.h"
#include "ops/cpu/attention.h"

namespace tandem {
namespace {

struct Model {
  int n_layers;
  int n_heads;
  int n_kv_heads;
  int32_t head_dim;
};
constexpr std::array<Model, 3> kModels = {
    {{30, 9, 3, 64}, {32, 32, 8, 128}, {18, 4, 1, 256}}};  // 135M, 8B, gemma 270M

std::vector<float> normals(size_t n) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& a : x) a = normal(engine);
  return x;
}

struct Setup {
  Setup(const Model& m, int64_t depth, int64_t n_tokens, KvType type)
      : layers(static_cast<size_t>(m.n_layers), {m.n_kv_heads, m.head_dim, m.head_dim}),
        cache(layers, type, ceil_div(depth, kPageTokens)) {
    const std::vector<float> rows =
        normals(static_cast<size_t>(m.n_kv_heads) * static_cast<size_t>(m.head_dim) * 2);
    for (int layer = 0; layer < m.n_layers; ++layer) {
      for (int64_t p = 0; p < depth; ++p) {
        const auto offset = static_cast<size_t>(p % (m.n_kv_heads * m.head_dim));
        if (!cache.append(layer, p / kPageTokens, p % kPageTokens, rows.data() + offset,
                          rows.data() + offset))
          return;
      }
    }
    for (int32_t i = 0; i < ceil_div(depth, kPageTokens); ++i) pages.push_back(i);
    for (int64_t t = depth - n_tokens; t < depth; ++t) tokens.push_back({static_cast<int32_t>(t), 0});
    for (int h = 0; h < m.n_heads; ++h) kv_of_head.push_back(h * m.n_kv_heads / m.n_heads);
    const auto width = static_cast<size_t>(m.n_heads) * static_cast<size_t>(m.head_dim);
    q = normals(tokens.size() * width);
    out.resize(q.size());
    args = {&cache,
            0,
            tokens,
            tables,
            kv_of_head,
            q.data(),
            static_cast<int64_t>(width),
            out.data(),
            static_cast<int64_t>(width),
            1.0F / std::sqrt(static_cast<float>(m.head_dim)),
            0.0F,
            0};
    tables[0] = pages;
  }
  std::vector<KvLayerShape> layers;
  KvCache cache;
  std::vector<int32_t> pages;
  std::array<std::span<const int32_t>, 1> tables;
  std::vector<AttentionToken> tokens;
  std::vector<int32_t> kv_of_head;
  std::vector<float> q;
  std::vector<float> out;
  AttentionArgs args;
};

void prompt(benchmark::State& state) {
  const Model& m = kModels[static_cast<size_t>(state.range(0))];
  const int64_t n = state.range(1);
  Setup setup(m, n, n, static_cast<KvType>(state.range(3)));
  ThreadPool pool(static_cast<int>(state.range(2)));
  AttentionScratch scratch;
  for (auto _ : state) {
    for (setup.args.layer = 0; setup.args.layer < m.n_layers; ++setup.args.layer) {
      attend(setup.args, scratch, pool);
    }
  }
  const double pairs = static_cast<double>(n) * static_cast<double>(n + 1) / 2 * m.n_heads * m.n_layers;
  state.counters["GFMA_s"] =
      benchmark::Counter(pairs * 2 * m.head_dim * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void decode(benchmark::State& state) {
  const Model& m = kModels[static_cast<size_t>(state.range(0))];
  const auto type = static_cast<KvType>(state.range(3));
  Setup setup(m, state.range(1), 1, type);
  ThreadPool pool(static_cast<int>(state.range(2)));
  AttentionScratch scratch;
  for (auto _ : state) {
    for (setup.args.layer = 0; setup.args.layer < m.n_layers; ++setup.args.layer) {
      attend(setup.args, scratch, pool);
    }
  }
  state.SetBytesProcessed(state.iterations() * ceil_div(state.range(1), kPageTokens) *
                          static_cast<int64_t>(KvCache::bytes_per_page(setup.layers, type)));
}

/// Cases (model, tokens or depth, threads), each with a cache of every type but f32.
void every_type(benchmark::internal::Benchmark* bench, std::initializer_list<std::array<int64_t, 3>> cases) {
  for (const auto& [model, n, threads] : cases) {
    for (const KvType type : {KvType::f16, KvType::q8_0, KvType::q4_0})
      bench->Args({model, n, threads, static_cast<int64_t>(type)});
  }
}

BENCHMARK(prompt)
    ->ArgNames({"model", "tokens", "threads", "type"})
    ->Apply([](auto* bench) {
      every_type(bench, {{0, 512, 1}, {0, 512, 2}, {1, 512, 1}, {2, 512, 1}});
    }) -> Unit(benchmark::kMillisecond) -> UseRealTime();
BENCHMARK(decode)
    ->ArgNames({"model", "depth", "threads", "type"})
    ->Apply([](auto* bench) {
      every_type(bench, {{0, 8192, 1}, {0, 8192, 2}, {1, 2048, 1}, {1, 2048, 2}, {2, 8192, 1}, {0, 128, 1}});
    }) -> Unit(benchmark::kMillisecond) -> UseRealTime();

}  // namespace
}  // namespace tandem

BENCHMARK_MAIN();
