// The CUDA backend's matrix products against the memory's speed, all in one run of one process:
//   bench_cuda_gemv [--quick] [--commit ID] > bench/results/cuda-gemv-DEVICE.json        (progress on stderr)
// sweep: read-only pass over 16 GB, best of several launch shapes. single: one product over and over in a
// CUDA graph, a different matrix each time so that the L2 doesn't help. layers: the four products of a 70B
// layer of one of two ranks, in order, 80 (or as many as fit) layers with weights of their own in one graph.
// early: with programmatic dependent launch. Medians of 9 replays.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda_report.h"
#include "ops/cuda/gemv.h"
#include "ops/cuda/norm.h"

namespace tandem::cuda {
namespace {

struct Shape {
  int64_t n_rows;
  int64_t n_cols;
};
constexpr Shape kLayer[] = {{5120, 8192}, {8192, 4096}, {28672, 8192}, {8192, 14336}};

/// Reads n vectors in strides of the whole grid; writes only what can't happen.
template <int kUnroll>
__global__ void sweep(const uint4* data, size_t n, uint32_t* out) {
  const size_t step = size_t{gridDim.x} * blockDim.x;
  uint32_t all = 0;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < n; i += step * kUnroll) {
    uint4 v[kUnroll];
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) v[k] = i + k * step < n ? __ldcs(data + i + k * step) : uint4{};
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) all ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  if (all == 0x12345678U) *out = all;
}

__global__ void fill_random(uint32_t* data, size_t n) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < n; i += size_t{gridDim.x} * blockDim.x) {
    uint32_t a = static_cast<uint32_t>(i) * 2654435761U + static_cast<uint32_t>(i >> 32);
    a ^= a >> 15;
    a *= 0x85ebca6bU;
    a ^= a >> 13;
    data[i] = a * 0xc2b2ae35U;
  }
}

class Bench {
 public:
  explicit Bench(const BenchArguments& arguments)
      : quick_(arguments.quick),
        report_(arguments.commit),
        raw_(size_t{1} << 30),
        y_(kMostTokens * kMaxRows) {
    check(cudaDeviceGetAttribute(&n_multiprocessors_, cudaDevAttrMultiProcessorCount, 0));
    fill_random<<<n_multiprocessors_ * 8, 256>>>(reinterpret_cast<uint32_t*>(raw_.data()), raw_.size() / 4);
    check(cudaDeviceSynchronize());
  }

  void run() {
    sweep_gb_per_s_ = measure_sweep();
    report_.fact("sweep_gb_per_s", format("%.0f", sweep_gb_per_s_));
    constexpr TensorType kAll[] = {TensorType::q4_k, TensorType::q6_k, TensorType::q5_k,   TensorType::q3_k,
                                   TensorType::q2_k, TensorType::q8_0, TensorType::q4_0,   TensorType::q4_1,
                                   TensorType::q5_0, TensorType::q5_1, TensorType::iq4_nl, TensorType::iq4_xs,
                                   TensorType::f16,  TensorType::bf16, TensorType::f32};
    single(TensorType::q4_k, kLayer[2], false, 1, false);  // brings the clocks up
    for (const TensorType type : kAll) {
      const bool main_type = type == TensorType::q4_k || type == TensorType::q6_k;
      for (const Shape shape : {kLayer[2], kLayer[0], kLayer[1], kLayer[3], Shape{64128, 8192}}) {
        if (!main_type && shape.n_rows != kLayer[2].n_rows &&
            (quick_ || shape.n_rows != kLayer[1].n_rows || shape.n_cols != 4096))
          continue;
        for (const bool wide : {false, true}) {
          if (wide && (!main_type || activation_form(type, true) == ActForm::f32)) continue;
          for (const int n_tokens : {1, 2, 4, 8}) {
            if (n_tokens > 1 && (!main_type || wide || shape.n_rows != kLayer[2].n_rows)) continue;
            single(type, shape, wide, n_tokens);
          }
        }
      }
    }
    for (const TensorType type : {TensorType::q4_k, TensorType::q6_k}) layers(type);
    single(TensorType::q4_k, kLayer[2], false,
           1);  // again: where the allocations lie makes a difference of a tenth
    qkv();
    norms();
    report_.end();
  }

 private:
  static constexpr int64_t kMaxRows = 65536;
  static constexpr int64_t kMostTokens = 8;

  double measure_sweep() {
    const size_t bytes = size_t{16} << 30;
    const DeviceBuffer<std::byte> data(bytes);
    fill_random<<<n_multiprocessors_ * 8, 256>>>(reinterpret_cast<uint32_t*>(data.data()), bytes / 4);
    const auto* vectors = reinterpret_cast<const uint4*>(data.data());
    auto* out = reinterpret_cast<uint32_t*>(y_.data());
    double best = 0;
    for (const int blocks : {4, 8, 16}) {
      const double us4 = graph_us(stream_, [&] {
        sweep<4><<<n_multiprocessors_ * blocks, 256, 0, stream_.get()>>>(vectors, bytes / 16, out);
      });
      const double us8 = graph_us(stream_, [&] {
        sweep<8><<<n_multiprocessors_ * blocks, 256, 0, stream_.get()>>>(vectors, bytes / 16, out);
      });
      best = std::max(best, static_cast<double>(bytes) / std::min(us4, us8) / 1e3);
    }
    return best;
  }

  CudaMatrix make(TensorType type, Shape shape) {
    CudaMatrix matrix(type, shape.n_rows, {0, shape.n_cols});
    const auto stride = static_cast<size_t>(row_bytes(type, shape.n_cols));
    const auto piece = static_cast<int64_t>(raw_.size() / stride);
    for (int64_t row = 0; row < shape.n_rows; row += piece) {
      matrix.put_device_rows(row, std::min(piece, shape.n_rows - row), raw_.data(), stride, stream_.get());
    }
    return matrix;
  }

  CudaActivations input(TensorType type, int64_t n_cols, bool wide, int64_t n_tokens) {
    CudaActivations x(n_tokens, {0, n_cols}, activation_form(type, wide));
    const DeviceBuffer<float> floats(static_cast<size_t>(n_tokens * n_cols));
    std::vector<float> host(floats.size());
    for (size_t i = 0; i < host.size(); ++i)
      host[i] = static_cast<float>(i * 2654435761U % 1000) * 0.002F - 1.0F;
    check(cudaMemcpy(floats.data(), host.data(), floats.bytes(), cudaMemcpyHostToDevice));
    x.fill(floats.data(), n_cols, n_tokens, nullptr, stream_.get());
    stream_.synchronize();
    return x;
  }

  void report(const char* kind, TensorType type, Shape shape, bool wide, int n_tokens, double us,
              double early_us, double bytes) {
    const auto rate = [&](double t) { return bytes / t / 1e3; };
    report_.result(
        format("\"kind\": \"%s\", \"format\": \"%s\", \"rows\": %ld, \"cols\": %ld, \"tokens\": %d, "
               "\"activations\": \"%s\", \"us\": %.2f, \"gb_per_s\": %.0f, \"percent_of_sweep\": %.1f, "
               "\"early_us\": %.2f, \"early_percent_of_sweep\": %.1f",
               kind, type_info(type).name.data(), static_cast<long>(shape.n_rows),
               static_cast<long>(shape.n_cols), n_tokens, wide ? "q15" : "q8", us, rate(us),
               100 * rate(us) / sweep_gb_per_s_, early_us, 100 * rate(early_us) / sweep_gb_per_s_));
    std::fprintf(stderr, "%-7s %-7s %6ldx%-6ld tokens %d %s  %8.2f us %5.1f %%   early %8.2f us %5.1f %%\n",
                 kind, type_info(type).name.data(), static_cast<long>(shape.n_rows),
                 static_cast<long>(shape.n_cols), n_tokens, wide ? "q15" : "q8 ", us,
                 100 * rate(us) / sweep_gb_per_s_, early_us, 100 * rate(early_us) / sweep_gb_per_s_);
  }

  void single(TensorType type, Shape shape, bool wide, int n_tokens, bool counts = true) {
    const int64_t bytes = shape.n_rows * row_bytes(type, shape.n_cols);
    const int n = static_cast<int>(std::max<int64_t>(4, (int64_t{2} << 30) / bytes));
    std::vector<CudaMatrix> weights;
    for (int i = 0; i < n; ++i) weights.push_back(make(type, shape));
    const CudaActivations x = input(type, shape.n_cols, wide, n_tokens);
    // many launches a graph: its own start takes as long as several
    const int n_rounds = static_cast<int>(ceil_div(80, n));
    double us[2];
    for (const bool early : {false, true}) {
      const double all = graph_us(stream_, [&] {
        for (int i = 0; i < n * n_rounds; ++i) {
          const GemvOperand part{&weights[static_cast<size_t>(i % n)], nullptr, y_.data(), kMaxRows};
          gemv({&part, 1}, x, n_tokens, {Epilogue::none, early}, stream_.get());
        }
      });
      us[early ? 1 : 0] = all / (n * n_rounds);
    }
    if (counts) report("single", type, shape, wide, n_tokens, us[0], us[1], static_cast<double>(bytes));
  }

  void layers(TensorType type) {
    double bytes = 0;
    std::vector<CudaActivations> x;
    for (const Shape shape : kLayer) {
      bytes += static_cast<double>(shape.n_rows * row_bytes(type, shape.n_cols));
      x.push_back(input(type, shape.n_cols, false, 1));
    }
    size_t free = 0;
    size_t total = 0;
    check(cudaMemGetInfo(&free, &total));
    const int n = std::clamp(static_cast<int>(0.9 * static_cast<double>(free) / bytes), 1, 80);
    std::vector<CudaMatrix> weights;
    for (int layer = 0; layer < n; ++layer) {
      for (const Shape shape : kLayer) weights.push_back(make(type, shape));
    }
    double us[2];
    for (const bool early : {false, true}) {
      us[early ? 1 : 0] = graph_us(stream_,
                                   [&] {
                                     for (size_t i = 0; i < weights.size(); ++i) {
                                       const GemvOperand part{&weights[i], nullptr, y_.data(), kMaxRows};
                                       gemv({&part, 1}, x[i % 4], 1, {Epilogue::none, early}, stream_.get());
                                     }
                                   }) /
                          n;
    }
    report("layers", type, {0, n}, false, 1, us[0], us[1], bytes);
  }

  /// q, k and v of a 70B layer of one rank: Q4_K, Q4_K and Q6_K, in one launch.
  void qkv() {
    constexpr Shape kQ{4096, 8192};
    constexpr Shape kK{512, 8192};
    const int n = 60;
    std::vector<CudaMatrix> weights;
    for (int i = 0; i < n; ++i) {
      weights.push_back(make(TensorType::q4_k, kQ));
      weights.push_back(make(TensorType::q4_k, kK));
      weights.push_back(make(TensorType::q6_k, kK));
    }
    const double bytes =
        static_cast<double>((kQ.n_rows + kK.n_rows) * row_bytes(TensorType::q4_k, kQ.n_cols) +
                            kK.n_rows * row_bytes(TensorType::q6_k, kK.n_cols));
    const CudaActivations x = input(TensorType::q4_k, kQ.n_cols, false, 1);
    double us[2];
    for (const bool early : {false, true}) {
      us[early ? 1 : 0] =
          graph_us(stream_,
                   [&] {
                     for (size_t i = 0; i < weights.size(); i += 3) {
                       const GemvOperand parts[] = {{&weights[i], nullptr, y_.data(), kMaxRows},
                                                    {&weights[i + 1], nullptr, y_.data() + 4096, kMaxRows},
                                                    {&weights[i + 2], nullptr, y_.data() + 8192, kMaxRows}};
                       gemv(parts, x, 1, {Epilogue::none, early}, stream_.get());
                     }
                   }) /
          n;
    }
    report("qkv", TensorType::q4_k, {5120, 8192}, false, 1, us[0], us[1], bytes);
  }

  /// Residual, norm and quantisation of one row of 8192 behind a reduction.
  void norms() {
    constexpr int64_t kCols = 8192;
    CudaActivations x(1, {0, kCols}, ActForm::q8);
    const DeviceBuffer<float> rows(4 * kCols);
    check(cudaMemset(rows.data(), 0, rows.bytes()));
    AddNorm what;
    what.n_cols = kCols;
    what.slots[0] = rows.data();
    what.n_slots = 1;
    what.residual = rows.data() + kCols;
    what.weight = rows.data() + 2 * kCols;
    what.eps = 1e-5F;
    what.out[0] = &x;
    constexpr int kTimes = 200;
    double us[2];
    for (const bool early : {false, true}) {
      us[early ? 1 : 0] = graph_us(stream_,
                                   [&] {
                                     for (int i = 0; i < kTimes; ++i) add_norm(what, 1, early, stream_.get());
                                   }) /
                          kTimes;
    }
    report("add_norm", TensorType::f32, {1, kCols}, false, 1, us[0], us[1], 4.0 * 4 * kCols);
  }

  bool quick_;
  Report report_;
  int n_multiprocessors_ = 0;
  double sweep_gb_per_s_ = 0;
  Stream stream_;
  DeviceBuffer<std::byte> raw_;
  DeviceBuffer<float> y_;
};

}  // namespace
}  // namespace tandem::cuda

int main(int argc, char** argv) {
  return tandem::cuda::bench_main(argc, argv, "bench_cuda_gemv",
                                  [](const auto& arguments) { tandem::cuda::Bench(arguments).run(); });
}
