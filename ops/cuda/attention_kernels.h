// Which kernels attention.cpp launches. One table entry a kernel; how each works stands with it.
#pragma once

#include "ops/cuda/attention_args.h"

namespace tandem::cuda {

struct AttentionKernel {
  const void* function = nullptr;  ///< takes AttentionArgs; a block a (token, KV head, slot)
  int threads = 0;
  int64_t shared_bytes = 0;
};

/// Any head size, cache type and device (attention_plain.cu).
AttentionKernel plain_attention(CudaKvType type, int32_t head_dim);

/// By tensor cores, for the usual head sizes on Ampere and later (attention_mma_core.cuh); no function where
/// there is none. max_group: of query heads that share a KV head.
AttentionKernel mma_attention_f16(int32_t head_dim, int max_group);
AttentionKernel mma_attention_q8(int32_t head_dim, int max_group);
AttentionKernel mma_attention_q4(int32_t head_dim, int max_group);

/// Norm, rotation and append alone (attention_append.cu): a warp a row of q, k or v.
inline constexpr int kAppendThreads = 256;
const void* append_kernel();

}  // namespace tandem::cuda
