// A loaded model on one rank: its weights' shards, its backend, and the forward pass over a step's tokens.
// Called by runtime/engine. Collective: every rank runs the same step at the same time.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "comm/communicator.h"
#include "ops/cuda/roads.h"
#include "ops/verbs.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/capacity.h"
#include "runtime/model/config.h"
#include "runtime/model/shard.h"
#include "runtime/model/weights.h"

namespace tandem {

class Model {
 public:
  /// Loads this rank's share. Collective; errors as load_weights() and Backend::allocate().
  Model(const GgufFile& file, const ModelConfig& config, const SplitWeights& split,
        const ModelCapacity& capacity, std::unique_ptr<Backend> backend, Communicator& communicator,
        const LoadProgress& progress = {});

  const ModelConfig& config() const { return config_; }
  const ShardPlan& plan() const { return plan_; }
  const LoadStats& load_stats() const { return load_stats_; }
  const ModelCapacity& capacity() const { return capacity_; }
  Backend& backend() { return *backend_; }
  Communicator& communicator() { return communicator_; }
  Range vocab() const { return shard_.vocab; }

  /// Bytes of weights, in the backend's layout, that this rank must read at least for a step of `n_tokens`
  /// tokens that all want logits: every matrix and norm once, of the table the tokens' rows (a rank's share
  /// of them), of experts those that are chosen. One token chooses n_experts_used of each layer; of several,
  /// which may agree, the number expected where every choice is equally likely is taken.
  double bytes_read(int64_t n_tokens) const;

  /// What a step multiplies, layer by layer, the head at the end; the same products in the same order on
  /// every rank, of its own shards. Without routers, which every rank has whole.
  std::vector<cuda::Product> products() const;

  /// Runs `batch` through all layers.
  void forward(const StepBatch& batch);

  /// The logits of the tokens `outputs` (indices within the last forward()'s step) over this rank's
  /// vocabulary rows: (n_outputs, vocab().size()), valid until the next call. Local: no exchange.
  std::span<const float> logits(std::span<const int64_t> outputs);

 private:
  void check_fit(const GgufFile& file);
  void attention(int64_t layer);
  void feed_forward(int64_t layer);
  NormSpec norm_before_attention(int64_t layer, const Vector* post);

  ModelConfig config_;
  ShardPlan plan_;
  RankShard shard_;
  ModelCapacity capacity_;
  BackendShape shape_;
  Communicator& communicator_;
  std::unique_ptr<Backend> backend_;
  LoadStats load_stats_;
  ModelWeights weights_;
  std::vector<std::vector<const Matrix*>> attention_readers_;  // a layer each: what reads its first norm
  std::vector<std::vector<const Matrix*>> ffn_readers_;        // and its second
};

}  // namespace tandem
