#include "launch/doctor/host_probe.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "comm/wait.h"
#include "ops/cpu/thread_pool.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostReadBytes = int64_t{256} << 20;
constexpr int64_t kTaskWords = int64_t{1} << 17;  // 1 MiB
constexpr int kReadPasses = 5;
constexpr std::array<size_t, 7> kExchangeBytes = {64, 1024, 4096, 16'384, 65'536, 262'144, 1'048'576};
constexpr int kExchangeRounds = 5;

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

/// The value of the first line that begins with `key`, or empty.
std::string value_of(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key, 0) != 0) continue;
    const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return {};
}

int64_t memory_bytes(const char* key) {
  const std::string text = value_of("/proc/meminfo", key);
  return text.empty() ? 0 : std::stoll(text) * 1024;
}

int count_numa_nodes() {
  int n = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/node", ignored)) {
    const std::string name = entry.path().filename();
    n += name.rfind("node", 0) == 0 && name.size() > 4 && std::isdigit(name[4]) != 0 ? 1 : 0;
  }
  return std::max(1, n);
}

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Fills the contribution, publishes, adds up what all gave: what a row-split product costs behind it.
void exchange_sum(Communicator& comm, const std::vector<int64_t>& mine, std::vector<int64_t>& sum) {
  const size_t n_bytes = mine.size() * sizeof(int64_t);
  std::memcpy(comm.contribution(n_bytes), mine.data(), n_bytes);
  const auto all = comm.publish();
  std::memcpy(sum.data(), all[0], n_bytes);
  for (size_t r = 1; r < all.size(); ++r) {
    const auto* theirs = reinterpret_cast<const int64_t*>(all[r]);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += theirs[i];
  }
}

}  // namespace

nlohmann::json host_facts() {
  const std::string cpu = value_of("/proc/cpuinfo", "model name");
  return {{"host", host_name()},
          {"cpu", cpu.empty() ? "unknown" : cpu},
          {"cpus", sysconf(_SC_NPROCESSORS_ONLN)},
          {"usable_cpus", usable_cores()},
          {"numa_nodes", count_numa_nodes()},
          {"memory_bytes", memory_bytes("MemTotal:")},
          {"available_bytes", memory_bytes("MemAvailable:")}};
}

double measure_memory_gbps(Communicator& comm, const CpuPlacement& placement) {
  const int64_t fair = memory_bytes("MemAvailable:") / 8 / comm.node_size();
  const int64_t n_tasks =
      std::max<int64_t>(16, std::min(kMostReadBytes, fair) / static_cast<int64_t>(8 * kTaskWords));
  std::vector<uint64_t> words(static_cast<size_t>(n_tasks * kTaskWords), 1);
  ThreadPool pool(placement.n_threads, placement.cpus, placement.spin_us);
  std::atomic<uint64_t> sink{0};
  double best_s = 1e30;
  for (int pass = 0; pass <= kReadPasses; ++pass) {
    comm.barrier();
    const Clock::time_point begin = Clock::now();
    pool.run(n_tasks, [&](int64_t task, int) {
      uint64_t sum = 0;
      const uint64_t* first = words.data() + task * kTaskWords;
      for (int64_t i = 0; i < kTaskWords; ++i) sum += first[i];
      sink.fetch_add(sum, std::memory_order_relaxed);
    });
    if (pass > 0) best_s = std::min(best_s, seconds_since(begin));
  }
  return sink.load() == 0 ? 0 : static_cast<double>(words.size() * sizeof(uint64_t)) / best_s * 1e-9;
}

nlohmann::json measure_host_exchange(Communicator& comm) {
  nlohmann::json rows = nlohmann::json::array();
  for (const size_t n_bytes : kExchangeBytes) {
    std::vector<int64_t> mine(n_bytes / sizeof(int64_t), comm.rank() + 1);
    std::vector<int64_t> sum(mine.size());
    const int n_calls = n_bytes > 100'000 ? 10 : 100;
    std::vector<double> means_us;
    for (int round = 0; round <= kExchangeRounds; ++round) {
      comm.barrier();
      const Clock::time_point begin = Clock::now();
      for (int i = 0; i < n_calls; ++i) exchange_sum(comm, mine, sum);
      if (round > 0) means_us.push_back(seconds_since(begin) * 1e6 / n_calls);
    }
    std::sort(means_us.begin(), means_us.end());
    rows.push_back({{"bytes", n_bytes}, {"us", means_us[means_us.size() / 2]}});
  }
  return rows;
}

}  // namespace tandem
