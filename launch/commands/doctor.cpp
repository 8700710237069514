// tandem doctor: what this job runs on and how fast it is, measured with all its ranks, and what is wrong
// with it. Needs no model and no GPU.
#include <launch/build_info.h>

#include <nlohmann/json.hpp>

#include "comm/mpi.h"
#include "comm/mpi_sum.h"
#include "launch/command.h"
#include "launch/doctor/gpu_probe.h"
#include "launch/doctor/host_probe.h"
#include "launch/doctor/report.h"
#include "launch/gpu_placement.h"
#include "launch/job.h"
#include "launch/option_parser.h"
#include "launch/output.h"

namespace tandem {
namespace {

using nlohmann::json;

/// The ranks' own parts, gathered on every rank.
json gather(Communicator& comm, const json& mine) {
  json all = json::array();
  for (const std::string& text : comm.gather_text(mine.dump(-1, ' ', false, json::error_handler_t::replace)))
    all.push_back(json::parse(text));
  return all;
}

json examine_rank(Communicator& comm, bool on_gpus) {
  json mine = host_facts();
  mine["rank"] = comm.rank();
  mine["launcher_local_rank"] = launcher_local_rank();
  std::string why_no_gpu;
  const std::vector<GpuInfo> gpus = visible_gpus(why_no_gpu);
  mine["n_gpus"] = gpus.size();
  mine["why_no_gpu"] = why_no_gpu;
  CpuPlacement cpus = place_on_cpus(0, comm);
  mine["threads"] = cpus.n_threads;
  mine["placement"] = cpus.reason;
  comm.set_threads_per_rank(cpus.n_threads);
  if (!on_gpus) {
    mine["read_gbps"] = measure_memory_gbps(comm, cpus);
    return mine;
  }
  const GpuPlacement gpu = place_on_gpu(comm, true);
  cpus.cpus.clear();  // bound as a whole, beside the GPU
  mine["read_gbps"] = measure_memory_gbps(comm, cpus);
  mine["binding"] = gpu.binding;
  mine["gpu"] = probe_gpu(comm, gpu.gpu);
  mine["gpu"]["shared"] = gpu.shared;
  return mine;
}

json examine(Communicator& comm) {
  std::string why_none;
  const bool on_gpus = comm.all_agree(!visible_gpus(why_none).empty());
  json found = {{"version", kVersion}, {"commit", kCommit},          {"nodes", comm.n_nodes()},
                {"cuda", cuda_text()}, {"cuda_built", cuda_built()}, {"nccl", nccl_text()}};
  const std::optional<bool> aware = comm.size() > 1 ? mpi_is_cuda_aware() : std::nullopt;
  found["mpi"] = {{"library", mpi_library_version()}, {"cuda_aware", aware ? json(*aware) : json(nullptr)}};
  found["ranks"] = gather(comm, examine_rank(comm, on_gpus));
  if (comm.size() > 1) found["exchange"] = measure_host_exchange(comm);
  if (on_gpus && comm.size() > 1) {
    const json& mine = found["ranks"][static_cast<size_t>(comm.rank())];
    found["gpu_exchange"] = probe_gpu_exchange(comm, mine.at("gpu").at("shared"));
  } else if (on_gpus) {
    found["gpu_exchange"] = json::object();
  }
  return found;
}

json to_json(const std::vector<Finding>& findings) {
  json list = json::array();
  for (const Finding& finding : findings) {
    list.push_back(
        {{"level", finding.is_problem ? "problem" : "note"}, {"text", finding.text}, {"cure", finding.cure}});
  }
  return list;
}

}  // namespace

int doctor_command(Job& job, const Arguments& arguments) {
  OptionParser parser(
      "doctor", "Examine what a job runs on, and say what is wrong with it",
      "Start it as you would start the real job: mpirun -np N tandem doctor. It takes a few seconds, and "
      "measures with all ranks at once; nothing else should run meanwhile.");
  bool as_json = false;
  parser.add_flag("json", as_json, "the findings as JSON");
  if (!parser.parse(arguments)) return 0;
  Communicator& comm = job.start(parser.settings());
  json found = examine(comm);
  if (comm.rank() != 0) return 0;
  const std::vector<Finding> findings = conclude(found);
  found["verdict"] = to_json(findings);
  print_result(as_json ? json_text(found) : doctor_text(found, findings));
  return 0;
}

}  // namespace tandem
