#include "ops/cuda/prompt_attention_kernel.cuh"

namespace tandem::cuda {

PromptKernel prompt_attention_q4(int32_t head_dim, int64_t shared_bytes) {
  return prompt_kernel_for<CudaKvType::q4_0>(head_dim, shared_bytes);
}

}  // namespace tandem::cuda
