// What the CUDA backend takes of a device's memory, computed before anything is allocated. Called by the
// backend.
#pragma once

#include <string>

#include "ops/cuda/attention.h"
#include "ops/verbs.h"

namespace tandem::cuda {

CudaKvType cache_type_of(CacheType type);
AttentionShape attention_shape(const BackendShape& shape);

/// Weights that are multiplied with one input, at most: what Products unpacks at once.
int64_t most_product_elements(const BackendShape& shape);

/// Bytes of what allocate() and the first steps take beside weights and cache: rows of floats, their forms,
/// attention's scratch.
size_t workspace_bytes_of(const BackendShape& shape, int n_multiprocessors);

/// Why weights, cache and workspace don't fit into `usable` bytes, with each one's size and the largest cache
/// that would fit; empty where they do.
std::string fit_fault_of(size_t weight_bytes, const BackendShape& shape, int n_multiprocessors,
                         size_t usable);

}  // namespace tandem::cuda
