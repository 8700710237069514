// What tandem doctor concludes: from a job in order, nothing; from each thing that is wrong, a sentence that
// names it and a cure.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launch/doctor/report.h"
#include "launch/doctor/verdict.h"

namespace tandem {
namespace {

using nlohmann::json;

json rank_on_gpu(int rank) {
  json gpu = {{"device", rank},
              {"name", "H200"},
              {"uuid", "GPU-1"},
              {"pci", "0000:18:00.0"},
              {"numa_node", 0},
              {"capability", 90},
              {"memory_bytes", int64_t{140} << 30},
              {"free_bytes", int64_t{139} << 30},
              {"peak_gbps", 4800.0},
              {"read", json::array({{{"bytes", 1 << 30}, {"gbps", 4300.0}}})},
              {"fp16_tflops", 700.0},
              {"host_to_gpu_gbps", 55.0},
              {"gpu_to_host_gbps", 55.0},
              {"driver", "580.1"},
              {"pcie_generation", 5},
              {"pcie_width", 16},
              {"pcie_most_generation", 5},
              {"pcie_most_width", 16},
              {"nvlinks", 18},
              {"shared", false}};
  return {{"rank", rank},
          {"host", "nodeA"},
          {"cpu", "EPYC"},
          {"cpus", 64},
          {"usable_cpus", 64},
          {"numa_nodes", 2},
          {"memory_bytes", int64_t{500} << 30},
          {"threads", 32},
          {"placement", "32 threads"},
          {"read_gbps", 200.0},
          {"n_gpus", 2},
          {"why_no_gpu", ""},
          {"binding", "bound to NUMA node 0, beside the GPU"},
          {"gpu", gpu}};
}

/// Two ranks on two GPUs with NVLink, all as it should be.
json good_job() {
  return {
      {"version", "1"},
      {"commit", "c"},
      {"nodes", 1},
      {"cuda", "13"},
      {"cuda_built", true},
      {"nccl", "2.28"},
      {"mpi", {{"library", "Open MPI"}, {"cuda_aware", true}}},
      {"ranks", json::array({rank_on_gpu(0), rank_on_gpu(1)})},
      {"exchange", json::array({{{"bytes", 4096}, {"us", 3.0}}})},
      {"gpu_exchange",
       {{"peer",
         {{"works", true}, {"gbps", json::array({json::array({0.0, 300.0}), json::array({300.0, 0.0})})}}},
        {"all_reduce",
         {{"why_no_nccl", nullptr},
          {"sizes",
           json::array(
               {{{"bytes", 4096}, {"peer_fused_us", 4.25}, {"nccl_us", 12.0}, {"mpi_us", 60.0}}})}}}}}};
}

json good_cpu_job() {
  json found = good_job();
  found.erase("gpu_exchange");
  for (json& rank : found["ranks"]) {
    rank.erase("gpu");
    rank["n_gpus"] = 0;
    rank["why_no_gpu"] = "no driver";
  }
  return found;
}

/// The one finding of `found`, which must be a problem or not.
Finding only(const json& found, bool is_problem) {
  const std::vector<Finding> findings = conclude(found);
  EXPECT_EQ(findings.size(), 1U);
  if (findings.empty()) return {};
  EXPECT_EQ(findings[0].is_problem, is_problem) << findings[0].text;
  return findings[0];
}

void expect_says(const Finding& finding, const std::string& text, const std::string& cure) {
  EXPECT_NE(finding.text.find(text), std::string::npos) << finding.text;
  EXPECT_NE(finding.cure.find(cure), std::string::npos) << finding.cure;
}

TEST(DoctorVerdict, a_job_in_order) {
  EXPECT_TRUE(conclude(good_job()).empty());
  EXPECT_NE(doctor_text(good_job(), {}).find("in order"), std::string::npos);
}

TEST(DoctorVerdict, all_reduces_as_a_table) {
  EXPECT_NE(doctor_text(good_job(), {}).find("     4 KB       4.2      12.0      60.0\n"), std::string::npos)
      << doctor_text(good_job(), {});
  json found = good_job();
  found["gpu_exchange"]["all_reduce"]["sizes"][0]["peer_fused_us"] = nullptr;
  EXPECT_NE(doctor_text(found, {}).find("     4 KB         -      12.0      60.0\n"), std::string::npos);
}

TEST(DoctorVerdict, no_gpu) {
  expect_says(only(good_cpu_job(), false), "no driver", "nvidia-smi");
  json found = good_cpu_job();
  found["cuda_built"] = false;
  expect_says(only(found, false), "works on the CPUs", "preset cuda");
}

TEST(DoctorVerdict, a_gpu_on_some_ranks_only) {
  json found = good_cpu_job();
  found["ranks"][0]["n_gpus"] = 1;
  expect_says(only(found, true), "rank 1 on nodeA sees no GPU", "CUDA_VISIBLE_DEVICES");
}

TEST(DoctorVerdict, crowded_cores) {
  json found = good_cpu_job();
  for (json& rank : found["ranks"]) rank["threads"] = 40;
  const std::vector<Finding> findings = conclude(found);
  ASSERT_EQ(findings.size(), 2U);
  EXPECT_TRUE(findings[0].is_problem);  // problems come first
  expect_says(findings[0], "80 threads share 64 CPUs", "fewer threads");
}

TEST(DoctorVerdict, a_launcher_that_binds_to_one_core) {
  json found = good_cpu_job();
  found["ranks"][1]["usable_cpus"] = 1;
  const std::vector<Finding> findings = conclude(found);
  ASSERT_EQ(findings.size(), 2U);
  expect_says(findings[1], "rank 1 on nodeA: the launcher bound it to 1 of 64", "--bind-to");
}

TEST(DoctorVerdict, a_slow_exchange) {
  json found = good_job();
  found["exchange"][0]["us"] = 900.0;
  expect_says(only(found, true), "900 us", "core of its own");
}

TEST(DoctorVerdict, a_gpu_that_is_slow) {
  json found = good_job();
  found["ranks"][1]["gpu"]["read"][0]["gbps"] = 2000.0;
  expect_says(only(found, true), "rank 1 on nodeA: H200 reads its memory at 2000 GB/s of 4800", "nvidia-smi");
}

TEST(DoctorVerdict, lanes_and_buses) {
  json found = good_job();
  found["ranks"][0]["gpu"]["pcie_width"] = 8;
  expect_says(only(found, true), "8 of 16 PCIe lanes", "slot");
  found = good_job();
  found["ranks"][0]["gpu"]["host_to_gpu_gbps"] = 10.0;
  expect_says(only(found, false), "takes 10.0 GB/s", "NUMA");
  found = good_job();
  for (const char* key : {"pcie_width", "pcie_most_width", "pcie_most_generation", "driver", "nvlinks"})
    found["ranks"][0]["gpu"][key] = nullptr;  // no NVML here
  EXPECT_TRUE(conclude(found).empty());
  EXPECT_NE(doctor_text(found, {}).find("driver ?"), std::string::npos);
}

TEST(DoctorVerdict, ranks_that_share_or_sit_far_away) {
  json found = good_job();
  found["ranks"][1]["gpu"]["shared"] = true;
  expect_says(only(found, true), "shared", "one rank a GPU");
  found = good_job();
  found["ranks"][1]["binding"] = "bound by the launcher, away from the GPU's NUMA node 1";
  expect_says(only(found, true), "away from", "--bind-to none");
}

TEST(DoctorVerdict, peers_that_lose_words) {
  json found = good_job();
  found["gpu_exchange"]["peer"] = {
      {"works", false},
      {"why_not", "rank 0: 7 of 9 words that the GPUs wrote into its window arrived wrong"}};
  expect_says(only(found, true), "arrived wrong", "ACS");
  found["gpu_exchange"]["peer"]["why_not"] = "the ranks are on 2 nodes";
  expect_says(only(found, false), "2 nodes", "NCCL");
}

TEST(DoctorVerdict, libraries) {
  json found = good_job();
  found["gpu_exchange"]["all_reduce"]["why_no_nccl"] = "libnccl.so.2 can't be loaded";
  expect_says(only(found, false), "libnccl.so.2", "");
  found = good_job();
  found["mpi"]["cuda_aware"] = nullptr;
  expect_says(only(found, false), "Open MPI", "--comm mpi");
}

}  // namespace
}  // namespace tandem
