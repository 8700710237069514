// The energy that the ranks' GPUs take, by the driver's own counters. Used by launch/commands/bench.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "launch/doctor/nvml.h"
#include "launch/gpu_plan.h"

namespace tandem {

class EnergyMeter {
 public:
  /// Collective: rank 0 learns all ranks' GPUs and watches each once. `gpu`: this rank's, or none.
  EnergyMeter(Communicator& comm, const std::optional<GpuInfo>& gpu);

  /// Since some moment in the past, of all GPUs together, in joules; nothing where there is none, where one
  /// doesn't tell, or where one is on another node than rank 0. The counters move some ten times a second:
  /// differences over less than a second say little. Rank 0 only.
  std::optional<double> joules() const;

  /// The driver's version, where there is a GPU whose driver says it. Rank 0 only.
  std::optional<std::string> driver() const;

 private:
  std::vector<std::unique_ptr<Nvml>> gpus_;
  bool complete_ = false;
};

}  // namespace tandem
