// The ranks that an MPI test runs on. For tests that link tandem_mpi_test_main (tandem_test(… RANKS …)).
#pragma once

#include "comm/communicator.h"
#include "comm/mpi.h"

namespace tandem::test {

/// All ranks of this test run; made at the first call, which must therefore come on every rank.
Communicator& mpi_world();

/// MPI's owner, to make further communicators from.
MpiEnvironment& mpi_environment();

}  // namespace tandem::test
