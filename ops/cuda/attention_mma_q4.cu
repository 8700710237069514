#include "ops/cuda/attention_mma_kernel.cuh"

namespace tandem::cuda {

AttentionKernel mma_attention_q4(int32_t head_dim, int max_group) {
  return mma_kernel_for<CudaKvType::q4_0>(head_dim, max_group);
}

}  // namespace tandem::cuda
