#include "runtime/model/shard.h"

#include <cmath>
#include <numeric>

#include "ops/core/check.h"

namespace tandem {
namespace {

constexpr int64_t kVocabUnit = 16;  // rows: a panel of the CPU's packed layout
constexpr int64_t kQuantGroup = 32;

/// The name behind "blk.N.", or the whole name.
std::string_view role_of(std::string_view name) {
  if (!name.starts_with("blk.")) return name;
  const size_t dot = name.find('.', 4);
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

bool is_quantised(const GgufFile& file, std::string_view suffix) {
  for (const GgufTensor& tensor : file.tensors()) {
    if (role_of(tensor.name) == suffix && type_info(tensor.type).block_elements > 1) return true;
  }
  return false;
}

/// The elements of whole units, the last of which may be short.
Range elements(Range units, int64_t unit, int64_t n) {
  return {std::min(units.begin * unit, n), std::min(units.end * unit, n)};
}

}  // namespace

SplitWeights::SplitWeights(std::vector<double> weights) : weights_(std::move(weights)) {
  double total = 0.0;
  for (const double weight : weights_) {
    require(std::isfinite(weight) && weight >= 0.0, "a rank's share must be a finite number from 0", weight);
    total += weight;
  }
  require(total > 0.0, "all shares are zero");
}

Range SplitWeights::share(int64_t n_units, int rank) const {
  const double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  const auto edge = [&](int r) {
    const double before = std::accumulate(weights_.begin(), weights_.begin() + r, 0.0);
    return r == n_ranks()
               ? n_units
               : static_cast<int64_t>(std::floor(static_cast<double>(n_units) * before / total + 0.5));
  };
  return {edge(rank), edge(rank + 1)};
}

ShardPlan::ShardPlan(const GgufFile& file, const ModelConfig& config, const SplitWeights& weights)
    : head_dim_(config.head_dim) {
  // A quantised row-split matrix is cut between groups of 32 columns only: heads are dealt in the smallest
  // number that fills whole groups (one for head sizes of 64, 96, 128, 256).
  const int64_t group = is_quantised(file, "attn_output.weight") ? kQuantGroup : 1;
  const int64_t heads_a_unit = std::lcm(head_dim_, group) / head_dim_;
  attention_chunk_ = heads_a_unit * head_dim_;
  ffn_chunk_ = ffn_unit(config.n_ff);
  const int64_t n_head_units = ceil_div(config.n_heads, heads_a_unit);
  const int64_t heads_a_kv = config.n_heads / config.n_kv_heads;
  for (int r = 0; r < weights.n_ranks(); ++r) {
    RankShard shard;
    shard.q_heads = elements(weights.share(n_head_units, r), heads_a_unit, config.n_heads);
    if (!shard.q_heads.empty()) {
      shard.kv_heads = {shard.q_heads.begin / heads_a_kv, ceil_div(shard.q_heads.end, heads_a_kv)};
    }
    shard.ffn = elements(weights.share(ceil_div(config.n_ff, ffn_chunk_), r), ffn_chunk_, config.n_ff);
    shard.vocab =
        elements(weights.share(ceil_div(config.n_vocab, kVocabUnit), r), kVocabUnit, config.n_vocab);
    ranks_.push_back(shard);
  }
}

TensorShard ShardPlan::shard(const GgufTensor& tensor, int r) const {
  const RankShard& mine = rank(r);
  const std::string_view role = role_of(tensor.name);
  const bool experts = tensor.shape.size() == 3;
  const int64_t n_rows = experts ? tensor.shape[1] : tensor.n_rows();
  const Range all_rows{0, n_rows};
  const Range all_cols{0, tensor.n_cols()};
  const auto heads = [&](Range range) { return Range{range.begin * head_dim_, range.end * head_dim_}; };
  if (role == "attn_q.weight") return {SplitKind::column_split, heads(mine.q_heads), all_cols};
  if (role == "attn_k.weight" || role == "attn_v.weight") {
    return {SplitKind::column_split, heads(mine.kv_heads), all_cols};
  }
  if (role == "attn_q.bias") return {SplitKind::column_split, all_rows, heads(mine.q_heads)};
  if (role == "attn_k.bias" || role == "attn_v.bias") {
    return {SplitKind::column_split, all_rows, heads(mine.kv_heads)};
  }
  if (role == "attn_output.weight") return {SplitKind::row_split, all_rows, heads(mine.q_heads)};
  if (role == "ffn_gate.weight" || role == "ffn_up.weight" || role == "ffn_gate_exps.weight" ||
      role == "ffn_up_exps.weight") {
    return {SplitKind::column_split, mine.ffn, all_cols};
  }
  if (role == "ffn_down.weight" || role == "ffn_down_exps.weight")
    return {SplitKind::row_split, all_rows, mine.ffn};
  if (role == "token_embd.weight" || role == "output.weight")
    return {SplitKind::column_split, mine.vocab, all_cols};
  return {SplitKind::replicated, all_rows, all_cols};
}

int64_t ShardPlan::bytes(const GgufTensor& tensor, int r) const {
  TensorShard part = shard(tensor, r);
  // A tensor may be smaller than the configuration says, until the loader refuses it.
  part.cols = intersect(part.cols, {0, tensor.n_cols()});
  part.rows = intersect(part.rows, {0, tensor.shape.size() == 3 ? tensor.shape[1] : tensor.n_rows()});
  if (part.empty()) return 0;
  const TensorTypeInfo& info = type_info(tensor.type);
  const int64_t n_matrices = tensor.shape.size() == 3 ? tensor.shape[2] : 1;
  const int64_t first = round_down(part.cols.begin, info.block_elements);
  const int64_t last = std::min(round_up(part.cols.end, info.block_elements), tensor.n_cols());
  return n_matrices * part.rows.size() * ((last - first) / info.block_elements * info.block_bytes);
}

}  // namespace tandem
