#include "ops/cuda/batch.h"

#include <algorithm>
#include <array>

#include "ops/cuda/batch_args.h"
#include "ops/cuda/format_kernels.h"
#include "ops/cuda/launch.h"
#include "ops/quant/formats.h"

namespace tandem::cuda {
namespace {

constexpr int kMostTiles = 16;         ///< of a block (batch_kernel.cuh; warpgroup_kernel.cuh: 32, twice)
constexpr int kMostBlocks = 4;         ///< a multiprocessor (warpgroup_kernel.cuh: one)
constexpr int64_t kLeastSegments = 4;  ///< that a block works on, where there are so many

FormatKernels kernels_of(TensorType type) {
  FormatKernels kernels;
  with_format(type, [&]<class F>(F) { kernels = format_kernels<F>(); });
  return kernels;
}

bool has_warpgroups(const FormatKernels& kernels) {
  return kernels.warpgroup.function != nullptr && is_code_of_hopper_only(kernels.warpgroup.function);
}

/// For so many tokens. Warpgroups only for the most: their blocks fill a multiprocessor and so can't begin
/// before the kernel before them has ended, which costs fewer tokens more than they gain (16 of 70B on two
/// H200: 182 us a layer for 153).
const BatchKernel& kernel_for(const FormatKernels& kernels, int64_t n_tokens, const GemvOptions& options) {
  int i = kBatchKernels - 1;
  while (!options.fixed && i > 0 && n_tokens <= kernels.batch[i - 1].tokens) --i;
  require(n_tokens <= kernels.batch[i].tokens, "batch: tokens", n_tokens);
  const bool by_warpgroups = i == kBatchKernels - 1 && !options.by_warps && has_warpgroups(kernels);
  return by_warpgroups ? kernels.warpgroup : kernels.batch[i];
}

void launch_type(TensorType type, std::span<const GemvOperand> parts, const CudaActivations& x,
                 int64_t n_tokens, const GemvOptions& options, const BatchScratch& scratch,
                 cudaStream_t stream) {
  const FormatKernels kernels = kernels_of(type);
  const BatchKernel& kernel = kernel_for(kernels, n_tokens, options);
  const bool pair = options.epilogue != Epilogue::none;
  const int64_t token = options.first_token;
  BatchArgs args;
  args.x = x.data() + token * x.token_bytes();
  args.x_stride = x.token_bytes();
  args.n_tokens = static_cast<int32_t>(n_tokens);
  args.n_segments = static_cast<int32_t>(segments_of(x.cols()).size());
  args.epilogue = options.epilogue;
  args.power = 1.0F / half_weight_power(type);
  for (const GemvOperand& part : parts) {
    const CudaMatrix& weight = *part.weight;
    if (weight.type() != type || weight.n_rows() == 0) continue;
    BatchPart& to = args.parts[args.n_parts++];
    to.tiles = weight.tiles();
    to.bias = part.bias;
    to.out = part.out == nullptr ? nullptr : part.out + token * part.out_stride;
    to.out_stride = part.out_stride;
    to.n_rows = static_cast<int32_t>(weight.n_rows());
    to.n_tiles = static_cast<int32_t>(ceil_div(weight.n_rows(), kTileRows));
    to.n_groups = static_cast<int32_t>(ceil_div(to.n_tiles, pair ? kernel.tiles / 2 : kernel.tiles));
    if (!pair || args.n_parts == 1) args.n_groups += to.n_groups;
  }
  // As many blocks as run at once share the work, where a block keeps enough of it; no more, because those
  // that share wait for each other.
  const int64_t slots = int64_t{scratch.n_multiprocessors()} * kernel.blocks;
  args.partials = scratch.partials();
  args.tickets = scratch.tickets();
  LaunchShape shape{args.n_groups, kernel.threads, kernel.shared_bytes, options.early};
  if (kernel.in_runs) {
    const int64_t n_units = int64_t{args.n_groups} * args.n_segments;
    shape.n_blocks = std::clamp<int64_t>(n_units / kLeastSegments, 1, slots);
  } else {
    const int64_t most = std::max<int64_t>(1, args.n_segments / kLeastSegments);
    args.n_splits = static_cast<int32_t>(std::clamp<int64_t>(slots / args.n_groups, 1, most));
    shape.n_rows = args.n_splits;
  }
  launch(kernel.function, shape, &args, stream);
}

}  // namespace

BatchCode batch_code(TensorType type) {
  const FormatKernels kernels = kernels_of(type);
  const void* function = kernels.batch[0].function;
  if (function == nullptr || code_version(function) < 80) return BatchCode::none;
  return has_warpgroups(kernels) ? BatchCode::warpgroups : BatchCode::warps;
}

size_t BatchScratch::bytes_on(int n_multiprocessors) {
  // A block's sums for kMaxBatchTokens, of as many blocks as run at once, and two tickets each.
  return static_cast<size_t>(n_multiprocessors) * kMostBlocks *
         (kMostTiles * kTileRows * kMaxBatchTokens * sizeof(float) + 2 * sizeof(uint32_t));
}

BatchScratch::BatchScratch() {
  int device = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&n_multiprocessors_, cudaDevAttrMultiProcessorCount, device));
  const auto n_blocks = static_cast<size_t>(n_multiprocessors_) * kMostBlocks;
  partials_ = DeviceBuffer<float>(n_blocks * kMostTiles * kTileRows * kMaxBatchTokens);
  tickets_ = DeviceBuffer<uint32_t>(2 * n_blocks);
  check(cudaMemset(tickets_.data(), 0, tickets_.bytes()));
  check(cudaStreamSynchronize(nullptr));  // streams of ours don't wait for it
}

void batch_product(std::span<const GemvOperand> parts, const CudaActivations& x, int64_t n_tokens,
                   const GemvOptions& options, const BatchScratch& scratch, cudaStream_t stream) {
  require(!parts.empty() && parts.size() <= kMaxGemvParts, "batch: parts", parts.size());
  require(n_tokens >= 0 && n_tokens <= kMaxBatchTokens && options.first_token + n_tokens <= x.max_tokens(),
          "batch: tokens", n_tokens, options.first_token, x.max_tokens());
  require(x.form() == ActForm::f16, "batch: form of the activations", static_cast<int>(x.form()));
  require(options.expert == nullptr && options.factor == nullptr && !options.accumulate &&
              options.peers.n_ranks == 0,
          "batch: options that are not for it");
  const TensorType first = parts[0].weight->type();
  if (options.epilogue != Epilogue::none) {
    require(parts.size() == 2 && parts[1].weight->type() == first &&
                parts[0].weight->n_rows() == parts[1].weight->n_rows(),
            "batch: gate and up of different shapes");
  }
  std::array<TensorType, kMaxGemvParts> done{};
  size_t n_done = 0;
  for (const GemvOperand& part : parts) {
    const TensorType type = part.weight->type();
    require(part.weight->cols() == x.cols(), "batch: columns", part.weight->n_cols());
    if (n_tokens == 0 || part.weight->n_rows() == 0) continue;
    if (std::find(done.begin(), done.begin() + n_done, type) != done.begin() + n_done) continue;
    done[n_done++] = type;
    launch_type(type, parts, x, n_tokens, options, scratch, stream);
  }
}

}  // namespace tandem::cuda
