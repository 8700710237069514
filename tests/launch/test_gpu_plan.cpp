// Which GPU each rank takes, on pretended hosts: launchers that bind and those that don't, too few devices,
// sharing, and that each refusal names ranks, host and GPU.
#include <gtest/gtest.h>

#include <cstdlib>

#include "launch/gpu_plan.h"
#include "launch/placement.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

GpuInfo gpu(int device, const std::string& uuid) {
  return {.device = device,
          .name = "H200",
          .uuid = "GPU-" + uuid,
          .pci_bus_id = "0000:" + uuid + ":00.0",
          .numa_node = device % 2,
          .capability = 90,
          .n_multiprocessors = 132,
          .memory_bytes = int64_t{141} << 30};
}

/// A rank on `host` that sees the devices with these UUIDs.
RankView rank(const std::string& host, const std::vector<std::string>& uuids, int launcher_local_rank = -1) {
  RankView view{.host = host, .launcher_local_rank = launcher_local_rank, .gpus = {}};
  for (const std::string& uuid : uuids) view.gpus.push_back(gpu(static_cast<int>(view.gpus.size()), uuid));
  return view;
}

std::vector<int> gpus_of(const std::vector<RankView>& ranks, bool allow_share = false) {
  std::vector<int> gpus;
  for (const GpuChoice& choice : choose_gpus(ranks, allow_share)) gpus.push_back(choice.gpu);
  return gpus;
}

struct Refusal {
  ExitCode code = ExitCode::ok;
  std::string text;
  std::string hint;
};

Refusal refusal(const std::vector<RankView>& ranks) {
  try {
    choose_gpus(ranks, false);
  } catch (const Error& error) {
    return {error.code(), error.what(), error.hint()};
  }
  return {};
}

TEST(GpuPlan, ranks_that_see_all_take_turns) {
  const RankView a = rank("a", {"1a", "2b", "3c"});
  EXPECT_EQ(gpus_of({a, a, a}), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(gpus_of({a}), std::vector<int>{0});
}

TEST(GpuPlan, hosts_count_apart) {
  const RankView a = rank("a", {"1a", "2b"});
  const RankView b = rank("b", {"4d", "5e"});
  EXPECT_EQ(gpus_of({a, b, a, b}), (std::vector<int>{0, 0, 1, 1}));
  EXPECT_EQ(choose_gpus({a, b, a, b}, false)[3].local_rank, 1);
}

TEST(GpuPlan, a_launchers_choice_is_kept) {
  EXPECT_EQ(gpus_of({rank("a", {"2b"}), rank("a", {"1a"})}), (std::vector<int>{0, 0}));
  // Two devices a task: each takes its own first one.
  EXPECT_EQ(gpus_of({rank("a", {"1a", "2b"}), rank("a", {"3c", "4d"})}), (std::vector<int>{0, 0}));
  // Overlapping views: nobody gets what another has.
  EXPECT_EQ(gpus_of({rank("a", {"1a"}), rank("a", {"1a", "2b"})}), (std::vector<int>{0, 1}));
}

TEST(GpuPlan, too_few_are_refused) {
  const RankView two = rank("nodeA", {"1a", "2b"});
  const Refusal said = refusal({two, two, two});
  EXPECT_EQ(said.code, ExitCode::usage);
  EXPECT_EQ(said.text, "ranks 0 and 2 on nodeA would share GPU 0 (H200, GPU-1a)");
  EXPECT_NE(said.hint.find("3 ranks"), std::string::npos);
  EXPECT_NE(said.hint.find("--allow-share"), std::string::npos);
  const RankView one = rank("nodeA", {"1a"});
  EXPECT_EQ(refusal({one, one}).code, ExitCode::usage);
}

TEST(GpuPlan, the_same_device_under_two_host_names_is_found) {
  EXPECT_EQ(refusal({rank("container1", {"1a"}), rank("container2", {"1a"})}).code, ExitCode::usage);
}

TEST(GpuPlan, sharing_is_done_where_allowed) {
  const RankView two = rank("a", {"1a", "2b"});
  EXPECT_EQ(gpus_of({two, two, two, two}, true), (std::vector<int>{0, 1, 0, 1}));
  const std::vector<GpuChoice> choices = choose_gpus({two, two, two}, true);
  EXPECT_TRUE(choices[0].shared);
  EXPECT_FALSE(choices[1].shared);
  EXPECT_TRUE(choices[2].shared);
}

TEST(GpuPlan, a_rank_without_any_is_named) {
  const Refusal said = refusal({rank("a", {"1a"}), rank("b", {})});
  EXPECT_EQ(said.code, ExitCode::unavailable);
  EXPECT_EQ(said.text, "rank 1 on b sees no GPU");
}

TEST(GpuPlan, describes) {
  const std::vector<RankView> ranks = {rank("a", {"1a", "2b"}, 0), rank("a", {"1a", "2b"}, 3)};
  const std::vector<std::string> lines = describe_choices(ranks, choose_gpus(ranks, false));
  EXPECT_EQ(lines[0], "rank 0 on a: GPU 0 (H200, GPU-1a), PCI 0000:1a:00.0, NUMA node 0");
  EXPECT_EQ(
      lines[1],
      "rank 1 on a: GPU 1 (H200, GPU-2b), PCI 0000:2b:00.0, NUMA node 1; number 1 on its host, 3 to the "
      "launcher");
}

TEST(GpuPlan, views_travel_as_text) {
  const RankView view = rank("a\"b", {"1a", "2b"}, 7);
  EXPECT_EQ(rank_view_from_text(to_text(view)), view);
  EXPECT_EQ(rank_view_from_text(to_text(RankView{})), RankView{});
}

TEST(GpuPlan, reads_the_launchers_variables) {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}) unsetenv(name);
  EXPECT_EQ(launcher_local_rank(), -1);
  setenv("SLURM_LOCALID", "2", 1);
  EXPECT_EQ(launcher_local_rank(), 2);
  setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1", 1);  // mpirun inside a step: the inner one counts
  EXPECT_EQ(launcher_local_rank(), 1);
  setenv("OMPI_COMM_WORLD_LOCAL_RANK", "one", 1);
  EXPECT_EQ(launcher_local_rank(), 2);
  unsetenv("OMPI_COMM_WORLD_LOCAL_RANK");
  unsetenv("SLURM_LOCALID");
}

TEST(NumaBinding, says_what_it_did) {
  EXPECT_NE(bind_to_numa_node(-1).find("not bound"), std::string::npos);
  EXPECT_NE(bind_to_numa_node(4095).find("not bound: none"), std::string::npos);
}

}  // namespace
}  // namespace tandem
