#include "launch/gpu_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "ops/core/error.h"

namespace tandem {
namespace {

constexpr std::array kLocalRanks = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                    "MV2_COMM_WORLD_LOCAL_RANK", "PALS_LOCAL_RANKID", "SLURM_LOCALID"};

bool same_devices(const RankView& a, const RankView& b) {
  return a.host == b.host && std::equal(a.gpus.begin(), a.gpus.end(), b.gpus.begin(), b.gpus.end(),
                                        [](const GpuInfo& x, const GpuInfo& y) { return x.uuid == y.uuid; });
}

std::string gpu_text(const GpuInfo& gpu) {
  return fmt::format("GPU {} ({}, {})", gpu.device, gpu.name, gpu.uuid);
}

[[noreturn]] void refuse_sharing(const std::vector<RankView>& ranks, size_t first, size_t second,
                                 const GpuInfo& gpu) {
  const auto n_ranks = std::count_if(ranks.begin(), ranks.end(),
                                     [&](const RankView& r) { return r.host == ranks[first].host; });
  throw Error(
      ExitCode::usage,
      fmt::format("ranks {} and {} on {} would share {}", first, second, ranks[second].host, gpu_text(gpu)),
      fmt::format("{} ranks there need as many GPUs: start fewer, give each task its own "
                  "(CUDA_VISIBLE_DEVICES, --gpus-per-task=1), or use --allow-share",
                  n_ranks));
}

}  // namespace

std::string to_text(const RankView& view) {
  nlohmann::json json = {{"host", view.host}, {"local", view.launcher_local_rank}};
  json["gpus"] = nlohmann::json::array();
  for (const GpuInfo& gpu : view.gpus) {
    json["gpus"].push_back({gpu.device, gpu.name, gpu.uuid, gpu.pci_bus_id, gpu.numa_node, gpu.capability,
                            gpu.n_multiprocessors, gpu.memory_bytes});
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

RankView rank_view_from_text(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text);
  RankView view;
  json.at("host").get_to(view.host);
  json.at("local").get_to(view.launcher_local_rank);
  for (const nlohmann::json& gpu : json.at("gpus")) {
    view.gpus.push_back({.device = gpu.at(0),
                         .name = gpu.at(1),
                         .uuid = gpu.at(2),
                         .pci_bus_id = gpu.at(3),
                         .numa_node = gpu.at(4),
                         .capability = gpu.at(5),
                         .n_multiprocessors = gpu.at(6),
                         .memory_bytes = gpu.at(7)});
  }
  return view;
}

std::vector<GpuChoice> choose_gpus(const std::vector<RankView>& ranks, bool allow_share) {
  std::vector<GpuChoice> choices(ranks.size());
  const auto uuid_of = [&](size_t r) { return ranks[r].gpus[static_cast<size_t>(choices[r].gpu)].uuid; };
  for (size_t r = 0; r < ranks.size(); ++r) {
    const std::vector<GpuInfo>& gpus = ranks[r].gpus;
    if (gpus.empty()) {
      throw Error(ExitCode::unavailable, fmt::format("rank {} on {} sees no GPU", r, ranks[r].host),
                  "look at nvidia-smi and CUDA_VISIBLE_DEVICES there, ask the launcher for GPUs "
                  "(--gpus-per-task=1), or use --backend cpu");
    }
    // Its turn among those that see the same devices; what another rank has, only where nothing is left.
    size_t turn = 0;
    for (size_t other = 0; other < r; ++other) {
      choices[r].local_rank += ranks[other].host == ranks[r].host ? 1 : 0;
      turn += same_devices(ranks[other], ranks[r]) ? 1 : 0;
    }
    const auto holder = [&](const std::string& uuid) {
      size_t other = 0;
      while (other < r && uuid_of(other) != uuid) ++other;
      return other;
    };
    size_t tries = 0;
    while (tries < gpus.size() && holder(gpus[(turn + tries) % gpus.size()].uuid) != r) ++tries;
    choices[r].gpu = static_cast<int>((turn + tries) % gpus.size());
    if (tries < gpus.size()) continue;
    const size_t other = holder(gpus[turn % gpus.size()].uuid);
    if (!allow_share) refuse_sharing(ranks, other, r, gpus[turn % gpus.size()]);
  }
  for (size_t a = 0; a < ranks.size(); ++a) {
    for (size_t b = 0; b < ranks.size(); ++b) choices[a].shared |= a != b && uuid_of(a) == uuid_of(b);
  }
  return choices;
}

std::vector<std::string> describe_choices(const std::vector<RankView>& ranks,
                                          const std::vector<GpuChoice>& choices) {
  std::vector<std::string> lines;
  for (size_t r = 0; r < ranks.size(); ++r) {
    const GpuInfo& gpu = ranks[r].gpus[static_cast<size_t>(choices[r].gpu)];
    std::string line = fmt::format("rank {} on {}: {}, PCI {}, NUMA node {}", r, ranks[r].host, gpu_text(gpu),
                                   gpu.pci_bus_id, gpu.numa_node < 0 ? "?" : std::to_string(gpu.numa_node));
    if (choices[r].shared) line += ", shared with another rank";
    const int theirs = ranks[r].launcher_local_rank;
    if (theirs >= 0 && theirs != choices[r].local_rank)
      line += fmt::format("; number {} on its host, {} to the launcher", choices[r].local_rank, theirs);
    lines.push_back(std::move(line));
  }
  return lines;
}

int launcher_local_rank() {
  for (const char* name : kLocalRanks) {
    const char* text = std::getenv(name);
    if (text == nullptr) continue;
    int value = -1;
    const auto [end, status] = std::from_chars(text, text + std::strlen(text), value);
    if (status == std::errc{} && *end == '\0') return value;
  }
  return -1;
}

}  // namespace tandem
