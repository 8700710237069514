// The table of products' roads (ops/cuda/roads.h) comes from the cache folder or is measured by rank 0, which
// tells the others. Called by launch/session once the model is loaded. Knows no device: the backend measures.
#pragma once

#include <span>
#include <string>

#include "comm/communicator.h"
#include "ops/cuda/roads.h"

namespace tandem {

struct RoadRequest {
  bool again = false;  ///< --tune again: measures what the table already has
  std::string folder;  ///< where tables are kept; empty: nowhere
  cuda::RoadOrigin origin;
};

/// TANDEM_CACHE, or `tandem` in XDG_CACHE_HOME or in ~/.cache; empty where none of the variables is set.
std::string cache_folder();

/// A file for each device and number of ranks.
std::string road_file(const RoadRequest& request);

/// Gives every product its roads. Collective. `products`: the same list on every rank, of its own shards;
/// what rank 0's shard of a product takes all ranks' shards take, whatever they own of it, so that no two
/// ranks go apart. A table that is no table is told in one warning and replaced; one that can't be kept is
/// only named in the result. Returns what was done in one line, on rank 0.
std::string tune_roads(cuda::RoadTuner& tuner, std::span<const cuda::Product> products,
                       const RoadRequest& request, Communicator& communicator);

}  // namespace tandem
