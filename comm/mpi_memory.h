// Memory that the ranks of a node share, from MPI_Win_allocate_shared. Used by comm/mpi.cpp only.
#pragma once

#include <mpi.h>

#include <memory>
#include <source_location>
#include <string>

#include "comm/communicator.h"

namespace tandem {

/// Throws Error{unavailable} with MPI's own text unless `status` is MPI_SUCCESS. `call` names the MPI
/// function.
void check_mpi(int status, const char* call);

/// Pages shared by the ranks of `node` (they must be able to share); collective. All map one run of
/// `n_bytes`, page aligned; `zero` clears them. Throws Error{unavailable} where the system has not that much
/// shared memory.
std::unique_ptr<NodeBuffer> make_window_buffer(MPI_Comm node, size_t n_bytes, bool zero);

}  // namespace tandem
