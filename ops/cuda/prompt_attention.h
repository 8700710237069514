// Attention of prompts: the kernels by tensor cores that take many query rows of a sequence at once, and what
// is handed to them. Called by attention.cpp, which chooses between them and the kernels that take a token
// at a time (attention_kernels.h).
#pragma once

#include "ops/cuda/attention_args.h"

namespace tandem::cuda {

inline constexpr int kMaxPromptParts = 64;  ///< sequences of a launch

/// Neighbouring tokens of one sequence. Its query rows (token, head of the group), a KV head's, are cut into
/// tiles; its tiles end before `end_tile` of the launch's and begin where the part before it ends.
struct PromptPart {
  int32_t first_token = 0;  ///< of the step's
  int32_t n_tokens = 0;
  int32_t end_tile = 0;
};

struct PromptArgs {
  AttentionArgs attention;  ///< writes to `rows`
  int32_t n_parts = 0;
  int32_t n_tiles = 0;
  int32_t n_splits = 1;  ///< blocks a tile's positions are shared by; more than one: results are partial
  PromptPart parts[kMaxPromptParts] = {};
};

struct PromptKernel {
  const void* function = nullptr;  ///< takes PromptArgs; grid (n_tiles · KV heads, n_splits)
  int threads = 0;
  int64_t shared_bytes = 0;
  int tile_rows = 0;
  int blocks_a_multiprocessor = 1;
};

/// No function where there is none for the head size or so much shared memory. On Ampere and later only.
PromptKernel prompt_attention_f16(int32_t head_dim, int64_t shared_bytes);
PromptKernel prompt_attention_q8(int32_t head_dim, int64_t shared_bytes);
PromptKernel prompt_attention_q4(int32_t head_dim, int64_t shared_bytes);
/// For code that is compiled for less than Ampere; does nothing in any other.
PromptKernel prompt_attention_volta(CudaKvType type, int32_t head_dim);

/// Merges the partial results of n_splits blocks: takes PromptArgs, a warp a row; grid (rows, parts).
inline constexpr int kMergeThreads = 256;
const void* prompt_merge_kernel();

}  // namespace tandem::cuda
