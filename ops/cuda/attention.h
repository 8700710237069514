// Attention of a step's tokens on the GPU: norm of query and key heads, rotation and append to the paged
// cache, then softmax(scale · q·K) · V with grouped-query heads and an optional sliding window, written in
// the form that the output projection reads. Called by the backend, once or twice a layer.
//
// Two roads: kernels that take a token at a time (attention_mma_core.cuh, attention_plain.cu), and one that
// takes many query rows at once (prompt_attention_kernel.cuh, and prompt_attention_volta_core.cuh), where the
// cache, the head size and the device allow it. The step's parts say which is whose: a step goes both roads
// where it has both kinds.
//
// Every launch reads the step's tokens from the StepView on the device, so a captured graph of one-token
// sequences can be replayed while positions, pages and lengths change. The bits of an output row depend on
// the road, its query, its position, the window and the cached rows that it sees, on the AttentionScratch's
// sizes, and, unless it has fixed cuts, on the number of the launch's tokens, by which the positions are cut.
// They never depend on what the other tokens are, or on the page ids.
#pragma once

#include "ops/cuda/attention_args.h"
#include "ops/cuda/attention_scratch.h"

namespace tandem::cuda {

/// Memory that attend() reuses from launch to launch, and how it cuts a token's positions. One a rank; its
/// launches must be in one stream.
class AttentionScratch {
 public:
  /// For the current device. At most 128 query heads, groups of at most 16, head_dim a multiple of 4 up to
  /// 256.
  explicit AttentionScratch(const AttentionShape& shape);

  size_t bytes() const { return memory_.bytes(); }
  const HeadGroups& groups() const { return groups_; }
  int max_group() const { return max_group_; }
  int32_t head_dim() const { return head_dim_; }
  int64_t max_tokens() const { return max_tokens_; }
  int n_multiprocessors() const { return n_multiprocessors_; }
  int shared_bytes() const { return shared_bytes_; }
  bool fixed_cuts() const { return fixed_cuts_; }
  /// Partial results of a head that there is memory for.
  int64_t max_partials() const { return max_partials_; }

  /// Fills in what the kernels take from here for n_tokens tokens.
  void bind(AttentionArgs& args, int64_t n_tokens) const;

 private:
  int32_t slots_for(int64_t n_units) const;

  HeadGroups groups_;
  int max_group_ = 0;
  int32_t head_dim_ = 0;
  int64_t max_tokens_ = 0;
  int max_pieces_ = 1;
  int n_multiprocessors_ = 0;
  int shared_bytes_ = 0;
  bool fixed_cuts_ = false;
  int64_t max_partials_ = 0;
  int64_t partial_sums_ = 0;  ///< where the parts of the memory begin; partial results are its first
  int64_t tickets_ = 0;
  int64_t rows_ = 0;
  DeviceBuffer<std::byte> memory_;
};

/// Some tokens of one sequence in a step, one behind another.
struct AttentionPart {
  int32_t n_tokens = 0;
  int32_t first_position = 0;
  bool together = false;  ///< by the road of many query rows, where there is one; else each by itself
};

/// One layer's attention.
struct Attention {
  StepView step;
  KvView cache;
  float* q = nullptr;        // (n_tokens, q_stride): (n_heads, head_dim); changed by rope_append()
  const float* k = nullptr;  // (n_tokens, k_stride): (n_kv_heads, head_dim)
  const float* v = nullptr;  // (n_tokens, v_stride): (n_kv_heads, head_dim)
  int64_t q_stride = 0;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  const float* q_norm = nullptr;  ///< (head_dim): each head is normed before its rotation; or null
  const float* k_norm = nullptr;
  float norm_eps = 0;
  int rope = 0;  ///< which of the step's tables
  RopeStyle style = RopeStyle::adjacent;
  bool mixes = false;              ///< the cache keeps heads mixed (ops/core/head_mix.h)
  float scale = 1.0F;              ///< of q·k
  int64_t window = 0;              ///< w > 0: position p sees max(0, p - w + 1) … p; 0: all of 0 … p
  uint32_t* not_finite = nullptr;  ///< set to 1 where a value is not finite in its type; or null
  const AttentionScratch* scratch = nullptr;
  CudaActivations* out = nullptr;  ///< columns: this rank's heads × head_dim of the output projection's
  /// Or floats instead of `out`, where not null; may be q where q_stride is n_heads · head_dim.
  float* rows = nullptr;                 // (n_tokens, n_heads * head_dim)
  std::span<const AttentionPart> parts;  ///< all of the step's tokens, in order; none: a token at a time
};

/// Norms and rotates q in place and k, and appends k and v to the cache, for n_tokens tokens of the step.
/// `early`: see gemv.h.
void rope_append(const Attention& what, int64_t n_tokens, bool early, cudaStream_t stream);

/// The tokens' output rows; their keys and values, and those of every position before them, are in the cache.
/// Where a part goes together, q may be changed.
void attend(const Attention& what, int64_t n_tokens, bool early, cudaStream_t stream);

/// rope_append() and attend() in one launch, for steps in which no two tokens are of one sequence. q stays
/// as it is, unless the output is in form f16.
void append_attend(const Attention& what, int64_t n_tokens, bool early, cudaStream_t stream);

}  // namespace tandem::cuda
