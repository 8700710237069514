#include "ops/cuda/attention.h"

#include <algorithm>
#include <cmath>

#include "ops/cuda/attention_kernels.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/tile_layout.h"

namespace tandem::cuda {
namespace {

HeadGroups groups_of(const AttentionShape& shape) {
  const auto n_heads = static_cast<int32_t>(shape.kv_of_head.size());
  require(n_heads <= kMaxHeads && shape.n_kv_heads >= 0 && shape.n_kv_heads <= kMaxHeads, "attention: heads",
          n_heads, shape.n_kv_heads);
  HeadGroups groups;
  groups.n_heads = n_heads;
  groups.n_kv_heads = shape.n_kv_heads;
  for (int32_t kv = 0, head = 0; kv < shape.n_kv_heads; ++kv) {
    while (head < n_heads && shape.kv_of_head[static_cast<size_t>(head)] == kv) ++head;
    groups.begin[kv + 1] = static_cast<uint8_t>(head);
    require(groups.begin[kv + 1] - groups.begin[kv] <= kMaxGroup, "attention: query heads of a KV head",
            groups.begin[kv + 1] - groups.begin[kv]);
  }
  require(groups.begin[shape.n_kv_heads] == n_heads, "attention: KV heads of query heads aren't ascending");
  return groups;
}

/// Code of an older architecture, also when translated for a newer GPU, has no tensor core instructions.
bool compiled_for_ampere(const void* kernel) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel));
  return attributes.ptxVersion >= 80;
}

AttentionKernel kernel_for(CudaKvType type, int32_t head_dim, int max_group) {
  const AttentionKernel fast = mma_attention(type, head_dim, max_group);
  return fast.function != nullptr && compiled_for_ampere(fast.function) ? fast
                                                                        : plain_attention(type, head_dim);
}

}  // namespace

AttentionScratch::AttentionScratch(const AttentionShape& shape)
    : groups_(groups_of(shape)), head_dim_(shape.head_dim), max_tokens_(shape.max_tokens) {
  require(groups_.n_kv_heads == 0 || (head_dim_ > 0 && head_dim_ % 4 == 0 && head_dim_ <= kMaxHeadDim),
          "attention: head size", head_dim_);
  for (int32_t kv = 0; kv < groups_.n_kv_heads; ++kv)
    max_group_ = std::max(max_group_, groups_.begin[kv + 1] - groups_.begin[kv]);
  int device = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&n_multiprocessors_, cudaDevAttrMultiProcessorCount, device));
  const ScratchLayout layout(shape, n_multiprocessors_);
  max_pieces_ = layout.max_pieces;
  partial_sums_ = layout.partial_sums;
  tickets_ = layout.tickets;
  rows_ = layout.rows;
  memory_ = DeviceBuffer<std::byte>(static_cast<size_t>(layout.end));
  if (memory_.size() == 0) return;
  check(cudaMemset(memory_.data(), 0, memory_.bytes()));
  check(cudaStreamSynchronize(nullptr));  // streams of ours don't wait for it
}

void AttentionScratch::bind(AttentionArgs& args, int64_t n_tokens) const {
  args.groups = groups_;
  args.max_pieces = max_pieces_;
  args.n_slots = 1;
  if (n_tokens <= kSplitTokens) {
    // one token's pieces are a wave of blocks; of several, two waves are enough
    const int64_t n_units = n_tokens * groups_.n_kv_heads;
    args.n_slots =
        static_cast<int32_t>(std::min<int64_t>(max_pieces_, ceil_div(2 * n_multiprocessors_, n_units)));
  }
  std::byte* memory = memory_.data();
  args.partials = reinterpret_cast<float*>(memory);
  args.partial_sums = reinterpret_cast<float2*>(memory + partial_sums_);
  args.tickets = reinterpret_cast<uint32_t*>(memory + tickets_);
  args.rows = reinterpret_cast<float*>(memory + rows_);
}

namespace {

AttentionArgs args_of(const Attention& what, int64_t n_tokens) {
  const AttentionScratch& scratch = *what.scratch;
  require(n_tokens >= 0 && n_tokens <= scratch.max_tokens(), "attention: tokens", n_tokens,
          scratch.max_tokens());
  require(what.cache.n_kv_heads == scratch.groups().n_kv_heads &&
              (what.cache.n_kv_heads == 0 || what.cache.head_dim == scratch.head_dim()),
          "attention: the cache's shape", what.cache.n_kv_heads, what.cache.head_dim);
  require(n_tokens <= 65535, "attention: tokens of a launch", n_tokens);
  require(what.rope >= 0 && what.rope < kMaxRopes, "attention: rope table", what.rope);
  const int32_t n_rot = what.step.n_rot[what.rope];
  require(n_rot >= 0 && n_rot % 2 == 0 && n_rot <= what.cache.head_dim, "attention: rotated elements", n_rot);
  AttentionArgs args;
  args.step = what.step;
  args.cache = what.cache;
  args.q = what.q;
  args.k = what.k;
  args.v = what.v;
  args.q_stride = what.q_stride;
  args.k_stride = what.k_stride;
  args.v_stride = what.v_stride;
  args.q_norm = what.q_norm;
  args.k_norm = what.k_norm;
  args.norm_eps = what.norm_eps;
  args.rope = what.rope;
  args.style = what.style;
  args.scale_log2 = what.scale * 1.44269504088896340736F;
  args.window = static_cast<int32_t>(std::min<int64_t>(what.window, INT32_MAX));
  args.not_finite = what.not_finite;
  args.n_tokens = n_tokens;
  return args;
}

void launch_attention(const Attention& what, int64_t n_tokens, bool appends, bool early,
                      cudaStream_t stream) {
  AttentionArgs args = args_of(what, n_tokens);
  if (n_tokens == 0 || args.cache.n_kv_heads == 0) return;
  const AttentionScratch& scratch = *what.scratch;
  scratch.bind(args, n_tokens);
  args.appends = appends;
  CudaActivations& out = *what.out;
  const int64_t n_cols = int64_t{args.groups.n_heads} * args.cache.head_dim;
  require(out.cols().size() == n_cols && out.max_tokens() >= n_tokens, "attention: shape of the output",
          out.cols().size(), n_cols, out.max_tokens());
  const bool whole_groups = args.cache.head_dim % 32 == 0;
  if (whole_groups) {
    require(out.cols().begin % 32 == 0, "attention: first column of the output", out.cols().begin);
    args.out = out.data();
    args.out_token_bytes = out.token_bytes();
    args.out_lead = static_cast<int32_t>(out.cols().begin % kSegmentCols);
    args.form = out.form();
  }
  const AttentionKernel kernel = kernel_for(args.cache.type, args.cache.head_dim, scratch.max_group());
  LaunchShape shape{args.n_slots, kernel.threads, kernel.shared_bytes, early};
  shape.n_rows = args.cache.n_kv_heads;
  shape.n_planes = n_tokens;
  launch(kernel.function, shape, &args, stream);
  if (!whole_groups) out.fill(args.rows, n_cols, n_tokens, what.not_finite, stream);
}

}  // namespace

void rope_append(const Attention& what, int64_t n_tokens, bool early, cudaStream_t stream) {
  AttentionArgs args = args_of(what, n_tokens);
  if (n_tokens == 0 || args.cache.n_kv_heads == 0) return;
  args.groups = what.scratch->groups();
  args.appends = true;
  const int64_t n_rows = n_tokens * (args.groups.n_heads + 2 * args.groups.n_kv_heads);
  launch(append_kernel(), {ceil_div(n_rows, kAppendThreads / 32), kAppendThreads, 0, early}, &args, stream);
}

void attend(const Attention& what, int64_t n_tokens, bool early, cudaStream_t stream) {
  launch_attention(what, n_tokens, false, early, stream);
}

void append_attend(const Attention& what, int64_t n_tokens, bool early, cudaStream_t stream) {
  launch_attention(what, n_tokens, true, early, stream);
}

}  // namespace tandem::cuda
