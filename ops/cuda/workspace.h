// What the CUDA backend takes of a device's memory: plain arithmetic, compiled in every build. Called by the
// backend before anything is allocated, and by runtime/model/memory_plan, which needs no device.
#pragma once

#include <string>

#include "ops/cuda/attention_scratch.h"
#include "ops/cuda/kv_layout.h"
#include "ops/verbs.h"

namespace tandem::cuda {

CudaKvType cache_type_of(CacheType type);
AttentionShape attention_shape(const BackendShape& shape);

/// Bytes of a matrix's tiles (tile_layout.h): `n_rows` local rows, the columns `cols` of the stored matrix.
size_t matrix_bytes_of(TensorType type, int64_t n_rows, Range cols);

/// Bytes of the cache that allocate() makes.
size_t cache_bytes_of(const BackendShape& shape);

/// Weights that are multiplied with one input, at most: what Products unpacks at once.
int64_t most_product_elements(const BackendShape& shape);

/// Bytes of what allocate() and the first steps take beside weights and cache: rows of floats, their forms,
/// attention's scratch.
size_t workspace_bytes_of(const BackendShape& shape, int n_multiprocessors);

/// Bytes of what steps need beside that: their variables on the device (step_buffer.h; `n_pairs`: rotated
/// pairs of a head, of each of `n_ropes` rotations), and the head's rows for max(1, shape.max_outputs)
/// outputs.
size_t step_bytes_of(const BackendShape& shape, int64_t n_pairs, int64_t n_ropes);

/// Why weights, cache and workspace don't fit into `usable` bytes, with each one's size and the largest cache
/// that would fit; empty where they do.
std::string fit_fault_of(size_t weight_bytes, const BackendShape& shape, int n_multiprocessors,
                         size_t usable);

}  // namespace tandem::cuda
