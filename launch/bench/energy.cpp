#include "launch/bench/energy.h"

#include <algorithm>

namespace tandem {

EnergyMeter::EnergyMeter(Communicator& comm, const std::optional<GpuInfo>& gpu) {
  std::vector<std::string> buses = comm.gather_text(gpu ? gpu->pci_bus_id : "");
  if (comm.rank() != 0) return;
  complete_ = comm.n_nodes() == 1 && std::find(buses.begin(), buses.end(), "") == buses.end();
  std::sort(buses.begin(), buses.end());
  buses.erase(std::unique(buses.begin(), buses.end()), buses.end());
  for (const std::string& bus : buses) {
    if (!bus.empty()) gpus_.push_back(std::make_unique<Nvml>(bus));
  }
}

std::optional<double> EnergyMeter::joules() const {
  if (!complete_) return std::nullopt;
  double sum = 0.0;
  for (const auto& gpu : gpus_) {
    const std::optional<uint64_t> mj = gpu->energy_mj();
    if (!mj) return std::nullopt;
    sum += static_cast<double>(*mj) * 1e-3;
  }
  return sum;
}

std::optional<std::string> EnergyMeter::driver() const {
  return gpus_.empty() ? std::nullopt : gpus_[0]->driver();
}

}  // namespace tandem
