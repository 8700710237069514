#include "launch/doctor/verdict.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

namespace tandem {
namespace {

using nlohmann::json;

// Below these shares of what the hardware should give, something is wrong with it or with how it is used.
constexpr double kFairReads = 0.70;
constexpr double kFairCopies = 0.60;
constexpr double kSlowExchangeUs = 100;  // of 4 KB on one node
constexpr size_t kExchangeBytes = 4096;

class Findings {
 public:
  void problem(std::string text, std::string cure) { add(true, std::move(text), std::move(cure)); }
  void note(std::string text, std::string cure) { add(false, std::move(text), std::move(cure)); }
  std::vector<Finding> take() {
    std::stable_partition(all_.begin(), all_.end(), [](const Finding& f) { return f.is_problem; });
    return std::move(all_);
  }

 private:
  void add(bool is_problem, std::string text, std::string cure) {
    all_.push_back({is_problem, std::move(text), std::move(cure)});
  }
  std::vector<Finding> all_;
};

bool is_number(const json& object, const char* key) {
  return object.contains(key) && object.at(key).is_number();
}

std::string who(const json& rank) {
  return fmt::format("rank {} on {}", rank.at("rank").get<int>(), rank.at("host").get<std::string>());
}

void look_at_cores(const json& ranks, Findings& findings) {
  struct Host {
    int n_threads = 0;
    int cpus = 0;
    int n_ranks = 0;
  };
  std::map<std::string, Host> hosts;
  for (const json& rank : ranks) {
    Host& host = hosts[rank.at("host")];
    host.n_threads += rank.at("threads").get<int>();
    host.cpus = rank.at("cpus");
    ++host.n_ranks;
  }
  for (const auto& [name, host] : hosts) {
    if (host.n_threads <= host.cpus) continue;
    findings.problem(
        fmt::format("{}: {} ranks with {} threads share {} CPUs, so ranks wait for each other's turns", name,
                    host.n_ranks, host.n_threads, host.cpus),
        fmt::format("start at most {} ranks there, or give them fewer threads (-t)", host.cpus));
  }
  for (const json& rank : ranks) {
    const int usable = rank.at("usable_cpus");
    const int fair = rank.at("cpus").get<int>() / hosts[rank.at("host")].n_ranks;
    if (usable * 2 > fair) continue;
    findings.note(fmt::format("{}: the launcher bound it to {} of {} CPUs, less than half its share",
                              who(rank), usable, rank.at("cpus").get<int>()),
                  "for CPU ranks: mpirun --bind-to none (or --map-by numa --bind-to numa), srun "
                  "--cpus-per-task=N");
  }
}

void look_at_host_exchange(const json& found, Findings& findings) {
  if (found.at("nodes") > 1) {
    findings.note(
        fmt::format("{} nodes: partial sums between them go through MPI", found.at("nodes").get<int>()), "");
    return;
  }
  for (const json& row : found.at("exchange")) {
    if (row.at("bytes") != kExchangeBytes || row.at("us") < kSlowExchangeUs) continue;
    findings.problem(
        fmt::format("an exchange of 4 KB between ranks takes {:.0f} us", row.at("us").get<double>()),
        "give every thread a core of its own: fewer ranks or threads, nothing else on the machine");
  }
}

void look_at_presence(const json& found, Findings& findings) {
  const json& ranks = found.at("ranks");
  const auto n_with =
      std::count_if(ranks.begin(), ranks.end(), [](const json& r) { return r.at("n_gpus") > 0; });
  if (n_with == static_cast<std::ptrdiff_t>(ranks.size())) return;
  if (n_with > 0) {
    for (const json& rank : ranks) {
      if (rank.at("n_gpus") > 0) continue;
      findings.problem(
          fmt::format("{} sees no GPU, others do: {}", who(rank), rank.at("why_no_gpu").get<std::string>()),
          "look at nvidia-smi and CUDA_VISIBLE_DEVICES there, and ask the launcher for GPUs "
          "(--gpus-per-task=1)");
    }
    return;
  }
  const bool built = found.at("cuda_built");
  findings.note(
      fmt::format("no GPU ({}): tandem works on the CPUs", ranks[0].at("why_no_gpu").get<std::string>()),
      built ? "if there is one, look at nvidia-smi, the driver's version and CUDA_VISIBLE_DEVICES"
            : "if there is one, build with the preset cuda");
}

void look_at_gpu(const json& rank, Findings& findings) {
  const json& gpu = rank.at("gpu");
  const std::string name = fmt::format("{}: {}", who(rank), gpu.at("name").get<std::string>());
  if (gpu.at("shared")) {
    findings.problem(name + " is shared with another rank", "start one rank a GPU");
    return;  // its speeds are halves
  }
  const double read = gpu.at("read").empty() ? 0 : gpu.at("read").back().at("gbps").get<double>();
  if (const double peak = gpu.at("peak_gbps"); peak > 0 && read > 0 && read < kFairReads * peak) {
    findings.problem(fmt::format("{} reads its memory at {:.0f} GB/s of {:.0f}", name, read, peak),
                     "see what else runs on it (nvidia-smi), its clocks and its power limit");
  }
  if (is_number(gpu, "pcie_width") && is_number(gpu, "pcie_most_width") &&
      gpu.at("pcie_width") < gpu.at("pcie_most_width")) {
    findings.problem(
        fmt::format("{} has {} of {} PCIe lanes", name, gpu.at("pcie_width").get<int>(),
                    gpu.at("pcie_most_width").get<int>()),
        "it sits in a narrow slot or badly; loading is slower, and so is every exchange without NVLink");
  } else if (is_number(gpu, "pcie_width") && is_number(gpu, "pcie_most_generation")) {
    const double bus = gpu.at("pcie_width").get<double>() *
                       static_cast<double>(int64_t{1} << gpu.at("pcie_most_generation").get<int>()) * 0.123;
    const double copies = gpu.at("host_to_gpu_gbps");
    if (copies < kFairCopies * bus) {
      findings.note(
          fmt::format("{} takes {:.1f} GB/s from the host; its bus could do {:.0f}", name, copies, bus),
          "bind the rank to the GPU's NUMA node (mpirun --bind-to none lets tandem do it)");
    }
  }
  if (rank.at("binding").get<std::string>().find("away from") != std::string::npos) {
    findings.problem(fmt::format("{}: the rank is {}", name, rank.at("binding").get<std::string>()),
                     "mpirun --bind-to none or --map-by numa; srun --gpu-bind=closest");
  }
}

void look_at_gpu_exchange(const json& found, Findings& findings) {
  const json& exchange = found.at("gpu_exchange");
  const json& peer = exchange.at("peer");
  if (!peer.at("works")) {
    const std::string why = peer.at("why_not");
    const bool lossy =
        why.find("arrived wrong") != std::string::npos || why.find("does not arrive") != std::string::npos;
    const std::string text = "the GPUs don't reach each other's memory: " + why;
    if (lossy) {
      findings.problem(text,
                       "switch off ACS and the IOMMU's translation for them in the firmware; tandem uses "
                       "NCCL or MPI meanwhile (for NCCL the same: NCCL_P2P_DISABLE=1)");
    } else {
      findings.note(text, "sums go through NCCL or MPI, which costs some 10 us more a layer");
    }
  }
  if (const json& why = exchange.at("all_reduce").at("why_no_nccl"); why.is_string())
    findings.note("no NCCL: " + why.get<std::string>(), peer.at("works")
                                                            ? "only prompts are slower for it"
                                                            : "without it sums go through the host");
  if (found.at("mpi").at("cuda_aware") != json(true)) {
    findings.note(fmt::format("{} doesn't take GPU memory: --comm mpi goes through host memory",
                              found.at("mpi").at("library").get<std::string>()),
                  "only --comm mpi is slower for it");
  }
}

}  // namespace

std::vector<Finding> conclude(const json& found) {
  Findings findings;
  const json& ranks = found.at("ranks");
  look_at_presence(found, findings);
  const bool on_gpus = found.contains("gpu_exchange");
  if (!on_gpus) look_at_cores(ranks, findings);
  if (ranks.size() > 1) look_at_host_exchange(found, findings);
  for (const json& rank : ranks) {
    if (rank.contains("gpu")) look_at_gpu(rank, findings);
  }
  if (on_gpus && ranks.size() > 1) look_at_gpu_exchange(found, findings);
  return findings.take();
}

}  // namespace tandem
