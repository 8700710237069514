// What NVIDIA's management library knows of a GPU: driver, links, power. Its library comes with the driver
// and is looked for when the program runs; where it is missing, what it would say is left out. Called by
// launch/doctor/gpu_probe.cpp and whoever measures energy.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tandem {

class Nvml {
 public:
  /// `pci_bus_id` as in GpuInfo.
  explicit Nvml(const std::string& pci_bus_id);

  bool found() const { return device_ != nullptr; }
  std::optional<std::string> driver() const;
  std::optional<unsigned> pcie_generation() const;  ///< now; links doze when idle: ask after a transfer
  std::optional<unsigned> pcie_width() const;
  std::optional<unsigned> pcie_most_generation() const;
  std::optional<unsigned> pcie_most_width() const;
  std::optional<unsigned> n_nvlinks() const;  ///< that are up
  std::optional<uint64_t> energy_mj() const;  ///< since the driver was loaded; Volta and later
  std::optional<unsigned> power_limit_mw() const;

 private:
  std::optional<unsigned> number(const char* function) const;
  void* library_ = nullptr;
  void* device_ = nullptr;
};

}  // namespace tandem
