// A rank's share of a model's weights, read from the file and handed to the backend.
// Called by runtime/engine when it starts. Must never read bytes that another rank of the node reads.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "ops/verbs.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/config.h"
#include "runtime/model/shard.h"

namespace tandem {

struct LayerWeights {
  std::unique_ptr<Vector> attention_norm, ffn_norm;            // (n_embd)
  std::unique_ptr<Vector> attention_post_norm, ffn_post_norm;  // (n_embd) or null
  std::unique_ptr<Vector> q_norm, k_norm;                      // (head_dim) or null
  std::unique_ptr<Vector> q_bias, k_bias, v_bias;              // (local heads · head_dim) or null
  std::unique_ptr<Matrix> q, k, v;                             // (local heads · head_dim, n_embd)
  std::unique_ptr<Matrix> o;                                   // (n_embd, local heads · head_dim)
  std::unique_ptr<Matrix> gate, up;                            // (local ff, n_embd)
  std::unique_ptr<Matrix> down;                                // (n_embd, local ff)
  std::unique_ptr<Matrix> router;                              // (n_experts, n_embd), or null
  std::vector<std::unique_ptr<Matrix>> gates, ups, downs;      // an expert each, or empty

  AttentionWeights attention() const {
    return {q.get(), k.get(), v.get(), q_bias.get(), k_bias.get(), v_bias.get(), q_norm.get(), k_norm.get()};
  }
};

struct ModelWeights {
  std::unique_ptr<Matrix> embedding;  // (local vocabulary, n_embd)
  std::unique_ptr<Matrix> separate_head;
  std::unique_ptr<Vector> output_norm;
  std::vector<LayerWeights> layers;
  std::vector<float> rope_factors;  // (n_rot / 2), or empty

  const Matrix& head() const { return separate_head ? *separate_head : *embedding; }
};

/// What loading did, for -v and the tests.
struct LoadStats {
  uint64_t bytes_read = 0;   ///< from the file by this rank
  uint64_t n_reads = 0;      ///< contiguous runs
  uint64_t bytes_total = 0;  ///< tensor bytes that this node needs
  double seconds = 0.0;
};

/// Called on every rank with bytes done and bytes in all; throws to stop.
using LoadProgress = std::function<void(uint64_t done, uint64_t total)>;

/// Reads every tensor of the model, each byte by one rank of the node, and gives this rank's shards to
/// `backend`; norms of queries and keys balanced (key_balance.h) where `cache_type` keeps codes. Collective.
/// Throws Error(bad_data) where a tensor is missing or has the wrong shape (the same on every rank),
/// Error(io) where the file can't be read.
ModelWeights load_weights(const GgufFile& file, const ModelConfig& config, const ShardPlan& plan,
                          CacheType cache_type, Communicator& communicator, Backend& backend,
                          LoadStats& stats, const LoadProgress& progress = {});

}  // namespace tandem
