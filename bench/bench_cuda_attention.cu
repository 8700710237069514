// Attention of decode steps on the CUDA backend by length, in a graph of 80 layers with caches of their own:
//   bench_cuda_attention [--quick] [--commit ID] > bench/results/cuda-attention-DEVICE.json  (progress on
//   stderr)
// together: append_attend(), the launch that decoding uses. apart: rope_append() and attend(). early: with
// programmatic dependent launch. us: of a layer, medians of 9 replays. gb_per_s: cache bytes that the tokens
// see. Nothing but attention is in the graph, so early launches overlap with attention, not with products.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda_report.h"
#include "ops/cuda/attention.h"

namespace tandem::cuda {
namespace {

constexpr int64_t kLayers = 80;

struct Model {
  const char* name;
  int32_t n_heads;
  int32_t n_kv_heads;
  int32_t head_dim;
  int64_t window;
  RopeStyle style;
  bool norms;
};
constexpr Model kModels[] = {
    {"llama-70b, one of two ranks", 32, 4, 128, 0, RopeStyle::adjacent, false},
    {"llama-8b", 32, 8, 128, 0, RopeStyle::adjacent, false},
    {"gemma3-270m, window 512", 4, 1, 256, 512, RopeStyle::halves, true},
    {"gemma3-270m, all", 4, 1, 256, 0, RopeStyle::halves, true},
    {"gemma3-27b, window 1024", 32, 16, 128, 1024, RopeStyle::halves, true},
};

template <class T>
DeviceBuffer<T> upload(const std::vector<T>& host) {
  DeviceBuffer<T> buffer(host.size());
  check(cudaMemcpy(buffer.data(), host.data(), buffer.bytes(), cudaMemcpyHostToDevice));
  return buffer;
}

std::vector<float> pattern(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 2654435761U % 1000) * 0.002F - 1.0F;
  return x;
}

std::vector<int32_t> kv_of_heads(const Model& model) {
  std::vector<int32_t> of;
  for (int32_t h = 0; h < model.n_heads; ++h) of.push_back(h / (model.n_heads / model.n_kv_heads));
  return of;
}

/// n_tokens sequences of one length, the same in every layer.
class Step {
 public:
  Step(const Model& model, int64_t length, int64_t n_tokens, CudaKvType type)
      : n_tokens_(n_tokens),
        pages_a_token_(ceil_div(length, kPageTokens)),
        kv_of_head_(kv_of_heads(model)),
        cache_(kLayers, model.n_kv_heads, model.head_dim, type, n_tokens * pages_a_token_),
        scratch_(AttentionShape{kv_of_head_, model.n_kv_heads, model.head_dim, 64, 32768}),
        out_(n_tokens, {0, int64_t{model.n_heads} * model.head_dim}, ActForm::q8),
        floats_(upload(pattern(n_tokens * (model.n_heads + 2 * model.n_kv_heads + 2) * model.head_dim))) {
    check(cudaMemset(cache_.raw(), 0x3c, cache_.bytes()));  // halves of 1.06
    std::vector<int32_t> ints(static_cast<size_t>(n_tokens), static_cast<int32_t>(length - 1));
    for (int64_t i = 0; i < n_tokens * (1 + pages_a_token_); ++i)  // sequences, then pages
      ints.push_back(static_cast<int32_t>(i < n_tokens ? i : i - n_tokens));
    ints_ = upload(ints);
    what_.step.positions = ints_.data();
    what_.step.sequences = ints_.data() + n_tokens;
    what_.step.pages = ints_.data() + 2 * n_tokens;
    what_.step.pages_stride = pages_a_token_;
    what_.q = floats_.data();
    what_.k = what_.q + n_tokens * model.n_heads * model.head_dim;
    what_.v = what_.k + n_tokens * model.n_kv_heads * model.head_dim;
    what_.step.rope[0] = what_.v + n_tokens * model.n_kv_heads * model.head_dim;
    what_.step.n_rot[0] = model.head_dim;
    what_.q_norm = what_.k_norm = model.norms ? what_.step.rope[0] + n_tokens * model.head_dim : nullptr;
    what_.norm_eps = 1e-6F;
    what_.q_stride = int64_t{model.n_heads} * model.head_dim;
    what_.k_stride = what_.v_stride = int64_t{model.n_kv_heads} * model.head_dim;
    what_.style = model.style;
    what_.scale = 0.09F;
    what_.window = model.window;
    what_.scratch = &scratch_;
    what_.out = &out_;
    check(cudaDeviceSynchronize());
  }

  double us(bool together, bool early) {
    return graph_us(stream_,
                    [&] {
                      for (int64_t layer = 0; layer < kLayers; ++layer) {
                        what_.cache = cache_.layer(layer);
                        if (together) {
                          append_attend(what_, n_tokens_, early, stream_.get());
                        } else {
                          rope_append(what_, n_tokens_, early, stream_.get());
                          attend(what_, n_tokens_, early, stream_.get());
                        }
                      }
                    }) /
           static_cast<double>(kLayers);
  }

 private:
  int64_t n_tokens_;
  int64_t pages_a_token_;
  std::vector<int32_t> kv_of_head_;
  Stream stream_;
  CudaKvCache cache_;
  AttentionScratch scratch_;
  CudaActivations out_;
  DeviceBuffer<float> floats_;
  DeviceBuffer<int32_t> ints_;
  Attention what_;
};

const char* name_of(CudaKvType type) {
  return type == CudaKvType::f32 ? "f32" : type == CudaKvType::f16 ? "f16" : "q8_0";
}

void measure(const Model& model, int64_t length, int64_t n_tokens, CudaKvType type, Report& report) {
  Step step(model, length, n_tokens, type);
  step.us(true, true);  // brings the clocks up
  const double together[] = {step.us(true, false), step.us(true, true)};
  const double apart[] = {step.us(false, false), step.us(false, true)};
  const int64_t seen = model.window > 0 ? std::min(length, model.window) : length;
  const double bytes = static_cast<double>(n_tokens * seen * model.n_kv_heads) * 2.0 *
                       static_cast<double>(KvView::plane_bytes(type, model.head_dim)) / kPageTokens;
  report.result(
      format("\"model\": \"%s\", \"cache\": \"%s\", \"length\": %ld, \"tokens\": %ld, \"together_us\": %.2f, "
             "\"together_early_us\": %.2f, \"apart_us\": %.2f, \"apart_early_us\": %.2f, "
             "\"together_early_gb_per_s\": %.0f",
             model.name, name_of(type), static_cast<long>(length), static_cast<long>(n_tokens), together[0],
             together[1], apart[0], apart[1], bytes / together[1] / 1e3));
  std::fprintf(stderr,
               "%-28s %-4s length %6ld tokens %2ld  together %7.2f early %7.2f  apart %7.2f early %7.2f us"
               "  %5.0f GB/s\n",
               model.name, name_of(type), static_cast<long>(length), static_cast<long>(n_tokens), together[0],
               together[1], apart[0], apart[1], bytes / together[1] / 1e3);
}

void run(const BenchArguments& arguments) {
  Report report(arguments.commit);
  report.fact("layers", std::to_string(kLayers));
  for (const Model& model : kModels) {
    for (const int64_t length : {1, 64, 256, 300, 512, 2048, 8192, 32768}) {
      if (arguments.quick && (length == 1 || length == 64 || length == 2048)) continue;
      measure(model, length, 1, CudaKvType::f16, report);
    }
  }
  for (const int64_t length : {512, 4096}) {
    if (!arguments.quick) measure(kModels[0], length, 8, CudaKvType::f16, report);
    measure(kModels[0], length, 1, CudaKvType::q8_0, report);
  }
  report.end();
}

}  // namespace
}  // namespace tandem::cuda

int main(int argc, char** argv) {
  return tandem::cuda::bench_main(argc, argv, "bench_cuda_attention", tandem::cuda::run);
}
