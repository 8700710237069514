#include "ops/cuda/gemv.h"

#include <algorithm>
#include <vector>

#include "ops/cuda/format_kernels.h"
#include "ops/cuda/gemv_mixed.h"
#include "ops/cuda/gemv_walk.h"
#include "ops/cuda/launch.h"
#include "ops/quant/formats.h"

namespace tandem::cuda {
namespace {

struct Device {
  int n_multiprocessors = 0;
  int64_t shared_bytes = 0;        ///< of a multiprocessor
  int64_t block_shared_bytes = 0;  ///< that a block can ask for
};

Device ask_device(int id) {
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, id));
    return value;
  };
  return {attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

/// The current device's; asked for once a thread and device.
const Device& current_device() {
  constexpr int kMaxDevices = 64;
  thread_local Device known[kMaxDevices];
  int id = 0;
  check(cudaGetDevice(&id));
  require(id < kMaxDevices, "device number", id);
  if (known[id].n_multiprocessors == 0) known[id] = ask_device(id);
  return known[id];
}

/// Index into the kernels for 1, 2 and 4 tokens.
int variant_of(int64_t n_tokens) {
  return n_tokens <= 1 ? 0 : n_tokens <= 2 ? 1 : 2;
}

GemvKernel kernel_for(TensorType type, bool wide, int64_t n_tokens) {
  GemvKernel kernel;
  with_format(type, [&]<class F>(F) {
    const FormatKernels kernels = format_kernels<F>();
    kernel = kernels.gemv[wide ? 1 : 0][variant_of(n_tokens)];
  });
  require(kernel.function != nullptr, "no kernel for", type_info(type).name, wide);
  return kernel;
}

constexpr int kRecordRows = 32;  ///< that a block quantises together

/// Shared memory of a bundle, or of a run of pairs: its sums and, in rounds, where its units are.
int64_t bundle_bytes(const GemvKernel& kernel, const GemvArgs& args) {
  const int64_t slot_bytes = int64_t{kernel.rows} * kTileRows * kernel.tokens * int64_t{sizeof(float)};
  const int64_t list_bytes = kernel.rounds ? args.n_segments * int64_t{sizeof(UnitPlace)} : 0;
  const int64_t bytes = (args.epilogue == Epilogue::none ? 1 : 2) * int64_t{args.run} / args.n_halves *
                        (args.n_chunks * slot_bytes + list_bytes);
  return args.n_halves == 1 ? bytes : bytes + kRecordRows * kernel.tokens * int64_t{sizeof(float)};
}

/// Shared memory of a block beside that of its bundles; in rounds, lists of units are whole units a warp.
int64_t beside_bytes(const GemvKernel& kernel) {
  return (code_version(kernel.function) >= 80 ? kernel.shared_bytes : 0) +
         (kernel.rounds ? kernel.threads / 32 * static_cast<int64_t>(sizeof(UnitPlace)) : 0);
}

/// How many bundles, or runs of pairs, a block has shared memory for.
int64_t most_bundles(const GemvKernel& kernel, const GemvArgs& args) {
  const Device& device = current_device();
  constexpr int64_t kReserved = 1024;  // of the driver's, a block
  const int64_t limit = std::min(device.block_shared_bytes, device.shared_bytes / kernel.blocks - kReserved);
  return std::max<int64_t>(limit - beside_bytes(kernel), 0) / bundle_bytes(kernel, args);
}

/// Counts the bundles and chunks of args.parts for this kernel.
void count(const GemvKernel& kernel, GemvArgs& args) {
  args.n_bundles = 0;
  for (int i = 0; i < args.n_parts; ++i) {
    args.parts[i].n_bundles = static_cast<int32_t>(ceil_div(args.parts[i].n_rows, kernel.rows * kTileRows));
    if (i == 0 || args.epilogue == Epilogue::none) args.n_bundles += args.parts[i].n_bundles;
  }
  args.run = args.records == nullptr ? 1 : kRecordRows / (kernel.rows * kTileRows);
  require(args.n_bundles % args.run == 0, "gemv: rows of records", args.n_bundles);
  args.n_bundles /= args.run;
  args.n_chunks = kernel.rounds ? round_slots(args.n_segments, kernel.threads / 32)
                                : static_cast<int32_t>(ceil_div(args.n_segments, kernel.units));
  args.chunk_magic = division_magic(static_cast<uint32_t>(args.n_chunks));
}

/// Bundles a block, where `n_blocks` share them; where their sums don't fit, as many times more blocks as it
/// takes: a multiple, so that the last ones to run are no fewer.
struct Grid {
  int64_t n_blocks = 0;
  int64_t n_local = 0;
};
Grid cut(const GemvKernel& kernel, const GemvArgs& args, int64_t n_blocks) {
  const int64_t most = most_bundles(kernel, args);
  require(most > 0, "gemv: too many columns", args.n_segments * kSegmentCols);
  Grid grid;
  grid.n_blocks = std::min<int64_t>(args.n_bundles, n_blocks * ceil_div(args.n_bundles, n_blocks * most));
  grid.n_local = ceil_div(args.n_bundles, grid.n_blocks);
  const int64_t n_items = (args.epilogue == Epilogue::none ? 1 : 2) * args.run * grid.n_local * args.n_chunks;
  require(n_items * args.n_chunks < int64_t{1} << 32, "gemv: too many chunks", args.n_chunks);
  return grid;
}

void start(const GemvKernel& kernel, void* args, int64_t n_blocks, int64_t shared_bytes, bool early,
           cudaStream_t stream, int cluster = 1) {
  cuda::launch(kernel.function,
               {n_blocks, kernel.threads, beside_bytes(kernel) + shared_bytes, early, cluster}, args, stream);
}

/// Whether two blocks shall share runs: where then no multiprocessor has as much to do as the busiest one
/// without that.
bool shares_runs(const GemvKernel& kernel, const GemvArgs& args) {
  const int64_t n = current_device().n_multiprocessors;
  return args.run == 2 && is_hopper_code(kernel.function) &&
         ceil_div(args.n_bundles, n / 2) < 2 * ceil_div(args.n_bundles, n);
}

void launch_parts(const GemvKernel& kernel, GemvArgs args, bool early, cudaStream_t stream) {
  count(kernel, args);
  const int64_t resident = int64_t{current_device().n_multiprocessors} * kernel.blocks;
  if (shares_runs(kernel, args)) args.n_halves = 2;
  const Grid grid = cut(kernel, args, resident / args.n_halves);
  start(kernel, &args, grid.n_blocks * args.n_halves, grid.n_local * bundle_bytes(kernel, args), early,
        stream, args.n_halves);
}

/// Blocks in proportion to the bytes.
void launch_mixed(const GemvKernel& kernel, GemvMixedArgs args, int64_t first_bytes, int64_t second_bytes,
                  bool early, cudaStream_t stream) {
  count(kernel, args.first);
  count(kernel, args.second);
  const int64_t resident = int64_t{current_device().n_multiprocessors} * kernel.blocks;
  const int64_t share =
      std::clamp<int64_t>(resident * first_bytes / (first_bytes + second_bytes), 1, resident - 1);
  const Grid first = cut(kernel, args.first, share);
  const Grid second = cut(kernel, args.second, resident - share);
  args.first_blocks = static_cast<int32_t>(first.n_blocks);
  const int64_t shared = std::max(first.n_local * bundle_bytes(kernel, args.first),
                                  second.n_local * bundle_bytes(kernel, args.second));
  start(kernel, &args, first.n_blocks + second.n_blocks, shared, early, stream);
}

/// The parts of `type` that have rows, for the tokens from `token` on.
struct Gathered {
  GemvArgs args;
  int64_t bytes = 0;
};
Gathered gather(std::span<const GemvOperand> parts, TensorType type, const CudaActivations& x, int64_t token,
                int64_t n_tokens, const GemvOptions& options) {
  Gathered out;
  out.args.n_tokens = static_cast<int32_t>(n_tokens);
  out.args.x = x.data() + token * x.token_bytes();
  out.args.x_stride = x.token_bytes();
  out.args.n_segments = static_cast<int32_t>(segments_of(x.cols()).size());
  out.args.epilogue = options.epilogue;
  out.args.expert = options.expert;
  out.args.factor = options.factor;
  out.args.accumulate = options.accumulate;
  out.args.peer_token = static_cast<int32_t>(token - options.first_token);
  out.args.peers = options.peers;
  if (options.records != nullptr) {
    const CudaActivations& to = *options.records;
    out.args.records = to.data() + token * to.token_bytes();
    out.args.record_token_bytes = to.token_bytes();
    out.args.record_lead = static_cast<int32_t>(to.cols().begin % kSegmentCols);
    out.args.record_wide = to.form() == ActForm::q15;
    out.args.not_finite = options.not_finite;
  }
  for (const GemvOperand& part : parts) {
    const CudaMatrix& weight = *part.weight;
    if (weight.type() != type || weight.n_rows() == 0) continue;
    float* rows = part.out == nullptr ? nullptr : part.out + token * part.out_stride;
    out.args.parts[out.args.n_parts++] = {weight.tiles(),
                                          part.experts,
                                          part.bias,
                                          rows,
                                          part.out_stride,
                                          static_cast<int32_t>(weight.n_rows()),
                                          0};
    out.bytes += static_cast<int64_t>(weight.bytes());
  }
  return out;
}

/// The kernel for parts of both types at once, `first` and `second` put in its order; none where there is no
/// such one.
GemvKernel find_mixed(TensorType& first, TensorType& second, int64_t n_tokens) {
  GemvKernel found;
  for_each_mix([&](const MixedKernels& kernels) {
    const bool same = kernels.first == first && kernels.second == second;
    if (!same && !(kernels.first == second && kernels.second == first)) return;
    if (!same) std::swap(first, second);
    found = kernels.gemv[variant_of(n_tokens)];
  });
  return found;
}

/// How many tokens a launch takes: two where the device hasn't the shared memory that four want.
int64_t most_tokens(std::span<const GemvOperand> parts, const CudaActivations& x,
                    const GemvOptions& options) {
  for (const GemvOperand& part : parts) {
    const TensorType type = part.weight->type();
    if (part.weight->n_rows() == 0) continue;
    const GemvKernel kernel = kernel_for(type, x.form() == ActForm::q15, kMaxGemvTokens);
    GemvArgs args = gather(parts, type, x, options.first_token, kMaxGemvTokens, options).args;
    count(kernel, args);
    if (most_bundles(kernel, args) == 0) return 2;
  }
  return kMaxGemvTokens;
}

/// One launch a format, or one for two formats, by the kernels for `for_tokens`.
void launch_tokens(std::span<const GemvOperand> parts, const CudaActivations& x, Range tokens,
                   int64_t for_tokens, const GemvOptions& options, cudaStream_t stream) {
  std::vector<TensorType> types;
  for (const GemvOperand& part : parts) {
    const TensorType type = part.weight->type();
    if (part.weight->n_rows() != 0 && std::find(types.begin(), types.end(), type) == types.end())
      types.push_back(type);
  }
  if (types.size() == 2 && x.form() == ActForm::q8) {
    const GemvKernel kernel = find_mixed(types[0], types[1], for_tokens);
    if (kernel.function != nullptr) {
      const Gathered first = gather(parts, types[0], x, tokens.begin, tokens.size(), options);
      const Gathered second = gather(parts, types[1], x, tokens.begin, tokens.size(), options);
      launch_mixed(kernel, {first.args, second.args, 0}, first.bytes, second.bytes, options.early, stream);
      return;
    }
  }
  for (const TensorType type : types) {
    launch_parts(kernel_for(type, x.form() == ActForm::q15, for_tokens),
                 gather(parts, type, x, tokens.begin, tokens.size(), options).args, options.early, stream);
  }
}

/// A shard without columns: the sums are empty.
void clear(std::span<const GemvOperand> parts, Range tokens, cudaStream_t stream) {
  for (const GemvOperand& part : parts) {
    require(part.bias == nullptr, "gemv: a bias on a shard without columns");
    if (part.out == nullptr || part.weight->n_rows() == 0) continue;
    check(cudaMemset2DAsync(part.out + tokens.begin * part.out_stride,
                            static_cast<size_t>(part.out_stride) * sizeof(float), 0,
                            static_cast<size_t>(part.weight->n_rows()) * sizeof(float),
                            static_cast<size_t>(tokens.size()), stream));
  }
}

}  // namespace

ActForm activation_form(TensorType type, bool wide) {
  if (type_info(type).block_elements == 1) return ActForm::f32;
  return wide ? ActForm::q15 : ActForm::q8;
}

bool writes_records(TensorType type, int64_t n_rows, const CudaActivations& out) {
  return type_info(type).block_elements != 1 && n_rows % kRecordRows == 0 &&
         out.cols().begin % kRecordRows == 0 && out.cols().size() == n_rows &&
         (out.form() == ActForm::q8 || out.form() == ActForm::q15);
}

void gemv(std::span<const GemvOperand> parts, const CudaActivations& x, int64_t n_tokens,
          const GemvOptions& options, cudaStream_t stream) {
  const Epilogue epilogue = options.epilogue;
  const Range tokens{options.first_token, options.first_token + n_tokens};
  require(!parts.empty() && parts.size() <= kMaxGemvParts, "gemv: parts", parts.size());
  require(n_tokens >= 0 && tokens.begin >= 0 && tokens.end <= x.max_tokens(), "gemv: tokens", tokens.begin,
          tokens.end, x.max_tokens());
  require(options.records == nullptr ||
              (epilogue != Epilogue::none && !options.accumulate && !x.cols().empty() &&
               writes_records(parts[0].weight->type(), parts[0].weight->n_rows(), *options.records) &&
               tokens.end <= options.records->max_tokens()),
          "gemv: what can't be written as records");
  require(options.peers.n_ranks == 0 || (parts.size() == 1 && !options.accumulate && !x.cols().empty()),
          "gemv: what goes to peers is one part, whole");
  for (const GemvOperand& part : parts) {
    const CudaMatrix& weight = *part.weight;
    require(weight.cols() == x.cols(), "gemv: columns", weight.cols().begin, weight.cols().end,
            x.cols().begin, x.cols().end);
    require(activation_form(weight.type(), x.form() == ActForm::q15) == x.form(),
            "gemv: form of the activations", type_info(weight.type()).name);
    require(epilogue == Epilogue::none ||
                (parts.size() == 2 && part.bias == nullptr && weight.type() == parts[0].weight->type() &&
                 weight.n_rows() == parts[0].weight->n_rows()),
            "gemv: an epilogue wants gate and up alike");
  }
  if (n_tokens == 0) return;
  if (x.cols().empty()) {
    if (!options.accumulate) clear(epilogue == Epilogue::none ? parts : parts.first(1), tokens, stream);
    return;
  }
  const int64_t most = n_tokens > 2 || options.fixed ? most_tokens(parts, x, options) : n_tokens;
  for (int64_t token = tokens.begin; token < tokens.end; token += most) {
    const Range range{token, std::min(token + most, tokens.end)};
    launch_tokens(parts, x, range, options.fixed ? most : range.size(), options, stream);
  }
}

}  // namespace tandem::cuda
