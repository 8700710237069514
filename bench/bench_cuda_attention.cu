// Attention on the CUDA backend: of decode steps by depth, in a graph of layers with caches of their own, and
// of prompts by length.
//   bench_cuda_attention [--quick] [--prompts | --decode] [--commit ID] > FILE.json  (progress on stderr)
// together: append_attend(), the launch that decoding uses. apart: rope_append() and attend(). early: with
// programmatic dependent launch. us: of a layer, medians of 9 replays. gb_per_s: cache bytes that the tokens
// see; percent: of what a plain sweep over so many bytes reads on this device. Nothing but attention is in
// the graph, so early launches overlap with attention, not with products. prompts: attend() alone, floats to
// rows; tflop_per_s: 4 · head size · heads for each position that a token sees.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "ops/core/error.h"
#include "ops/cuda/attention.h"

namespace tandem::cuda {
namespace {

constexpr int64_t kLayers = 80;
constexpr int64_t kMostCacheBytes = int64_t{24} << 30;  ///< fewer layers where they would take more

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

/// Halves between −2 and 2 that a prompt's scores differ by; as codes and scales of q8_0 too.
__global__ void scatter_kernel(uint32_t* words, int64_t n, bool halves) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761U + 12345U;
    x ^= x >> 15;
    x *= 2246822519U;
    x ^= x >> 13;
    words[i] = halves ? (x & 0x83ff83ffU) | 0x3c003c00U : (x & 0x0f0f0f0fU) | 0x20202020U;
  }
}

/// What sums of a buffer's words take, in GB/s: the device's reading speed.
__global__ void sweep_kernel(const uint4* words, int64_t n, uint32_t* out) {
  uint32_t sum = 0;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  for (; i + 3 * step < n; i += 4 * step) {
    const uint4 a = __ldcs(words + i);
    const uint4 b = __ldcs(words + i + step);
    const uint4 c = __ldcs(words + i + 2 * step);
    const uint4 d = __ldcs(words + i + 3 * step);
    sum +=
        (a.x ^ a.y ^ a.z ^ a.w) + (b.x ^ b.y ^ b.z ^ b.w) + (c.x ^ c.y ^ c.z ^ c.w) + (d.x ^ d.y ^ d.z ^ d.w);
  }
  if (sum == 0x12345678U) *out = sum;
}

double median_us(const Stream& stream, cudaGraphExec_t exec, int n_replays = 9) {
  const Event begin;
  const Event end;
  std::vector<double> times;
  for (int i = 0; i <= n_replays; ++i) {
    begin.record(stream);
    check(cudaGraphLaunch(exec, stream.get()));
    end.record(stream);
    stream.synchronize();
    if (i > 0) times.push_back(Event::elapsed_us(begin, end));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// Microseconds of what `record` puts on the stream, as a graph.
double graph_us(const Stream& stream, const std::function<void()>& record, int n_replays = 9) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  record();
  check(cudaStreamEndCapture(stream.get(), &graph));
  check(cudaGraphInstantiate(&exec, graph, 0));
  const double us = median_us(stream, exec, n_replays);
  check(cudaGraphExecDestroy(exec));
  check(cudaGraphDestroy(graph));
  return us;
}

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

double sweep_gb_per_s() {
  const Stream stream;
  const DeviceBuffer<std::byte> memory(size_t{4} << 30);
  const DeviceBuffer<uint32_t> out(1);
  check(cudaMemset(memory.data(), 0, memory.bytes()));
  check(cudaDeviceSynchronize());
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  const double us = graph_us(stream, [&] {
    sweep_kernel<<<properties.multiProcessorCount * 4, 512, 0, stream.get()>>>(
        reinterpret_cast<const uint4*>(memory.data()), static_cast<int64_t>(memory.bytes() / 16), out.data());
  });
  return static_cast<double>(memory.bytes()) / us / 1e3;
}

/// How a step's sequences are: so many of one kind, their last position `length` - 1, n_new tokens each.
struct Shape {
  int64_t length = 1;
  int64_t n_sequences = 1;
  int64_t n_new = 1;
  int64_t n_tokens() const { return n_sequences * n_new; }
};

/// The same step in every layer.
class Step {
 public:
  Step(const Model& model, const Shape& shape, CudaKvType type)
      : n_tokens_(shape.n_tokens()),
        pages_a_sequence_(ceil_div(shape.length, kPageTokens)),
        kv_of_head_(kv_of_heads(model)),
        n_layers_(layers_for(model, shape, type)),
        cache_(n_layers_, model.n_kv_heads, model.head_dim, type, shape.n_sequences * pages_a_sequence_),
        scratch_(AttentionShape{kv_of_head_, model.n_kv_heads, model.head_dim,
                                std::max<int64_t>(64, n_tokens_), std::max<int64_t>(32768, shape.length)}),
        out_(n_tokens_, {0, int64_t{model.n_heads} * model.head_dim}, ActForm::q8),
        floats_(upload(pattern(n_tokens_ * (model.n_heads + 2 * model.n_kv_heads + 2) * model.head_dim))),
        rows_(static_cast<size_t>(n_tokens_ * model.n_heads * model.head_dim)) {
    scatter_kernel<<<1024, 256>>>(reinterpret_cast<uint32_t*>(cache_.raw()),
                                  static_cast<int64_t>(cache_.bytes() / 4), !is_coded(type));
    place(shape);
    const int64_t n_q = int64_t{model.n_heads} * model.head_dim;
    const int64_t n_kv = int64_t{model.n_kv_heads} * model.head_dim;
    what_.q = floats_.data();
    what_.k = what_.q + n_tokens_ * n_q;
    what_.v = what_.k + n_tokens_ * n_kv;
    what_.step.rope[0] = what_.v + n_tokens_ * n_kv;
    what_.step.n_rot[0] = model.head_dim;
    what_.q_norm = what_.k_norm = model.norms ? what_.step.rope[0] + n_tokens_ * model.head_dim : nullptr;
    what_.norm_eps = 1e-6F;
    what_.q_stride = n_q;
    what_.k_stride = what_.v_stride = n_kv;
    what_.style = model.style;
    what_.scale = 0.09F;
    what_.window = model.window;
    what_.scratch = &scratch_;
    what_.out = &out_;
    check(cudaDeviceSynchronize());
  }

  double us(bool together, bool early) {
    return layers_us(
        [&] {
          if (together) {
            append_attend(what_, n_tokens_, early, stream_.get());
          } else {
            rope_append(what_, n_tokens_, early, stream_.get());
            attend(what_, n_tokens_, early, stream_.get());
          }
        },
        9);
  }
  /// attend() of prompts, floats to rows.
  double prompt_us() {
    what_.parts = parts_;
    what_.rows = rows_.data();
    return layers_us([&] { attend(what_, n_tokens_, true, stream_.get()); }, 5);
  }

 private:
  static int64_t layers_for(const Model& model, const Shape& shape, CudaKvType type) {
    const auto page =
        static_cast<int64_t>(CudaKvCache::bytes_per_page(1, model.n_kv_heads, model.head_dim, type));
    const int64_t layer = shape.n_sequences * ceil_div(shape.length, kPageTokens) * page;
    const int64_t most = shape.n_new > 1 ? 8 : kLayers;
    return std::clamp<int64_t>(kMostCacheBytes / layer, 1, most);
  }
  void place(const Shape& shape) {
    std::vector<int32_t> ints;
    for (int64_t t = 0; t < n_tokens_; ++t)
      ints.push_back(static_cast<int32_t>(shape.length - shape.n_new + t % shape.n_new));
    for (int64_t t = 0; t < n_tokens_; ++t) ints.push_back(static_cast<int32_t>(t / shape.n_new));
    for (int64_t i = 0; i < shape.n_sequences * pages_a_sequence_; ++i)
      ints.push_back(static_cast<int32_t>(i));
    ints_ = upload(ints);
    what_.step.positions = ints_.data();
    what_.step.sequences = ints_.data() + n_tokens_;
    what_.step.pages = ints_.data() + 2 * n_tokens_;
    what_.step.pages_stride = pages_a_sequence_;
    parts_.assign(static_cast<size_t>(shape.n_sequences),
                  {static_cast<int32_t>(shape.n_new), ints[0], shape.n_new > 1});
  }
  double layers_us(const std::function<void()>& layer, int n_replays) {
    return graph_us(
               stream_,
               [&] {
                 for (int64_t i = 0; i < n_layers_; ++i) {
                   what_.cache = cache_.layer(i);
                   layer();
                 }
               },
               n_replays) /
           static_cast<double>(n_layers_);
  }

  int64_t n_tokens_;
  int64_t pages_a_sequence_;
  std::vector<int32_t> kv_of_head_;
  int64_t n_layers_;
  Stream stream_;
  CudaKvCache cache_;
  AttentionScratch scratch_;
  CudaActivations out_;
  DeviceBuffer<float> floats_, rows_;
  DeviceBuffer<int32_t> ints_;
  std::vector<AttentionPart> parts_;
  Attention what_;
};

const char* name_of(CudaKvType type) {
  return type == CudaKvType::f32    ? "f32"
         : type == CudaKvType::f16  ? "f16"
         : type == CudaKvType::q8_0 ? "q8_0"
                                    : "q4_0";
}

/// As the kernel's module tells it, e.g. 580.159.04.
std::string driver_version() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string word;
  while (file >> word) {
    if (word.find_first_not_of("0123456789.") == std::string::npos &&
        std::count(word.begin(), word.end(), '.') >= 1)
      return word;
  }
  return "";
}

void print_head(const char* commit) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  char date[16] = "";
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof(date), "%Y-%m-%d", std::gmtime(&now));
  std::printf("{\n  \"commit\": \"%s\",\n  \"date\": \"%s\",\n  \"driver\": \"%s\",\n  \"device\": \"%s\",\n",
              commit, date, driver_version().c_str(), properties.name);
  std::printf("  \"cuda_runtime\": %d,\n  \"layers\": %d,\n  \"results\": [\n", CUDART_VERSION,
              static_cast<int>(kLayers));
}

void separate(bool& first) {
  std::printf("%s    ", first ? "" : ",\n");
  first = false;
}

void measure(const Model& model, int64_t length, int64_t n_tokens, CudaKvType type, double sweep,
             bool& first) {
  Step step(model, {length, n_tokens, 1}, type);
  step.us(true, true);  // brings the clocks up
  const double together[] = {step.us(true, false), step.us(true, true)};
  const double apart[] = {step.us(false, false), step.us(false, true)};
  const int64_t seen = model.window > 0 ? std::min(length, model.window) : length;
  const double bytes = static_cast<double>(n_tokens * seen * model.n_kv_heads) * 2.0 *
                       static_cast<double>(KvView::plane_bytes(type, model.head_dim)) / kPageTokens;
  const double speed = bytes / together[1] / 1e3;
  separate(first);
  std::printf(
      "{\"model\": \"%s\", \"cache\": \"%s\", \"length\": %ld, \"tokens\": %ld, \"together_us\": %.2f, "
      "\"together_early_us\": %.2f, \"apart_us\": %.2f, \"apart_early_us\": %.2f, "
      "\"together_early_gb_per_s\": %.0f, \"percent\": %.0f}",
      model.name, name_of(type), static_cast<long>(length), static_cast<long>(n_tokens), together[0],
      together[1], apart[0], apart[1], speed, 100 * speed / sweep);
  std::fprintf(stderr,
               "%-28s %-4s length %6ld tokens %2ld  together %7.2f early %7.2f  apart %7.2f early %7.2f us"
               "  %5.0f GB/s %3.0f %%\n",
               model.name, name_of(type), static_cast<long>(length), static_cast<long>(n_tokens), together[0],
               together[1], apart[0], apart[1], speed, 100 * speed / sweep);
}

void measure_prompt(const Model& model, const Shape& shape, CudaKvType type, bool& first) {
  Step step(model, shape, type);
  const double us = step.prompt_us();
  double pairs = 0;
  for (int64_t p = shape.length - shape.n_new; p < shape.length; ++p)
    pairs += static_cast<double>(model.window > 0 ? std::min(p + 1, model.window) : p + 1);
  const double flops = 4.0 * model.n_heads * model.head_dim * pairs * static_cast<double>(shape.n_sequences);
  separate(first);
  std::printf(
      "{\"model\": \"%s\", \"cache\": \"%s\", \"length\": %ld, \"new_tokens\": %ld, "
      "\"sequences\": %ld, \"prompt_us\": %.1f, \"tflop_per_s\": %.1f}",
      model.name, name_of(type), static_cast<long>(shape.length), static_cast<long>(shape.n_new),
      static_cast<long>(shape.n_sequences), us, flops / us / 1e6);
  std::fprintf(stderr, "%-28s %-4s length %6ld new %5ld x %2ld  prompt %9.1f us  %6.1f TFLOP/s\n", model.name,
               name_of(type), static_cast<long>(shape.length), static_cast<long>(shape.n_new),
               static_cast<long>(shape.n_sequences), us, flops / us / 1e6);
}

void measure_decode(bool quick, bool& first) {
  const double sweep = sweep_gb_per_s();
  std::fprintf(stderr, "a sweep reads %.0f GB/s\n", sweep);
  for (const Model& model : kModels) {
    for (const int64_t length : {1, 64, 256, 300, 512, 2048, 8192, 32768, 131072}) {
      if (quick && (length == 1 || length == 64 || length == 2048)) continue;
      measure(model, length, 1, CudaKvType::f16, sweep, first);
    }
  }
  for (const int64_t length : {512, 4096, 32768}) {
    for (const int64_t n_tokens : {4, 16, 64}) {
      if (quick && n_tokens == 4) continue;
      measure(kModels[0], length, n_tokens, CudaKvType::f16, sweep, first);
    }
    measure(kModels[0], length, 1, CudaKvType::q8_0, sweep, first);
    measure(kModels[0], length, 1, CudaKvType::q4_0, sweep, first);
  }
}

void measure_prompts(bool quick, bool& first) {
  for (const Model& model : kModels) {
    for (const int64_t length : {512, 2048, 8192, 32768}) {
      if (quick && &model != kModels && length > 2048) continue;
      measure_prompt(model, {length, 1, length}, CudaKvType::f16, first);
    }
  }
  for (const int64_t length : {512, 2048, 8192}) {
    for (const CudaKvType type : {CudaKvType::q8_0, CudaKvType::q4_0})
      measure_prompt(kModels[0], {length, 1, length}, type, first);
  }
  for (const int64_t n_new : {2, 16, 128, 512, 2048})  // a chunk deep in a context
    measure_prompt(kModels[0], {32768, 1, n_new}, CudaKvType::f16, first);
  measure_prompt(kModels[0], {256, 16, 256}, CudaKvType::f16, first);
}

void run(bool quick, bool decode, bool prompts, const char* commit) {
  print_head(commit);
  bool first = true;
  if (prompts) measure_prompts(quick, first);
  if (decode) measure_decode(quick, first);
  std::printf("\n  ]\n}\n");
}

}  // namespace
}  // namespace tandem::cuda

int main(int argc, char** argv) {
  try {
    bool quick = false;
    bool decode = true;
    bool prompts = true;
    const char* commit = "";
    for (int i = 1; i < argc; ++i) {
      if (std::strcmp(argv[i], "--quick") == 0) quick = true;
      if (std::strcmp(argv[i], "--prompts") == 0) decode = false;
      if (std::strcmp(argv[i], "--decode") == 0) prompts = false;
      if (std::strcmp(argv[i], "--commit") == 0 && i + 1 < argc) commit = argv[++i];
    }
    tandem::cuda::run(quick, decode, prompts, commit);
  } catch (const tandem::Error& error) {
    std::fprintf(stderr, "bench_cuda_attention: %s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
