#include "launch/doctor/nvml.h"

#include <dlfcn.h>

#include <array>

namespace tandem {
namespace {

// The library's own types: a status (0 is success), an opaque device.
constexpr int kMostNvlinks = 18;

template <class Function>
Function find(void* library, const char* name) {
  return library == nullptr ? nullptr : reinterpret_cast<Function>(dlsym(library, name));
}

}  // namespace

Nvml::Nvml(const std::string& pci_bus_id) : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
  // Started once and left running: the library counts its users.
  const auto init = find<int (*)()>(library_, "nvmlInit_v2");
  const auto device_of = find<int (*)(const char*, void**)>(library_, "nvmlDeviceGetHandleByPciBusId_v2");
  if (init == nullptr || device_of == nullptr || init() != 0) return;
  if (device_of(pci_bus_id.c_str(), &device_) != 0) device_ = nullptr;
}

std::optional<std::string> Nvml::driver() const {
  const auto ask = find<int (*)(char*, unsigned)>(library_, "nvmlSystemGetDriverVersion");
  std::array<char, 96> text{};
  if (!found() || ask == nullptr || ask(text.data(), static_cast<unsigned>(text.size() - 1)) != 0)
    return std::nullopt;
  return std::string(text.data());
}

std::optional<unsigned> Nvml::number(const char* function) const {
  const auto ask = find<int (*)(void*, unsigned*)>(library_, function);
  unsigned value = 0;
  if (!found() || ask == nullptr || ask(device_, &value) != 0) return std::nullopt;
  return value;
}

std::optional<unsigned> Nvml::pcie_generation() const {
  return number("nvmlDeviceGetCurrPcieLinkGeneration");
}
std::optional<unsigned> Nvml::pcie_width() const {
  return number("nvmlDeviceGetCurrPcieLinkWidth");
}
std::optional<unsigned> Nvml::pcie_most_generation() const {
  return number("nvmlDeviceGetMaxPcieLinkGeneration");
}
std::optional<unsigned> Nvml::pcie_most_width() const {
  return number("nvmlDeviceGetMaxPcieLinkWidth");
}
std::optional<unsigned> Nvml::power_limit_mw() const {
  return number("nvmlDeviceGetEnforcedPowerLimit");
}

std::optional<unsigned> Nvml::n_nvlinks() const {
  const auto ask = find<int (*)(void*, unsigned, int*)>(library_, "nvmlDeviceGetNvLinkState");
  if (!found() || ask == nullptr) return std::nullopt;
  unsigned n = 0;
  for (unsigned link = 0; link < kMostNvlinks; ++link) {
    int active = 0;
    n += ask(device_, link, &active) == 0 && active == 1 ? 1 : 0;
  }
  return n;
}

std::optional<uint64_t> Nvml::energy_mj() const {
  const auto ask = find<int (*)(void*, unsigned long long*)>(library_, "nvmlDeviceGetTotalEnergyConsumption");
  unsigned long long value = 0;
  if (!found() || ask == nullptr || ask(device_, &value) != 0) return std::nullopt;
  return value;
}

}  // namespace tandem
