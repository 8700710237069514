// What the launchers' variables are taken to say, above all where Slurm has started several tasks that would
// each come up alone. Needs no MPI.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "comm/mpi.h"

namespace tandem {
namespace {

using Variables = std::vector<std::pair<std::string, std::string>>;

LauncherInfo info_with(const Variables& variables) {
  for (const char* name :
       {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMIX_NAMESPACE", "PMI_RANK", "PMI_SIZE",
        "PALS_RANKID", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"})
    unsetenv(name);
  for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
  return launcher_info();
}

void expect(const Variables& variables, bool present, int rank, int size) {
  const LauncherInfo info = info_with(variables);
  EXPECT_EQ(info.present, present);
  EXPECT_EQ(info.rank, rank);
  EXPECT_EQ(info.size, size);
}

TEST(LauncherInfoTest, no_launcher) {
  expect({}, false, -1, -1);
  expect({{"SLURM_PROCID", "0"}}, false, -1, -1);  // a plain batch script
}

TEST(LauncherInfoTest, a_step_of_several_tasks) {
  expect({{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "3"}}, true, 3, 4);
  // srun's own PMIx gives a rank and no size: a world of one is still wrong there.
  expect({{"SLURM_STEP_NUM_TASKS", "4"},
          {"SLURM_PROCID", "3"},
          {"PMIX_RANK", "3"},
          {"PMIX_NAMESPACE", "slurm.pmix.17.0"}},
         true, 3, 4);
}

TEST(LauncherInfoTest, alone_on_purpose_inside_a_step) {
  const Variables step = {{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "2"}};
  Variables mpirun = step;
  mpirun.insert(mpirun.end(), {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}});
  expect(mpirun, true, 0, 1);
  Variables hydra = step;
  hydra.insert(hydra.end(), {{"PMI_RANK", "0"}, {"PMI_SIZE", "1"}});
  expect(hydra, true, 0, 1);
  Variables prun = step;
  prun.insert(prun.end(), {{"PMIX_RANK", "0"}, {"PMIX_NAMESPACE", "prterun-node-1@1"}});
  expect(prun, true, 0, -1);
}

}  // namespace
}  // namespace tandem
