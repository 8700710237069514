#include "ops/cuda/attention.h"

#include <algorithm>
#include <cmath>

#include "ops/core/head_mix.h"
#include "ops/cuda/attention_kernels.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/prompt_attention.h"
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
  AttentionKernel fast;
  if (type == CudaKvType::f16) fast = mma_attention_f16(head_dim, max_group);
  if (type == CudaKvType::q8_0) fast = mma_attention_q8(head_dim, max_group);
  if (type == CudaKvType::q4_0) fast = mma_attention_q4(head_dim, max_group);
  return fast.function != nullptr && compiled_for_ampere(fast.function) ? fast
                                                                        : plain_attention(type, head_dim);
}

}  // namespace

AttentionScratch::AttentionScratch(const AttentionShape& shape)
    : groups_(groups_of(shape)),
      head_dim_(shape.head_dim),
      max_tokens_(shape.max_tokens),
      fixed_cuts_(shape.fixed_cuts) {
  require(groups_.n_kv_heads == 0 || (head_dim_ > 0 && head_dim_ % 4 == 0 && head_dim_ <= kMaxHeadDim),
          "attention: head size", head_dim_);
  for (int32_t kv = 0; kv < groups_.n_kv_heads; ++kv)
    max_group_ = std::max(max_group_, groups_.begin[kv + 1] - groups_.begin[kv]);
  int device = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&n_multiprocessors_, cudaDevAttrMultiProcessorCount, device));
  check(cudaDeviceGetAttribute(&shared_bytes_, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  if (shape.shared_bytes > 0) shared_bytes_ = std::min(shared_bytes_, shape.shared_bytes);
  const ScratchLayout layout(shape, n_multiprocessors_);
  max_pieces_ = layout.max_pieces;
  max_partials_ = layout.max_partials;
  partial_sums_ = layout.partial_sums;
  tickets_ = layout.tickets;
  rows_ = layout.rows;
  memory_ = DeviceBuffer<std::byte>(static_cast<size_t>(layout.end));
  if (memory_.size() == 0) return;
  check(cudaMemset(memory_.data(), 0, memory_.bytes()));
  check(cudaStreamSynchronize(nullptr));  // streams of ours don't wait for it
}

/// Blocks that share the pieces of each of so many (token, KV head): those that end first where contexts are
/// as long as they can be. A multiprocessor takes a block at a time, so blocks come in waves, and a block's
/// begin and end take about half as long as a long piece.
int32_t AttentionScratch::slots_for(int64_t n_units) const {
  const auto halves = [&](int64_t n_slots) {
    return ceil_div(n_units * n_slots, n_multiprocessors_) * (2 * ceil_div(max_pieces_, n_slots) + 1);
  };
  int32_t best = 1;
  for (int32_t n_slots = 2; n_slots <= max_pieces_; ++n_slots) {
    if (halves(n_slots) < halves(best)) best = n_slots;
  }
  return best;
}

void AttentionScratch::bind(AttentionArgs& args, int64_t n_tokens) const {
  args.groups = groups_;
  args.n_slots = n_tokens <= kSplitTokens ? slots_for(n_tokens * groups_.n_kv_heads) : 1;
  args.max_pieces = fixed_cuts_ ? max_pieces_ : args.n_slots;
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
  if (what.mixes) {
    args.mix_width = mix_width(what.cache.head_dim);
    args.cached_mix = cached_mix(args.mix_width);
    args.read_mix = read_mix(args.mix_width);
  }
  args.scale_log2 = what.scale * 1.44269504088896340736F;
  args.window = static_cast<int32_t>(std::min<int64_t>(what.window, INT32_MAX));
  args.not_finite = what.not_finite;
  args.n_tokens = n_tokens;
  return args;
}

/// Where the output goes: records of `out`, or floats. True where the floats still have to become records.
bool direct(const Attention& what, int64_t n_tokens, AttentionArgs& args) {
  if (what.rows != nullptr) {
    args.rows = what.rows;
    return false;
  }
  CudaActivations& out = *what.out;
  const int64_t n_cols = int64_t{args.groups.n_heads} * args.cache.head_dim;
  require(out.cols().size() == n_cols && out.max_tokens() >= n_tokens, "attention: shape of the output",
          out.cols().size(), n_cols, out.max_tokens());
  if (args.cache.head_dim % 32 != 0) return true;
  if (out.form() ==
      ActForm::f16) {  // in the queries' place, which nobody reads any more when a head is finished
    require(what.q_stride == n_cols, "attention: queries' stride", what.q_stride);
    args.rows = what.q;
    return true;
  }
  require(out.cols().begin % 32 == 0, "attention: first column of the output", out.cols().begin);
  args.out = out.data();
  args.out_token_bytes = out.token_bytes();
  args.out_lead = static_cast<int32_t>(out.cols().begin % kSegmentCols);
  args.form = out.form();
  return false;
}

/// args.n_tokens tokens, each by itself. `args` knows its output.
void launch_tokens(const AttentionArgs& args, const AttentionScratch& scratch, bool early,
                   cudaStream_t stream) {
  AttentionArgs own = args;
  const AttentionKernel kernel = kernel_for(own.cache.type, own.cache.head_dim, scratch.max_group());
  LaunchShape shape{own.n_slots, kernel.threads, kernel.shared_bytes, early};
  shape.n_rows = own.cache.n_kv_heads;
  shape.n_planes = own.n_tokens;
  launch(kernel.function, shape, &own, stream);
}

void launch_attention(const Attention& what, int64_t n_tokens, bool appends, bool early,
                      cudaStream_t stream) {
  AttentionArgs args = args_of(what, n_tokens);
  if (n_tokens == 0 || args.cache.n_kv_heads == 0) return;
  what.scratch->bind(args, n_tokens);
  args.appends = appends;
  const bool fills = direct(what, n_tokens, args);
  launch_tokens(args, *what.scratch, early, stream);
  if (fills) what.out->fill(args.rows, what.out->cols().size(), n_tokens, what.not_finite, stream);
}

// --- steps in which tokens of a sequence go together

PromptKernel prompt_kernel_for(const Attention& what) {
  if (std::none_of(what.parts.begin(), what.parts.end(), [](const auto& part) { return part.together; }))
    return {};
  const int shared_bytes = what.scratch->shared_bytes();
  const CudaKvType type = what.cache.type;
  PromptKernel kernel;
  if (!compiled_for_ampere(prompt_merge_kernel())) {
    kernel = prompt_attention_volta(type, what.cache.head_dim);
  } else if (type == CudaKvType::f16) {
    kernel = prompt_attention_f16(what.cache.head_dim, shared_bytes);
  } else if (type == CudaKvType::q8_0) {
    kernel = prompt_attention_q8(what.cache.head_dim, shared_bytes);
  } else if (type == CudaKvType::q4_0) {
    kernel = prompt_attention_q4(what.cache.head_dim, shared_bytes);
  }
  return kernel.shared_bytes <= shared_bytes ? kernel : PromptKernel{};
}

/// Pages that a part's last token sees.
int64_t pages_seen(const AttentionPart& part, int64_t window) {
  const int64_t last = int64_t{part.first_position} + part.n_tokens - 1;
  return last / kPageTokens + 1 - (window > 0 ? std::max<int64_t>(0, last - window + 1) / kPageTokens : 0);
}

/// Blocks that share a tile's positions, so that few tiles fill the device too: each has 8 pages at least.
int32_t splits_of(const PromptArgs& args, const PromptKernel& kernel, const AttentionScratch& scratch,
                  int64_t n_tokens, int64_t most_pages) {
  if (scratch.fixed_cuts()) return 1;
  const int64_t n_blocks = int64_t{args.n_tiles} * args.attention.cache.n_kv_heads;
  const int64_t room = int64_t{scratch.n_multiprocessors()} * kernel.blocks_a_multiprocessor;
  constexpr int64_t kLeastPages = 8;
  return static_cast<int32_t>(std::max<int64_t>(
      1, std::min({room / n_blocks, ceil_div(most_pages, kLeastPages), scratch.max_partials() / n_tokens})));
}

void launch_prompts(PromptArgs& args, const PromptKernel& kernel, bool early, cudaStream_t stream) {
  check(cudaFuncSetAttribute(kernel.function, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared));
  LaunchShape shape{int64_t{args.n_tiles} * args.attention.cache.n_kv_heads, kernel.threads,
                    kernel.shared_bytes, early};
  shape.n_rows = args.n_splits;
  launch(kernel.function, shape, &args, stream);
  if (args.n_splits == 1) return;
  int64_t longest = 0;
  for (int32_t i = 0; i < args.n_parts; ++i) longest = std::max<int64_t>(longest, args.parts[i].n_tokens);
  LaunchShape merge{ceil_div(longest * args.attention.groups.n_heads, kMergeThreads / 32), kMergeThreads, 0,
                    early};
  merge.n_rows = args.n_parts;
  launch(prompt_merge_kernel(), merge, &args, stream);
}

/// The parts that go together, kMaxPromptParts a launch.
void attend_prompts(const Attention& what, const AttentionArgs& all, const PromptKernel& kernel, bool early,
                    cudaStream_t stream) {
  PromptArgs args;
  args.attention = all;
  int64_t most_pages = 0;
  const auto flush = [&] {
    if (args.n_parts == 0) return;
    args.n_splits = splits_of(args, kernel, *what.scratch, all.n_tokens, most_pages);
    launch_prompts(args, kernel, early, stream);
    args.n_parts = args.n_tiles = 0;
    most_pages = 0;
  };
  int32_t token = 0;
  for (const AttentionPart& part : what.parts) {
    if (part.together && part.n_tokens > 0) {
      const int64_t n_rows = int64_t{part.n_tokens} * what.scratch->max_group();
      args.n_tiles += static_cast<int32_t>(ceil_div(n_rows, kernel.tile_rows));
      args.parts[args.n_parts++] = {token, part.n_tokens, args.n_tiles};
      most_pages = std::max(most_pages, pages_seen(part, what.window));
      if (args.n_parts == kMaxPromptParts) flush();
    }
    token += part.n_tokens;
  }
  flush();
}

/// The runs of tokens that go by themselves.
void attend_singles(const Attention& what, const AttentionArgs& all, bool early, cudaStream_t stream) {
  int64_t token = 0;
  int64_t run = 0;  // tokens before this one
  const auto flush = [&] {
    if (run == 0) return;
    AttentionArgs args = all;
    args.first_token = token - run;
    args.n_tokens = run;
    what.scratch->bind(args, run);
    args.rows = all.rows;
    launch_tokens(args, *what.scratch, early, stream);
    run = 0;
  };
  for (const AttentionPart& part : what.parts) {
    if (part.together) flush();
    token += part.n_tokens;
    if (!part.together) run += part.n_tokens;
  }
  flush();
}

/// Floats to what.rows, or in q's place and from there to records.
void attend_parts(const Attention& what, const PromptKernel& kernel, int64_t n_tokens, bool early,
                  cudaStream_t stream) {
  AttentionArgs args = args_of(what, n_tokens);
  what.scratch->bind(args, n_tokens);
  const int64_t n_cols = int64_t{args.groups.n_heads} * args.cache.head_dim;
  int64_t in_parts = 0;
  for (const AttentionPart& part : what.parts) {
    require(part.n_tokens >= 0 && part.first_position >= 0, "attention: a part", part.n_tokens,
            part.first_position);
    in_parts += part.n_tokens;
  }
  require(in_parts == n_tokens, "attention: tokens of the parts", in_parts, n_tokens);
  require(what.rows != nullptr || what.q_stride == n_cols, "attention: queries' stride", what.q_stride);
  args.rows = what.rows != nullptr ? what.rows : what.q;
  attend_singles(what, args, early, stream);
  attend_prompts(what, args, kernel, early, stream);
  if (what.rows != nullptr) return;
  CudaActivations& out = *what.out;
  require(out.cols().size() == n_cols && out.max_tokens() >= n_tokens, "attention: shape of the output",
          out.cols().size(), n_cols, out.max_tokens());
  out.fill(what.q, n_cols, n_tokens, what.not_finite, stream, early);
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
  if (n_tokens == 0 || what.cache.n_kv_heads == 0 || what.scratch->groups().n_heads == 0) return;
  if (const PromptKernel kernel = prompt_kernel_for(what); kernel.function != nullptr) {
    attend_parts(what, kernel, n_tokens, early, stream);
    return;
  }
  launch_attention(what, n_tokens, false, early, stream);
}

void append_attend(const Attention& what, int64_t n_tokens, bool early, cudaStream_t stream) {
  launch_attention(what, n_tokens, true, early, stream);
}

}  // namespace tandem::cuda
