#include "runtime/model/capacity.h"

namespace tandem {

BackendShape backend_shape(const ModelConfig& config, const RankShard& shard, const ModelCapacity& capacity) {
  BackendShape shape;
  shape.n_layers = config.n_layers;
  shape.n_embd = config.n_embd;
  shape.n_kv_heads = shard.kv_heads.size();
  const int64_t heads_a_kv = config.n_heads / config.n_kv_heads;
  for (int64_t head = shard.q_heads.begin; head < shard.q_heads.end; ++head)
    shape.kv_of_head.push_back(static_cast<int32_t>(head / heads_a_kv - shard.kv_heads.begin));
  shape.head_dim = config.head_dim;
  shape.n_ff = shard.ffn.size();
  shape.n_vocab = shard.vocab.size();
  shape.n_experts_used = config.n_experts_used;
  shape.max_tokens = capacity.max_tokens;
  shape.n_pages = capacity.n_pages;
  shape.cache_type = capacity.cache_type;
  return shape;
}

}  // namespace tandem
