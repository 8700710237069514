// The kernels of sampling.cu, and what they read. Called by ops/cuda/sampling.cpp alone. Shapes: rows are the
// tokens to choose in one pass, (n_rows) <= kSampleRows; a rank's logits are (n_rows, stride), of which
// n_local count.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/core/sampling_chain.h"
#include "ops/cuda/sampling_windows.h"

namespace tandem::cuda {

inline constexpr int kMaxSampleRanks = 64;
inline constexpr int64_t kSliceTokens = 4096;  ///< of a shard, that a block scans

/// What slots hold, as tables on the device.
struct SlotTables {
  const sampling::Chain* chains = nullptr;  // (n_slots)
  const sampling::Bias* bias = nullptr;     // (n_slots, kMostBias)
  int32_t* history = nullptr;               // (n_slots, kHistoryTokens)
  int32_t* sampled = nullptr;               // (n_slots): what the latest step chose
};

struct ResolveArgs {
  SlotTables slots;
  int32_t* tokens = nullptr;           // (n_tokens): -1 becomes what the slot's latest step chose
  const int32_t* positions = nullptr;  // (n_tokens)
  const int32_t* sequences = nullptr;  // (n_tokens)
  const int32_t* slot_of = nullptr;    // (n_sequences)
  int64_t n_tokens = 0;
};

struct SampleArgs {
  SlotTables slots;
  const int32_t* outputs = nullptr;       // (n_rows): the rows' tokens in the step
  const int32_t* output_slots = nullptr;  // (n_rows)
  const int32_t* positions = nullptr;     // (tokens of the step)
  int64_t n_rows = 0;
  float* logits = nullptr;  // (n_rows, stride)
  int64_t stride = 0;
  int64_t n_local = 0;
  int32_t first_id = 0;
  int32_t* counts = nullptr;       // (n_rows, stride), zero before and after
  sampling::Key* bests = nullptr;  // (n_rows, n_slices)
  int32_t n_slices = 0;
  int32_t n_ranks = 1;
  int32_t rank = 0;
  PeerWindows peers;                   ///< where there are ranks: candidates travel as packets
  int32_t n_candidates = 0;            ///< room for a row's
  sampling::Key* mine = nullptr;       // (n_rows, n_candidates): to gather, without peers
  const sampling::Key* all = nullptr;  // (n_ranks, n_rows, n_candidates): gathered
  float* all_logits = nullptr;         // (n_ranks, n_rows, stride): gathered; the own rank's may be missing
  int64_t n_of_rank[kMaxSampleRanks] = {};
  int32_t first_of_rank[kMaxSampleRanks] = {};
  int32_t* host_tokens = nullptr;         // (turns, room for a step's rows), page-locked
  const uint32_t* host_offset = nullptr;  ///< on the device: where this step's begin
  int64_t first_row = 0;                  ///< of this pass in the step
};

/// Which halves of choosing from candidates a launch does; both: in one kernel.
enum class ChooseHalf { both, gather, decide };

void launch_resolve(const ResolveArgs& args, cudaStream_t stream);
/// Bias and penalties; the best of each slice.
void launch_scan(const SampleArgs& args, bool early, cudaStream_t stream);
void launch_choose(const SampleArgs& args, ChooseHalf half, bool early, cudaStream_t stream);
/// All logits of rows [first, first + n) to the peers; the peers' to all_logits. A row is the packets' row
/// row - first.
void launch_send_rows(const SampleArgs& args, int64_t first, int64_t n, bool early, cudaStream_t stream);
void launch_receive_rows(const SampleArgs& args, int64_t first, int64_t n, bool early, cudaStream_t stream);
void launch_choose_from_all(const SampleArgs& args, bool early, cudaStream_t stream);

}  // namespace tandem::cuda
