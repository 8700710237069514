#include "ops/cuda/prompt_attention_volta_core.cuh"

namespace tandem::cuda {
namespace {

template <class Shape>
__global__ __launch_bounds__(Shape::kThreads,
                             1) void volta_prompt_kernel(const __grid_constant__ PromptArgs args) {
#if __CUDA_ARCH__ < 800
  extern __shared__ float4 memory[];
  const device::PromptPlace place(args, Shape::kRows);
  if (place.n_rows <= 0) return;
  const auto split = static_cast<int>(blockIdx.y);
  const int first = place.begin / Shape::kCols;
  const int n = (place.end + Shape::kCols - 1) / Shape::kCols - first;
  const int a_split = (n + args.n_splits - 1) / args.n_splits;
  device::VoltaCore<Shape> core(args.attention, place, reinterpret_cast<std::byte*>(memory));
  core.run(first + min(n, split * a_split), first + min(n, (split + 1) * a_split));
  core.store(split, args.n_splits);
#endif
}

template <class Shape>
PromptKernel entry() {
  return {reinterpret_cast<const void*>(volta_prompt_kernel<Shape>), Shape::kThreads, Shape::kSharedBytes,
          Shape::kRows, 1};
}

template <int kDim>
PromptKernel kernel_of(CudaKvType type) {
  if (type == CudaKvType::f16) return entry<device::VoltaShape<kDim, CudaKvType::f16>>();
  if (type == CudaKvType::q8_0) return entry<device::VoltaShape<kDim, CudaKvType::q8_0>>();
  if (type == CudaKvType::q4_0) return entry<device::VoltaShape<kDim, CudaKvType::q4_0>>();
  return {};
}

}  // namespace

PromptKernel prompt_attention_volta(CudaKvType type, int32_t head_dim) {
  switch (head_dim) {
    case 64:
      return kernel_of<64>(type);
    case 80:
      return kernel_of<80>(type);
    case 96:
      return kernel_of<96>(type);
    case 112:
      return kernel_of<112>(type);
    case 128:
      return kernel_of<128>(type);
    default:
      return {};
  }
}

}  // namespace tandem::cuda
