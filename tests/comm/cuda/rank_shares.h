// What the tests of exchanges between devices share: a device for each rank, and numbers that tell rank,
// place and round.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "ops/cuda/memory.h"

namespace tandem::cuda {

/// A device for this rank, or none anywhere.
inline bool choose_device(Communicator& comm) {
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess) n = 0;
  if (!comm.all_agree(n > 0)) return false;
  check(cudaSetDevice(comm.node_rank() % n));
  return true;
}

/// What rank r adds at column i in `round`: multiples of 1/8 below 2^10, so that every order of adding gives
/// the same bits.
inline float share(int rank, int64_t i, int round) {
  return static_cast<float>((i * 37 + rank * 1009 + round * 71) % 8191 - 4095) / 8.0F;
}

inline std::vector<float> shares(int rank, int64_t n, int round) {
  std::vector<float> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) values[static_cast<size_t>(i)] = share(rank, i, round);
  return values;
}

inline int64_t count_wrong(const std::vector<float>& got, const std::vector<float>& expected) {
  int64_t n_wrong = 0;
  for (size_t i = 0; i < got.size(); ++i) n_wrong += got[i] == expected[i] ? 0 : 1;
  return n_wrong;
}

}  // namespace tandem::cuda
