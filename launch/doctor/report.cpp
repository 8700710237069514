#include "launch/doctor/report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace tandem {
namespace {

using nlohmann::json;

double gib(const json& bytes) {
  return bytes.get<double>() / (1 << 30);
}

std::string size_text(const json& bytes) {
  const auto n = bytes.get<int64_t>();
  if (n >= int64_t{1} << 20) return fmt::format("{} MB", n >> 20);
  if (n >= 1024) return fmt::format("{} KB", n >> 10);
  return fmt::format("{} B", n);
}

std::string count_text(size_t n, const char* what) {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
}

/// A number as it stands, or "?".
std::string or_unknown(const json& value) {
  return value.is_null() ? "?" : value.is_string() ? value.get<std::string>() : value.dump();
}

std::string gpu_text(const json& gpu) {
  std::string out = fmt::format(
      "  GPU {} {}, capability {}.{}, {:.0f} GiB ({:.0f} free), driver {}\n"
      "    {}, PCI {} (generation {} of {}, {} of {} lanes), NUMA node {}, {} NVLinks\n    reads",
      gpu.at("device").get<int>(), gpu.at("name").get<std::string>(), gpu.at("capability").get<int>() / 10,
      gpu.at("capability").get<int>() % 10, gib(gpu.at("memory_bytes")), gib(gpu.at("free_bytes")),
      or_unknown(gpu.at("driver")), gpu.at("uuid").get<std::string>(), gpu.at("pci").get<std::string>(),
      or_unknown(gpu.at("pcie_generation")), or_unknown(gpu.at("pcie_most_generation")),
      or_unknown(gpu.at("pcie_width")), or_unknown(gpu.at("pcie_most_width")), gpu.at("numa_node").get<int>(),
      or_unknown(gpu.at("nvlinks")));
  for (const json& row : gpu.at("read"))
    out += fmt::format(" {}: {:.0f},", size_text(row.at("bytes")), row.at("gbps").get<double>());
  out.back() = ' ';
  out += fmt::format("GB/s (at most {:.0f} by its clock)\n", gpu.at("peak_gbps").get<double>());
  out +=
      gpu.at("fp16_tflops").is_null()
          ? fmt::format("    fp16 matrix products: not measured, {}\n", gpu.at("fp16_why").get<std::string>())
          : fmt::format("    fp16 matrix products: {:.0f} TFLOP/s\n", gpu.at("fp16_tflops").get<double>());
  out += fmt::format("    from the host {:.1f} GB/s, to the host {:.1f} GB/s (pinned)\n",
                     gpu.at("host_to_gpu_gbps").get<double>(), gpu.at("gpu_to_host_gbps").get<double>());
  return out;
}

std::string rank_text(const json& rank) {
  std::string out =
      fmt::format("rank {} on {}: {}, {} of {} CPUs, {}, {:.0f} GiB memory\n", rank.at("rank").get<int>(),
                  rank.at("host").get<std::string>(), rank.at("cpu").get<std::string>(),
                  rank.at("usable_cpus").get<int>(), rank.at("cpus").get<int>(),
                  count_text(rank.at("numa_nodes").get<size_t>(), "NUMA node"), gib(rank.at("memory_bytes")));
  out += fmt::format("  {}; they read memory at {:.1f} GB/s\n", rank.at("placement").get<std::string>(),
                     rank.at("read_gbps").get<double>());
  if (rank.contains("gpu")) {
    out += gpu_text(rank.at("gpu"));
    out += fmt::format("    threads {}\n", rank.at("binding").get<std::string>());
  }
  return out;
}

std::string gpu_exchange_text(const json& exchange) {
  std::string out;
  const json& peer = exchange.at("peer");
  if (peer.at("works")) {
    out += "\nGPU to GPU: proved by pattern; writes in GB/s, a line a writer\n";
    for (const json& row : peer.at("gbps")) {
      for (const json& value : row)
        out += value == 0.0 ? fmt::format("{:>9}", "-") : fmt::format("{:>9.1f}", value.get<double>());
      out += '\n';
    }
  } else {
    out += fmt::format("\nGPU to GPU: not directly ({})\n", peer.at("why_not").get<std::string>());
  }
  const auto us = [](const json& value) {
    return value.is_null() ? "-" : fmt::format("{:.1f}", value.get<double>());
  };
  out +=
      "\nall-reduce on GPUs, us (peer: with residual, norm and quantisation in the same kernel)\n"
      "     size      peer      nccl       mpi\n";
  for (const json& row : exchange.at("all_reduce").at("sizes")) {
    out += fmt::format("{:>9} {:>9} {:>9} {:>9}\n", size_text(row.at("bytes")), us(row.at("peer_fused_us")),
                       us(row.at("nccl_us")), us(row.at("mpi_us")));
  }
  return out;
}

std::string verdict_text(const std::vector<Finding>& findings) {
  std::string out = "\nverdict\n";
  if (findings.empty()) return out + "  all that was looked at is in order\n";
  for (const Finding& finding : findings) {
    out += fmt::format("  {}: {}\n", finding.is_problem ? "problem" : "note", finding.text);
    if (!finding.cure.empty())
      out += fmt::format("    {} {}\n", finding.is_problem ? "cure:" : "->", finding.cure);
  }
  return out;
}

}  // namespace

std::string doctor_text(const json& found, const std::vector<Finding>& findings) {
  const json& mpi = found.at("mpi");
  const json& aware = mpi.at("cuda_aware");
  std::string out =
      fmt::format("tandem {}, {} on {}\nmpi   {}, GPU memory: {}\ncuda  {}\nnccl  {}\n\n",
                  found.at("version").get<std::string>(), count_text(found.at("ranks").size(), "rank"),
                  count_text(found.at("nodes").get<size_t>(), "node"), mpi.at("library").get<std::string>(),
                  aware.is_null()     ? "it doesn't say"
                  : aware.get<bool>() ? "yes"
                                      : "no",
                  found.at("cuda").get<std::string>(), found.at("nccl").get<std::string>());
  for (const json& rank : found.at("ranks")) out += rank_text(rank);
  if (found.contains("exchange")) {
    out += "\nexchange between the ranks' host memories, us\n";
    for (const json& row : found.at("exchange"))
      out += fmt::format("{:>9} {:>9.1f}\n", size_text(row.at("bytes")), row.at("us").get<double>());
  }
  if (found.contains("gpu_exchange") && found.at("ranks").size() > 1)
    out += gpu_exchange_text(found.at("gpu_exchange"));
  return out + verdict_text(findings);
}

}  // namespace tandem
