// What each rank's memory will hold, from a model's directory alone: no device, no MPI, no tensor data. The
// sizes come from the functions that the loader and the backends allocate by. Called by `tandem plan`
// (launch/plan).
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/gguf/gguf.h"
#include "runtime/model/capacity.h"

namespace tandem {

enum class PlanBackend : uint8_t { cpu, cuda };

/// What a job asks for.
struct PlanRequest {
  PlanBackend backend = PlanBackend::cuda;
  int64_t context_tokens = 4096;  ///< of one sequence
  int64_t n_sequences = 1;        ///< that shall fit into the cache at once
  int64_t batch_tokens = 512;     ///< most prompt tokens in a step
  CacheType cache_type = CacheType::f16;
  int n_multiprocessors = 132;  ///< of a GPU: attention's scratch grows with them
};

/// Bytes of one rank.
struct RankMemory {
  int64_t weight_bytes = 0;
  int64_t cache_bytes = 0;
  int64_t workspace_bytes = 0;  ///< step buffers: rows of activations, attention's scratch, logits
  int64_t exchange_bytes = 0;   ///< windows for partial sums; of CPU ranks: this one's part of the node's

  int64_t total() const { return weight_bytes + cache_bytes + workspace_bytes + exchange_bytes; }
};

class MemoryPlan {
 public:
  /// Keeps a reference to `file`. Throws Error(bad_data) where a tensor has a format without kernels.
  MemoryPlan(const GgufFile& file, const ModelConfig& config, const SplitWeights& split);

  int n_ranks() const { return shards_.n_ranks(); }
  const ShardPlan& shards() const { return shards_; }

  RankMemory rank(int r, const PlanRequest& request) const;
  /// Of the rank that holds most.
  int64_t largest_total(const PlanRequest& request) const;

  /// The most positions of each of request.n_sequences sequences (whole pages) with which every rank stays
  /// within `usable_bytes`; 0 where one page a sequence is too much. request.context_tokens is not read.
  int64_t largest_context(PlanRequest request, int64_t usable_bytes) const;
  /// The most sequences of request.context_tokens positions; 0 where one is too much.
  int64_t largest_sequences(PlanRequest request, int64_t usable_bytes) const;

 private:
  int64_t weight_bytes(int r, PlanBackend backend) const;
  int64_t cpu_workspace(int r, const BackendShape& shape) const;

  const GgufFile& file_;
  ModelConfig config_;
  ShardPlan shards_;
  std::vector<int64_t> weight_bytes_[2];  // of each rank, by PlanBackend
};

}  // namespace tandem
