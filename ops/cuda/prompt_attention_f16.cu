#include "ops/cuda/prompt_attention_kernel.cuh"

namespace tandem::cuda {

PromptKernel prompt_attention_f16(int32_t head_dim, int64_t shared_bytes) {
  return prompt_kernel_for<CudaKvType::f16>(head_dim, shared_bytes);
}

}  // namespace tandem::cuda
