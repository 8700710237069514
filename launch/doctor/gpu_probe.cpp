#include "launch/doctor/gpu_probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "comm/cuda/collectives.h"
#include "comm/cuda/host_collective.h"
#include "comm/cuda/nccl_collective.h"
#include "comm/cuda/peer_memory.h"
#include "launch/doctor/fused_exchange.h"
#include "launch/doctor/matrix_speed.h"
#include "launch/doctor/nvml.h"
#include "launch/doctor/read_sweep.h"
#include "ops/core/error.h"
#include "ops/cuda/memory.h"
#include "ops/cuda/peer_windows.h"

namespace tandem {
namespace {

using cuda::check;
using cuda::DeviceBuffer;
using cuda::Event;
using cuda::Stream;

constexpr std::array<size_t, 4> kReadMiB = {16, 64, 256, 1024};
constexpr size_t kCopyBytes = size_t{64} << 20;
constexpr int kCopies = 10;
constexpr int64_t kFusedCols = 8192;
constexpr std::array<size_t, 9> kReduceBytes = {size_t{4} << 10,  size_t{8} << 10,  size_t{16} << 10,
                                                size_t{32} << 10, size_t{64} << 10, size_t{256} << 10,
                                                size_t{1} << 20,  size_t{4} << 20,  size_t{16} << 20};

/// GB/s of `work`, which moves n_bytes each time: the median, after a first one that isn't counted.
double gbps(size_t n_bytes, int n_times, const Stream& stream, const std::function<void()>& work) {
  std::vector<float> times_us;
  for (int i = -1; i < n_times; ++i) {
    const Event begin;
    const Event end;
    begin.record(stream);
    work();
    end.record(stream);
    stream.synchronize();
    if (i >= 0) times_us.push_back(Event::elapsed_us(begin, end));
  }
  const auto middle = times_us.begin() + n_times / 2;
  std::nth_element(times_us.begin(), middle, times_us.end());
  return static_cast<double>(n_bytes) / double{*middle} * 1e-3;
}

nlohmann::json measure_reads(Communicator& comm, const GpuInfo& gpu, size_t free_bytes) {
  nlohmann::json rows = nlohmann::json::array();
  const size_t most = std::min(kReadMiB.back() << 20, free_bytes / 4 / (size_t{1} << 20) << 20);
  const DeviceBuffer<std::byte> data(most);
  const DeviceBuffer<uint32_t> sink(1);
  const Stream stream;
  check(cudaMemset(data.data(), 0x5a, data.bytes()));
  check(cudaDeviceSynchronize());
  comm.barrier();
  for (const size_t mib : kReadMiB) {
    const size_t n_bytes = mib << 20;
    if (n_bytes > most) continue;
    rows.push_back({{"bytes", n_bytes}, {"gbps", gbps(n_bytes, 20, stream, [&] {
                                           cuda::read_all(data.data(), n_bytes, gpu.n_multiprocessors,
                                                          sink.data(), stream.get());
                                         })}});
  }
  return rows;
}

void measure_host_copies(Communicator& comm, nlohmann::json& facts) {
  void* host = nullptr;
  check(cudaMallocHost(&host, kCopyBytes));
  const std::unique_ptr<void, cudaError_t (*)(void*)> owner(host, cudaFreeHost);
  const DeviceBuffer<std::byte> device(kCopyBytes);
  const Stream stream;
  comm.barrier();
  facts["host_to_gpu_gbps"] = gbps(kCopyBytes, kCopies, stream, [&] {
    check(cudaMemcpyAsync(device.data(), host, kCopyBytes, cudaMemcpyHostToDevice, stream.get()));
  });
  comm.barrier();
  facts["gpu_to_host_gbps"] = gbps(kCopyBytes, kCopies, stream, [&] {
    check(cudaMemcpyAsync(host, device.data(), kCopyBytes, cudaMemcpyDeviceToHost, stream.get()));
  });
}

/// What memory chips and bus could give at most, by the driver's figures; 0 where it doesn't say.
double peak_gbps(int device) {
  int khz = 0;
  int bits = 0;
  if (cudaDeviceGetAttribute(&khz, cudaDevAttrMemoryClockRate, device) != cudaSuccess) khz = 0;
  if (cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device) != cudaSuccess) bits = 0;
  cudaGetLastError();
  return 2.0 * khz * bits / 8 * 1e-6;
}

template <class T>
nlohmann::json or_null(const std::optional<T>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

/// Each rank alone writes to each other's window; gbps[from][to], whole on every rank.
nlohmann::json measure_peer_writes(Communicator& comm, const cuda::PeerMemory& memory) {
  const DeviceBuffer<std::byte> mine(memory.window_bytes());
  check(cudaMemset(mine.data(), 0x17, mine.bytes()));
  check(cudaDeviceSynchronize());
  const Stream stream;
  const int n = comm.size();
  nlohmann::json rows = nlohmann::json::array();
  for (int from = 0; from < n; ++from) {
    std::vector<double> row(static_cast<size_t>(n), 0.0);
    comm.barrier();
    for (int to = 0; from == comm.rank() && to < n; ++to) {
      if (to == from) continue;
      std::byte* window = memory.windows()[static_cast<size_t>(to)];
      row[static_cast<size_t>(to)] = gbps(mine.bytes(), kCopies, stream, [&] {
        check(cudaMemcpyAsync(window, mine.data(), mine.bytes(), cudaMemcpyDeviceToDevice, stream.get()));
      });
    }
    comm.broadcast(std::as_writable_bytes(std::span(row)), from);
    rows.push_back(row);
  }
  comm.barrier();
  return rows;
}

/// Columns of the rows that n_bytes of floats are taken as: one row, or several of 8192.
int64_t fused_cols(size_t n_bytes) {
  const auto n = static_cast<int64_t>(n_bytes / sizeof(float));
  return std::min(n, kFusedCols);
}

/// The exchange that decoding uses, as one kernel with residual, norm and quantisation.
double measure_fused_us(Communicator& comm, const cuda::PeerMemory& memory, cuda::ExchangeCounter& counter,
                        size_t n_bytes) {
  const int64_t n_cols = fused_cols(n_bytes);
  const int64_t n_tokens = static_cast<int64_t>(n_bytes / sizeof(float)) / n_cols;
  return cuda::FusedExchange(comm, memory, counter, n_cols, n_tokens, true).median_us(9);
}

/// `memory`: where the GPUs reach each other, else null.
nlohmann::json measure_all_reduces(Communicator& comm, const cuda::PeerMemory* memory) {
  std::string why_no_nccl;
  const auto nccl = cuda::make_nccl_collective(comm, why_no_nccl);
  const auto mpi = cuda::make_host_collective(comm);
  cuda::ExchangeCounter counter;
  nlohmann::json rows = nlohmann::json::array();
  for (const size_t n_bytes : kReduceBytes) {
    const int n_repeats = n_bytes >= (size_t{1} << 20) ? 20 : 200;
    nlohmann::json row = {{"bytes", n_bytes}, {"peer_fused_us", nullptr}, {"nccl_us", nullptr}};
    if (memory != nullptr) row["peer_fused_us"] = measure_fused_us(comm, *memory, counter, n_bytes);
    if (nccl) row["nccl_us"] = cuda::measure_all_reduce_us(*nccl, comm, n_bytes, n_repeats);
    row["mpi_us"] = cuda::measure_all_reduce_us(*mpi, comm, n_bytes, n_repeats);
    rows.push_back(std::move(row));
  }
  nlohmann::json out = {{"sizes", std::move(rows)}, {"why_no_nccl", nullptr}};
  if (!nccl) out["why_no_nccl"] = why_no_nccl;
  return out;
}

}  // namespace

nlohmann::json probe_gpu(Communicator& comm, const GpuInfo& gpu) {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes));
  nlohmann::json facts = {{"device", gpu.device},
                          {"name", gpu.name},
                          {"uuid", gpu.uuid},
                          {"pci", gpu.pci_bus_id},
                          {"numa_node", gpu.numa_node},
                          {"capability", gpu.capability},
                          {"multiprocessors", gpu.n_multiprocessors},
                          {"memory_bytes", total_bytes},
                          {"free_bytes", free_bytes},
                          {"peak_gbps", peak_gbps(gpu.device)}};
  facts["read"] = measure_reads(comm, gpu, free_bytes);
  comm.barrier();
  std::string why_not;
  const double tflops = cuda::measure_fp16_tflops(why_not);
  facts["fp16_tflops"] = why_not.empty() ? nlohmann::json(tflops) : nlohmann::json(nullptr);
  if (!why_not.empty()) facts["fp16_why"] = why_not;
  measure_host_copies(comm, facts);
  const Nvml nvml(gpu.pci_bus_id);
  facts["driver"] = or_null(nvml.driver());
  facts["pcie_generation"] = or_null(nvml.pcie_generation());
  facts["pcie_width"] = or_null(nvml.pcie_width());
  facts["pcie_most_generation"] = or_null(nvml.pcie_most_generation());
  facts["pcie_most_width"] = or_null(nvml.pcie_most_width());
  facts["nvlinks"] = or_null(nvml.n_nvlinks());
  facts["power_limit_mw"] = or_null(nvml.power_limit_mw());
  return facts;
}

double measure_gpu_read_gbps(Communicator& comm, const GpuInfo& gpu) {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes));
  const nlohmann::json rows = measure_reads(comm, gpu, free_bytes);
  if (rows.empty()) {
    throw Error(
        ExitCode::unavailable,
        fmt::format("{} MiB of GPU memory are free: too little to measure its speed", free_bytes >> 20),
        "use a smaller --mem-fraction or less depth");
  }
  return rows.back().at("gbps");
}

nlohmann::json probe_gpu_exchange(Communicator& comm, bool shared) {
  std::string why_not;
  nlohmann::json peer;
  const size_t window_bytes =
      std::max(kCopyBytes, static_cast<size_t>(cuda::exchange_window_bytes(comm.size(), kFusedCols)));
  const auto memory = cuda::PeerMemory::make(comm, window_bytes, why_not);
  if (memory) {
    peer = {{"works", true}, {"gbps", measure_peer_writes(comm, *memory)}};
  } else {
    peer = {{"works", false}, {"why_not", why_not}};
  }
  const bool can_wait = comm.all_agree(!shared);
  return {{"peer", std::move(peer)},
          {"all_reduce", measure_all_reduces(comm, can_wait ? memory.get() : nullptr)}};
}

}  // namespace tandem
