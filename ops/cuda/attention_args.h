// What an attention launch hands to its kernels: plain pointers and sizes, one struct. Filled by
// attention.cpp only.
#pragma once

#include "ops/cuda/activations.h"
#include "ops/cuda/kv_cache.h"
#include "ops/cuda/step.h"
#include "ops/variants.h"

namespace tandem::cuda {

inline constexpr int kMaxHeads = 128;    ///< query heads of a rank
inline constexpr int kMaxGroup = 16;     ///< query heads that share a KV head
inline constexpr int kMaxHeadDim = 256;  ///< a multiple of 4

/// Query heads [begin[i], begin[i + 1]) read KV head i.
struct HeadGroups {
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  uint8_t begin[kMaxHeads + 1] = {};
};

struct AttentionArgs {
  StepView step;
  KvView cache;
  HeadGroups groups;
  float* q = nullptr;        // (tokens of the step, q_stride): (n_heads, head_dim)
  const float* k = nullptr;  // (tokens of the step, k_stride): (n_kv_heads, head_dim)
  const float* v = nullptr;  // (tokens of the step, v_stride): (n_kv_heads, head_dim)
  int64_t q_stride = 0;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  const float* q_norm = nullptr;  // (head_dim) or null
  const float* k_norm = nullptr;  // (head_dim) or null
  float norm_eps = 0;
  int32_t rope = 0;
  RopeStyle style = RopeStyle::adjacent;
  int32_t mix_width = 1;  ///< ops/core/head_mix.h; 1: nothing is mixed
  float cached_mix = 1;
  float read_mix = 1;
  bool appends = false;            ///< attention itself norms and rotates q and k, and appends k and v
  float scale_log2 = 0;            ///< of q·k, times log2(e)
  int32_t window = 0;              ///< 0: none
  uint32_t* not_finite = nullptr;  ///< or null
  int64_t first_token = 0;         ///< of this launch, of the step's
  int64_t n_tokens = 0;            ///< of this launch
  int32_t max_pieces = 1;          ///< a token's positions are cut into no more
  int32_t n_slots = 1;             ///< blocks a (token, KV head); block i does the pieces i, i + n_slots, …
  float* partials = nullptr;       // (n_tokens, n_heads, max_pieces, head_dim), where n_slots > 1
  float2* partial_sums = nullptr;  // (n_tokens, n_heads, max_pieces): maximum, sum
  uint32_t* tickets = nullptr;     // (n_tokens, n_kv_heads), zeros between launches
  std::byte* out = nullptr;        // (tokens, out_token_bytes) records; or null: floats to `rows`
  int64_t out_token_bytes = 0;
  int32_t out_lead = 0;  ///< columns of the first segment before the first head's
  ActForm form = ActForm::f32;
  float* rows = nullptr;  // (tokens, n_heads * head_dim)
};

}  // namespace tandem::cuda
