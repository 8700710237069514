// The communicator over MPI, and MPI's own beginning and end. Called by launch/ and by the MPI tests' main.
// No MPI type appears here, so that only comm/mpi.cpp and comm/mpi_memory.cpp know mpi.h. Standard MPI-3
// calls only.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace tandem {

/// Owns MPI's initialisation (MPI_THREAD_FUNNELED), and makes MPI_Abort the way to end ranks on other nodes
/// (comm/process.h). Make it on the main thread, and let it outlive all
/// communicators. Throws Error{unavailable} where MPI was started already, has ended, or gives no FUNNELED;
/// and where the launcher says that there are several ranks but MPI sees one (a launcher and a library that
/// do not know each other).
class MpiEnvironment {
 public:
  MpiEnvironment();
  /// Finalizes MPI; left out while an exception unwinds the stack, because the other ranks may never come.
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;
};

/// All ranks of the job; collective. TANDEM_FAKE_NODES=k pretends that ranks r, r + k, r + 2k … share a node
/// and the others do not, which puts the road between nodes under test on one machine.
std::unique_ptr<Communicator> make_mpi_communicator(const MpiEnvironment& environment);

/// What the launcher's environment variables say, before or without MPI. Not collective.
struct LauncherInfo {
  bool present = false;  ///< mpirun, srun or another launcher started this process
  int rank = -1;         ///< -1 where it does not say
  int size = -1;
};
LauncherInfo launcher_info();

/// One line: the MPI library's name and version. Allowed before MPI is started.
std::string mpi_library_version();

}  // namespace tandem
