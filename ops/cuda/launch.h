// Launching a kernel by its address, with or without programmatic dependent launch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace tandem::cuda {

struct LaunchShape {
  int64_t n_blocks = 0;  ///< in x
  int threads = 0;
  int64_t shared_bytes = 0;
  bool early =
      false;  ///< may begin before the kernel before it in the stream has ended; the kernel must wait itself
  int cluster = 1;       ///< blocks of a cluster; more than one where is_hopper_code() says so only
  int64_t n_rows = 1;    ///< of blocks, in y
  int64_t n_planes = 1;  ///< in z
};

/// The architecture that the kernel's code was made for (90 for 9.0), also where the driver translates it for
/// a newer one. Asked for once a kernel.
int code_version(const void* kernel);

/// Whether the kernel runs as code made for Hopper or later: waits for its inputs itself, knows clusters.
/// Older code doesn't, also when the driver translates it for a Hopper GPU.
bool is_hopper_code(const void* kernel);

/// Whether the kernel, one whose body is there for Hopper alone (sm_90a), runs as such code.
bool is_code_of_hopper_only(const void* kernel);

/// `args`: the address of the kernel's one parameter. Early only where is_hopper_code().
void launch(const void* kernel, const LaunchShape& shape, void* args, cudaStream_t stream);

}  // namespace tandem::cuda
