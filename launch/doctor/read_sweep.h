// How fast a GPU reads its memory: the speed that decoding is measured against. Used by gpu_probe.cpp only.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace tandem::cuda {

/// Reads `n_bytes` (a multiple of 16) once on all multiprocessors. `sink`: one word, written only where the
/// bytes add up to a value that they never have.
void read_all(const void* data, size_t n_bytes, int n_multiprocessors, uint32_t* sink, cudaStream_t stream);

}  // namespace tandem::cuda
