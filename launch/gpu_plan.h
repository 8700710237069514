// Which GPU each rank takes: the pure part of launch/gpu_placement.h, in every build, tested without a GPU.
// Knows what all ranks see, and decides for all of them, so that every rank comes to the same answer or the
// same refusal.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tandem {

/// A device as a process sees it.
struct GpuInfo {
  int device = 0;  ///< its number in this process
  std::string name;
  std::string uuid;        ///< "GPU-…": the same whoever looks
  std::string pci_bus_id;  ///< "0000:18:00.0"
  int numa_node = -1;      ///< -1: the system doesn't say
  int capability = 0;      ///< 90 for 9.0
  int n_multiprocessors = 0;
  int64_t memory_bytes = 0;

  bool operator==(const GpuInfo&) const = default;
};

/// What a rank tells the others.
struct RankView {
  std::string host;
  int launcher_local_rank = -1;  ///< what the launcher's variables say; -1: nothing
  std::vector<GpuInfo> gpus;     ///< that this process may use

  bool operator==(const RankView&) const = default;
};

/// As bytes for gather_text(), and back.
std::string to_text(const RankView& view);
RankView rank_view_from_text(const std::string& text);

struct GpuChoice {
  int gpu = 0;  ///< index into the rank's gpus
  int local_rank = 0;
  bool shared = false;  ///< with another rank
};

/// A GPU for each rank, in rank order. Ranks of a host that see the same devices take them in turn (where the
/// launcher shows each rank its own one, that one); no two take the same UUID unless `allow_share`. Throws
/// Error{unavailable} where a rank sees none, Error{usage} where there are too few; both name ranks, host and
/// GPU.
std::vector<GpuChoice> choose_gpus(const std::vector<RankView>& ranks, bool allow_share);

/// A line a rank for -v: rank, host, GPU, UUID, PCI bus, NUMA node, and whether the launcher counts the
/// host's ranks otherwise.
std::vector<std::string> describe_choices(const std::vector<RankView>& ranks,
                                          const std::vector<GpuChoice>& choices);

/// This process's number on its host as the launcher's variables have it; -1 where they say nothing.
int launcher_local_rank();

}  // namespace tandem
