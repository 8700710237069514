// The MPI communicator on the ranks that mpirun gives; with TANDEM_FAKE_NODES also the road between nodes.
#include <gtest/gtest.h>

#include <cstdlib>

#include "ops/core/error.h"
#include "tests/comm/communicator_cases.h"
#include "tests/support/mpi_world.h"

namespace tandem::test {
namespace {

TEST(MpiCommunicator, places) {
  Communicator& comm = mpi_world();
  const char* fakes = std::getenv("TANDEM_FAKE_NODES");
  const int n_nodes = fakes == nullptr ? 1 : std::min(std::atoi(fakes), comm.size());
  EXPECT_EQ(comm.n_nodes(), n_nodes);
  EXPECT_EQ(comm.node_rank(), comm.rank() / n_nodes);
  EXPECT_EQ(comm.node_size(), (comm.size() - comm.rank() % n_nodes + n_nodes - 1) / n_nodes);
  EXPECT_EQ(launcher_info().size, comm.size());
  EXPECT_EQ(launcher_info().rank, comm.rank());
  EXPECT_FALSE(mpi_library_version().empty());
}

TEST(MpiCommunicator, exchange_sums) {
  check_exchange_sums(mpi_world());
}
TEST(MpiCommunicator, exchange_reads_stay_valid) {
  check_exchange_reads_stay_valid(mpi_world());
}
TEST(MpiCommunicator, exchange_grows) {
  check_exchange_grows(
      *make_mpi_communicator(mpi_environment()));  // a fresh one: its slots are still to be made
}
TEST(MpiCommunicator, mixed_storm) {
  check_mixed_storm(mpi_world(), mpi_world().n_nodes() > 1 ? 700 : 2000);
}
TEST(MpiCommunicator, broadcast) {
  check_broadcast(mpi_world());
}
TEST(MpiCommunicator, votes) {
  check_votes(mpi_world());
}
TEST(MpiCommunicator, gather_text) {
  check_gather_text(mpi_world());
}
TEST(MpiCommunicator, node_buffer) {
  check_node_buffer(mpi_world());
}
TEST(MpiCommunicator, idle_wait) {
  check_idle_wait(mpi_world());
}

TEST(MpiEnvironmentTest, starts_once) {
  EXPECT_THROW(MpiEnvironment(), Error);
}

}  // namespace
}  // namespace tandem::test
