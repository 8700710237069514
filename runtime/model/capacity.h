// How much a model can do at once, and what that makes a rank's backend allocate. Pure; asked by the model
// when it loads and by the memory plan.
#pragma once

#include "ops/verbs.h"
#include "runtime/model/config.h"
#include "runtime/model/shard.h"

namespace tandem {

/// The same on every rank.
struct ModelCapacity {
  int64_t max_tokens = 512;  ///< in one step
  int64_t n_pages = 0;       ///< of the KV cache
  CacheType cache_type = CacheType::f16;
};

/// The shape of the rank that holds `shard`.
BackendShape backend_shape(const ModelConfig& config, const RankShard& shard, const ModelCapacity& capacity);

}  // namespace tandem
