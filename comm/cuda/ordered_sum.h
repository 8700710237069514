// Sums of gathered parts in rank order. Called by comm/cuda/nccl_collective.cpp.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace tandem::cuda {

/// sum[i] = 0 + parts[0][i] + parts[1][i] + …, as the norm kernel adds its peers' rows. In order with
/// `stream`; may be recorded in a graph.
void add_parts(float* sum, const float* parts, int n_ranks, int64_t n, cudaStream_t stream);
//             (n)         (n_ranks, n)

}  // namespace tandem::cuda
