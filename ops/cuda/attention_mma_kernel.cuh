// The kernel around attention_mma_core.cuh, and which there are. A translation unit for each type of cache.
#pragma once

#include "ops/cuda/attention_kernels.h"
#include "ops/cuda/attention_mma_core.cuh"

namespace tandem::cuda {

template <int kDim, int kHeadTiles, CudaKvType kType>
__global__ __launch_bounds__(device::MmaShape<kDim, kHeadTiles, kType>::kThreads,
                             1) void mma_attention_kernel(const __grid_constant__ AttentionArgs args) {
#if __CUDA_ARCH__ >= 800
  using Shape = device::MmaShape<kDim, kHeadTiles, kType>;
  extern __shared__ float4 memory[];
  auto& shared = *reinterpret_cast<typename Shape::Shared*>(memory);
  const device::BlockPlace block(args);
  device::TokenPlace place;
  device::let_next_start();
  if (!args.appends) device::wait_for_inputs();
  place.find(args, block.token);
  if (block.slot >= place.n_pieces) return;  // others of the grid wait, so the next kernel's inputs are safe
  const bool appends = args.appends && block.slot == place.last_slot(args.n_slots);
  const int64_t page = appends ? place.pages[place.position / kPageTokens] : 0;
  device::MmaCore<Shape> core(args, block, place, shared);
  device::Finisher<Shape::kThreads, kHeadTiles, Shape::kVectors, kDim> finisher(args, block, place);
  int n_done = 0;
  for (int piece = block.slot; piece < place.n_pieces; piece += args.n_slots) {
    core.start(piece);
    if (n_done == 0) {
      device::WarpRotation<Shape::kRegs> rotation;
      if (args.appends) {
        rotation.load(args, block.token, core.lane);
        device::wait_for_inputs();
      }
      core.prepare(rotation, appends, page);
    }
    core.run(finisher);
    finisher.take(piece, core.sums, shared.max, shared.sum);
    __syncthreads();
    ++n_done;
  }
  finisher.finish(n_done, &shared.last);
#endif
}

template <int kDim, CudaKvType kType>
AttentionKernel mma_kernel_of(int max_group) {
  using One = device::MmaShape<kDim, 1, kType>;
  using Two = device::MmaShape<kDim <= 128 ? kDim : 128, 2, kType>;
  if (max_group <= 8)
    return {reinterpret_cast<const void*>(mma_attention_kernel<kDim, 1, kType>), One::kThreads,
            sizeof(typename One::Shared)};
  return {reinterpret_cast<const void*>(mma_attention_kernel<Two::kDim, 2, kType>), Two::kThreads,
          sizeof(typename Two::Shared)};
}

template <CudaKvType kType>
AttentionKernel mma_kernel_for(int32_t head_dim, int max_group) {
  switch (head_dim) {
    case 64:
      return mma_kernel_of<64, kType>(max_group);
    case 80:
      return mma_kernel_of<80, kType>(max_group);
    case 96:
      return mma_kernel_of<96, kType>(max_group);
    case 128:
      return mma_kernel_of<128, kType>(max_group);
    case 256:
      if (max_group > 8) return {};  // more sums than registers
      return mma_kernel_of<256, kType>(max_group);
    default:
      return {};
  }
}

}  // namespace tandem::cuda
