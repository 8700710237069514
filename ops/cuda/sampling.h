// Choosing tokens on the device (ops/token_sampler.h): the slots' tables, the passes over a step's rows, and
// the turns of host memory to which tokens go. The CUDA backend owns one; it computes the logits, and gives
// the numbers of the exchanges. Ranks tell each other candidates, or all logits where those can't decide, by
// packets in the peers' windows or by an all-gather; every rank then chooses the same token from the same
// bytes. Nothing here waits for the device but collect().
#pragma once

#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "ops/cuda/collective.h"
#include "ops/cuda/memory.h"
#include "ops/cuda/sampling_kernels.h"
#include "ops/cuda/step.h"
#include "ops/token_sampler.h"

namespace tandem::cuda {

class DeviceSampler {
 public:
  /// collective: null for a rank that is alone. max_rows: of a step.
  DeviceSampler(const SamplingShape& shape, int rank, DeviceCollective* collective, int64_t max_rows);

  void admit(int32_t slot, const sampling::Chain& chain, std::span<const sampling::Bias> bias,
             std::span<const int32_t> history, cudaStream_t stream);

  /// The step's tokens that are kLatestOfSlot become known, and all join their slots' history.
  void resolve(const StepView& step, int64_t n_tokens, cudaStream_t stream) const;

  /// Rows of one pass's logits, and where they go: (pass_rows(), stride()).
  int64_t pass_rows() const { return pass_rows_; }
  float* logits() const { return logits_.data(); }
  int64_t stride() const { return stride_; }

  struct Pass {
    const StepView* step = nullptr;
    const uint32_t* host_offset = nullptr;  ///< of the step buffer
    int64_t first_row = 0;                  ///< of the step's samples
    int64_t n_rows = 0;
    bool from_all = false;  ///< as StepBatch
    bool early = true;      ///< see gemv.h
    /// The next exchange of the step with the peers, with slots as sampling_slot_bytes(); asked for where the
    /// collective has windows.
    std::function<PeerWindows()> next_exchange;
  };
  void choose(const Pass& pass, cudaStream_t stream);

  /// Where the next step's tokens go in host memory: what the step buffer is to hold.
  uint32_t host_offset() const { return static_cast<uint32_t>(turn_ * max_rows_); }
  /// The step has been launched.
  void launched(int64_t n_rows, cudaStream_t stream);
  /// The tokens of the oldest step, kNoToken among them where there was none. Waits.
  std::vector<int32_t> collect();

  size_t bytes() const;

 private:
  SampleArgs args_of(const Pass& pass) const;
  void gather_all(SampleArgs& args, const Pass& pass, cudaStream_t stream);

  static constexpr size_t kTurns = 4;  ///< steps in flight, at most

  DeviceCollective* collective_;
  std::vector<Range> vocab_;
  int rank_;
  int64_t max_rows_;
  int64_t pass_rows_;
  int64_t stride_ = 0;  ///< the largest shard
  bool has_windows_ = false;
  DeviceBuffer<sampling::Chain> chains_;              // (n_slots)
  DeviceBuffer<sampling::Bias> bias_;                 // (n_slots, kMostBias)
  DeviceBuffer<int32_t> history_;                     // (n_slots, kHistoryTokens)
  DeviceBuffer<int32_t> sampled_;                     // (n_slots)
  DeviceBuffer<float> logits_;                        // (pass_rows, stride)
  DeviceBuffer<int32_t> counts_;                      // (pass_rows, stride)
  DeviceBuffer<sampling::Key> bests_;                 // (pass_rows, slices)
  DeviceBuffer<sampling::Key> mine_;                  // (pass_rows, candidates)
  DeviceBuffer<sampling::Key> all_;                   // (n_ranks, pass_rows, candidates)
  DeviceBuffer<float> all_logits_;                    // (n_ranks, pass_rows, stride)
  PinnedBuffer<int32_t> host_tokens_;                 // (kTurns, max_rows)
  std::vector<Event> done_;                           // (kTurns)
  std::deque<std::pair<size_t, int64_t>> in_flight_;  // turn and rows
  size_t turn_ = 0;
};

}  // namespace tandem::cuda
