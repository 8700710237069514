// Matrix products of many tokens on a GPU by road (ops/cuda/products.h): for the four shapes of a 70B layer
// of one of two ranks, 1 to 4096 tokens (step: six formats, else Q4_K and Q6_K). Roads: gemv (step: as a
// decode step asks for it, gate and up with their activation and rounding in one launch, down's input with 15
// bits), batch (warps: its kernels of before Hopper), unpacked (weights made halves, then our own kernel or
// cuBLASLt; own, blas: always that one; gated_: gate and up with their activation, to halves).
//   bench_cuda_products [--benchmark_format=json]
// Each run is eight products in a row on matrices of their own, so that the L2 doesn't help; time from CUDA
// events. Counters: GB/s of weights as they lie in memory, TFLOP/s.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "ops/cuda/products.h"

namespace tandem::cuda {
namespace {

struct Shape {
  const char* name;
  int64_t n_rows;
  int64_t n_cols;
};
constexpr Shape kShapes[] = {
    {"qkv", 5120, 8192}, {"o", 8192, 4096}, {"gate_up", 28672, 8192}, {"down", 8192, 14336}};
constexpr int kMatrices = 8;
constexpr int64_t kMostTokens = 4096;

/// Matrices of a shape and type, filled with small numbers: only their bytes count.
std::vector<CudaMatrix> matrices(TensorType type, const Shape& shape, int each) {
  std::vector<CudaMatrix> all;
  for (int i = 0; i < kMatrices * each; ++i) {
    all.emplace_back(type, shape.n_rows, Range{0, shape.n_cols});
    check(cudaMemset(const_cast<std::byte*>(all.back().tiles()), 17 + i, all.back().bytes()));
  }
  return all;
}

struct Way {
  std::string name;
  ActForm form;
  Roads roads;  ///< all tokens on the one road
  bool by_warps = false;
  bool as_step = false;
  bool by_blas = false;
  bool own = false;  ///< as a deterministic one multiplies prompts
};

bool is_down(const Shape& shape) {
  return shape.n_cols > shape.n_rows * 17 / 10;
}
bool is_gate_up(const Shape& shape) {
  return shape.n_rows > 2 * shape.n_cols;
}

void run(benchmark::State& state, TensorType type, const Shape& shape, const Way& way) {
  const int64_t n_tokens = state.range(0);
  const bool pair = way.as_step && is_gate_up(shape);
  const int64_t n_rows = pair ? shape.n_rows / 2 : shape.n_rows;
  std::vector<CudaMatrix> weights = matrices(type, {shape.name, n_rows, shape.n_cols}, pair ? 2 : 1);
  for (CudaMatrix& weight : weights) weight.set_roads(way.roads);
  Products products(shape.n_rows * shape.n_cols, way.own);
  CudaActivations x(n_tokens, {0, shape.n_cols}, way.as_step && is_down(shape) ? ActForm::q15 : way.form);
  CudaActivations records(n_tokens, {0, n_rows}, way.form == ActForm::f16 ? ActForm::f16 : ActForm::q15);
  const DeviceBuffer<float> floats(static_cast<size_t>(n_tokens * shape.n_cols));
  check(cudaMemset(floats.data(), 0x3d, floats.bytes()));
  const DeviceBuffer<float> out(static_cast<size_t>(n_tokens * shape.n_rows));
  check(cudaDeviceSynchronize());
  const Stream stream;
  x.fill(floats.data(), shape.n_cols, n_tokens, nullptr, stream.get());
  const Event begin;
  const Event end;
  const auto all = [&] {
    const size_t each = pair ? 2 : 1;
    for (size_t i = 0; i < weights.size(); i += each) {
      GemvOptions options{pair ? Epilogue::swiglu : Epilogue::none, true};
      options.by_warps = way.by_warps;
      options.by_blas = way.by_blas;
      if (pair) options.records = &records;
      const GemvOperand parts[] = {{&weights[i], nullptr, out.data(), n_rows},
                                   {&weights[i + each - 1], nullptr, out.data(), n_rows}};
      products.multiply({parts, each}, x, n_tokens, options, stream.get(), way.own);
    }
  };
  all();
  for (auto _ : state) {
    begin.record(stream);
    all();
    end.record(stream);
    stream.synchronize();
    state.SetIterationTime(Event::elapsed_us(begin, end) * 1e-6);
  }
  const auto products_run = static_cast<double>(state.iterations()) * kMatrices;
  const double bytes = static_cast<double>(weights[0].bytes()) * (pair ? 2 : 1);
  const double flops = 2.0 * static_cast<double>(shape.n_rows * shape.n_cols * n_tokens);
  state.counters["GB/s"] = benchmark::Counter(products_run * bytes * 1e-9, benchmark::Counter::kIsRate);
  state.counters["TFLOP/s"] = benchmark::Counter(products_run * flops * 1e-12, benchmark::Counter::kIsRate);
  state.counters["us"] =
      benchmark::Counter(products_run * 1e-6, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void register_all() {
  for (const TensorType type : {TensorType::q4_k, TensorType::q6_k, TensorType::q5_k, TensorType::q8_0,
                                TensorType::q3_k, TensorType::iq4_xs}) {
    const bool is_main = type == TensorType::q4_k || type == TensorType::q6_k;
    for (const Shape& shape : kShapes) {
      const std::string name = std::string(type_info(type).name) + "/" + shape.name;
      const auto add = [&](const Way& way, const std::vector<int64_t>& counts) {
        auto* bench = benchmark::RegisterBenchmark(
            (way.name + "/" + name).c_str(),
            [type, &shape, way](benchmark::State& state) { run(state, type, shape, way); });
        for (const int64_t n : counts) bench->Arg(n);
        bench->UseManualTime()->Unit(benchmark::kMicrosecond)->MinTime(0.02);
      };
      constexpr int32_t kAll = 1 << 20;
      add({"step", ActForm::q8, {kAll, kAll}, false, true}, {1, 2, 3, 4});
      if (!is_main) continue;
      add({"gemv", ActForm::q8, {kAll, kAll}}, {1, 2, 4, 8});
      add({"batch", ActForm::f16, {0, kAll}}, {1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048});
      add({"warps", ActForm::f16, {0, kAll}, true}, {1, 4, 8, 16, 32, 64, 128, 256});
      for (const bool gate : {false, true}) {
        const std::string gated = gate ? "gated_" : "";
        if (gate && !is_gate_up(shape)) continue;
        const std::vector<int64_t> counts = {64, 128, 256, 512, 1024, 2048, kMostTokens};
        add({gated + "unpacked", ActForm::f16, {0, 0}, false, gate}, counts);
        add({gated + "own", ActForm::f16, {0, 0}, false, gate, false, true}, counts);
        add({gated + "blas", ActForm::f16, {0, 0}, false, gate, true}, counts);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::cuda

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  tandem::cuda::register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
