// Which rank holds which part of which tensor. Pure: no file, no communication, no memory. The loader,
// `inspect` and the planner all ask here, so that what is shown is what is done.
//
// Words: column-split = a matrix's output rows are shared out (q, k, v, gate, up, head, embedding); row-split
// = its input columns are (attention output, ffn_down). Rows and columns are always those of the matrix as
// the file stores it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ops/core/range.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/config.h"

namespace tandem {

/// How much of the model each rank takes, in any unit: 3 and 1.
class SplitWeights {
 public:
  /// Equal shares.
  explicit SplitWeights(int n_ranks) : weights_(static_cast<size_t>(n_ranks), 1.0) {}
  /// One finite number a rank, none negative, not all zero (launch/options checks what the user gave).
  explicit SplitWeights(std::vector<double> weights);

  int n_ranks() const { return static_cast<int>(weights_.size()); }
  /// The share of `n_units` indivisible units that `rank` takes. Shares of all ranks tile [0, n_units).
  Range share(int64_t n_units, int rank) const;

 private:
  std::vector<double> weights_;
};

/// What a rank owns, in units that no cut can break: query heads, FFN columns, vocabulary rows.
struct RankShard {
  Range q_heads;   ///< query heads
  Range kv_heads;  ///< every KV head that those need: neighbours may hold the same one
  Range ffn;       ///< columns of the hidden layer (of every expert)
  Range vocab;     ///< rows of the embedding table and of the head
};

enum class SplitKind : uint8_t { replicated, column_split, row_split };

/// The part of one tensor that a rank holds: `rows` × `cols` of every matrix of the tensor.
struct TensorShard {
  SplitKind kind = SplitKind::replicated;
  Range rows;
  Range cols;
  bool empty() const { return rows.empty() || cols.empty(); }
};

class ShardPlan {
 public:
  ShardPlan(const GgufFile& file, const ModelConfig& config, const SplitWeights& weights);

  int n_ranks() const { return static_cast<int>(ranks_.size()); }
  const RankShard& rank(int r) const { return ranks_[static_cast<size_t>(r)]; }

  /// The part of `tensor` that rank r holds. Rows count within one matrix (an expert tensor holds n_experts
  /// of them).
  TensorShard shard(const GgufTensor& tensor, int r) const;

  /// Bytes of the file that rank r holds of `tensor` (blocks cut by the shard count whole).
  int64_t bytes(const GgufTensor& tensor, int r) const;

  /// Fixed-point sums of row-split products add floats within chunks of this many columns; shards end at
  /// chunk ends.
  int64_t attention_chunk() const { return attention_chunk_; }
  int64_t ffn_chunk() const { return ffn_chunk_; }

 private:
  int64_t head_dim_ = 0;
  int64_t attention_chunk_ = 0;
  int64_t ffn_chunk_ = 0;
  std::vector<RankShard> ranks_;
};

/// The hidden layer's unit: a function of its width alone, so that every split cuts at the same places.
constexpr int64_t ffn_unit(int64_t n_ff) {
  return n_ff >= 1024 ? 128 : 32;
}

}  // namespace tandem
