// Sums by the MPI library itself, for device memory that it can reach. Called by comm/cuda and `tandem
// doctor`. Everything on the host goes through Communicator's exchange instead.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "comm/communicator.h"

namespace tandem {

/// Whether the MPI library takes pointers to device memory, as it says itself (MPIX_Query_cuda_support);
/// empty where it doesn't say. Not collective.
std::optional<bool> mpi_is_cuda_aware();

/// MPI_Allreduce on a communicator of its own.
class MpiSum {
 public:
  /// Collective. Null where `comm` isn't MPI's world of ranks (one process, threads of a test).
  static std::unique_ptr<MpiSum> make(Communicator& comm);
  /// Collective; left out while an exception unwinds the stack.
  ~MpiSum();
  MpiSum(const MpiSum&) = delete;
  MpiSum& operator=(const MpiSum&) = delete;

  /// Sums `data` (n floats, host memory, or device memory where mpi_is_cuda_aware()) over all ranks in place.
  /// Throws Error{unavailable}.
  void sum(float* data, int64_t n);

 private:
  struct Handle;
  explicit MpiSum(std::unique_ptr<Handle> handle);
  std::unique_ptr<Handle> handle_;
  int n_exceptions_;
};

}  // namespace tandem
