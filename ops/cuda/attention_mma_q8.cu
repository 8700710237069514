#include "ops/cuda/attention_mma_kernel.cuh"

namespace tandem::cuda {

AttentionKernel mma_attention_q8(int32_t head_dim, int max_group) {
  return mma_kernel_for<CudaKvType::q8_0>(head_dim, max_group);
}

}  // namespace tandem::cuda
