#include "ops/cuda/sampling.h"

#include <algorithm>

#include "ops/core/check.h"

namespace tandem::cuda {
namespace {

constexpr int32_t kMostCandidates = 256;

template <class T>
DeviceBuffer<T> zeroed(int64_t n) {
  DeviceBuffer<T> buffer(static_cast<size_t>(n));
  if (n != 0) check(cudaMemset(buffer.data(), 0, buffer.bytes()));
  return buffer;
}

}  // namespace

DeviceSampler::DeviceSampler(const SamplingShape& shape, int rank, DeviceCollective* collective,
                             int64_t max_rows)
    : collective_(collective),
      vocab_(shape.vocab),
      rank_(rank),
      max_rows_(max_rows),
      pass_rows_(std::min(max_rows, kSampleRows)),
      has_windows_(collective != nullptr && !collective->windows().empty()) {
  const auto n_ranks = static_cast<int64_t>(vocab_.size());
  require(n_ranks > 0 && n_ranks <= kMaxSampleRanks && max_rows > 0, "sampling: ranks", n_ranks, max_rows);
  for (const Range& range : vocab_) stride_ = std::max(stride_, range.size());
  chains_ = zeroed<sampling::Chain>(shape.n_slots);
  bias_ = DeviceBuffer<sampling::Bias>(static_cast<size_t>(shape.n_slots * sampling::kMostBias));
  history_ = zeroed<int32_t>(shape.n_slots * sampling::kHistoryTokens);
  sampled_ = zeroed<int32_t>(shape.n_slots);
  logits_ = DeviceBuffer<float>(static_cast<size_t>(pass_rows_ * stride_));
  counts_ = zeroed<int32_t>(pass_rows_ * stride_);
  bests_ = DeviceBuffer<sampling::Key>(static_cast<size_t>(pass_rows_ * ceil_div(stride_, kSliceTokens)));
  if (n_ranks > 1) all_logits_ = DeviceBuffer<float>(static_cast<size_t>(n_ranks * pass_rows_ * stride_));
  if (n_ranks > 1 && !has_windows_) {
    mine_ = zeroed<sampling::Key>(pass_rows_ * kMostCandidates);
    all_ = DeviceBuffer<sampling::Key>(static_cast<size_t>(n_ranks * pass_rows_ * kMostCandidates));
  }
  host_tokens_ = PinnedBuffer<int32_t>(kTurns * static_cast<size_t>(max_rows));
  for (size_t i = 0; i < kTurns; ++i) done_.emplace_back();
  check(cudaDeviceSynchronize());  // cleared by another stream
}

size_t DeviceSampler::bytes() const {
  return chains_.bytes() + bias_.bytes() + history_.bytes() + sampled_.bytes() + logits_.bytes() +
         counts_.bytes() + bests_.bytes() + mine_.bytes() + all_.bytes() + all_logits_.bytes();
}

void DeviceSampler::admit(int32_t slot, const sampling::Chain& chain, std::span<const sampling::Bias> bias,
                          std::span<const int32_t> history, cudaStream_t stream) {
  require(slot >= 0 && static_cast<size_t>(slot) < chains_.size() &&
              chain.n_bias == static_cast<int32_t>(bias.size()) && chain.n_bias <= sampling::kMostBias,
          "sampling: a slot", slot, bias.size());
  // From pageable memory: taken when the call returns, done in order with the stream.
  const auto copy = [&]<class T>(T* to, const T* from, size_t n) {
    if (n != 0) check(cudaMemcpyAsync(to, from, n * sizeof(T), cudaMemcpyHostToDevice, stream));
  };
  copy(chains_.data() + slot, &chain, 1);
  copy(bias_.data() + int64_t{slot} * sampling::kMostBias, bias.data(), bias.size());
  std::vector<int32_t> ring(sampling::kHistoryTokens);
  const size_t n = history.size();
  for (size_t p = n > ring.size() ? n - ring.size() : 0; p < n; ++p) ring[p % ring.size()] = history[p];
  copy(history_.data() + int64_t{slot} * sampling::kHistoryTokens, ring.data(), std::min(n, ring.size()));
}

void DeviceSampler::resolve(const StepView& step, int64_t n_tokens, cudaStream_t stream) const {
  ResolveArgs args;
  args.slots = {chains_.data(), bias_.data(), history_.data(), sampled_.data()};
  args.tokens = const_cast<int32_t*>(step.tokens);
  args.positions = step.positions;
  args.sequences = step.sequences;
  args.slot_of = step.slot_of;
  args.n_tokens = n_tokens;
  launch_resolve(args, stream);
}

SampleArgs DeviceSampler::args_of(const Pass& pass) const {
  SampleArgs args;
  args.slots = {chains_.data(), bias_.data(), history_.data(), sampled_.data()};
  args.outputs = pass.step->outputs + pass.first_row;
  args.output_slots = pass.step->output_slots + pass.first_row;
  args.positions = pass.step->positions;
  args.n_rows = pass.n_rows;
  args.logits = logits_.data();
  args.stride = stride_;
  args.n_ranks = static_cast<int32_t>(vocab_.size());
  args.rank = rank_;
  for (size_t r = 0; r < vocab_.size(); ++r) {
    args.n_of_rank[r] = vocab_[r].size();
    args.first_of_rank[r] = static_cast<int32_t>(vocab_[r].begin);
  }
  args.n_local = args.n_of_rank[rank_];
  args.first_id = args.first_of_rank[rank_];
  args.counts = counts_.data();
  args.bests = bests_.data();
  args.n_slices = static_cast<int32_t>(ceil_div(args.n_local, kSliceTokens));
  args.n_candidates = kMostCandidates;
  args.mine = mine_.data();
  args.all = all_.data();
  args.all_logits = all_logits_.data();
  args.host_tokens = host_tokens_.data();
  args.host_offset = pass.host_offset;
  args.first_row = pass.first_row;
  return args;
}

void DeviceSampler::choose(const Pass& pass, cudaStream_t stream) {
  require(pass.n_rows > 0 && pass.n_rows <= pass_rows_ && pass.first_row + pass.n_rows <= max_rows_,
          "sampling: rows", pass.first_row, pass.n_rows);
  SampleArgs args = args_of(pass);
  const bool alone = args.n_ranks == 1;
  if (args.n_slices > 0) launch_scan(args, pass.early, stream);
  if (pass.from_all) {
    if (!alone) gather_all(args, pass, stream);
    launch_choose_from_all(args, pass.early && (alone || has_windows_), stream);
  } else if (alone || has_windows_) {
    if (!alone) args.peers = pass.next_exchange();
    launch_choose(args, ChooseHalf::both, pass.early, stream);
  } else {
    launch_choose(args, ChooseHalf::gather, pass.early, stream);
    const auto n_bytes = static_cast<size_t>(pass.n_rows * kMostCandidates) * sizeof(sampling::Key);
    collective_->all_gather(reinterpret_cast<const std::byte*>(mine_.data()),
                            reinterpret_cast<std::byte*>(all_.data()), n_bytes, stream);
    launch_choose(args, ChooseHalf::decide, false, stream);
  }
}

/// All ranks' logits of the pass to all_logits.
void DeviceSampler::gather_all(SampleArgs& args, const Pass& pass, cudaStream_t stream) {
  if (!has_windows_) {
    const auto n_bytes = static_cast<size_t>(pass.n_rows * stride_) * sizeof(float);
    collective_->all_gather(reinterpret_cast<const std::byte*>(logits_.data()),
                            reinterpret_cast<std::byte*>(all_logits_.data()), n_bytes, stream);
    return;
  }
  for (int64_t row = 0; row < pass.n_rows;) {
    args.peers = pass.next_exchange();
    const int64_t n = std::min(args.peers.slot_bytes / (stride_ * kPacketBytes), pass.n_rows - row);
    require(n > 0, "sampling: a slot of the peers' windows is too small", args.peers.slot_bytes, stride_);
    launch_send_rows(args, row, n, pass.early, stream);
    launch_receive_rows(args, row, n, pass.early, stream);
    row += n;
  }
}

void DeviceSampler::launched(int64_t n_rows, cudaStream_t stream) {
  require(in_flight_.size() + 1 < kTurns, "sampling: too many steps in flight", in_flight_.size());
  done_[turn_].record(stream);
  in_flight_.emplace_back(turn_, n_rows);
  turn_ = (turn_ + 1) % kTurns;
}

std::vector<int32_t> DeviceSampler::collect() {
  require(!in_flight_.empty(), "sampling: no step is in flight");
  const auto [turn, n_rows] = in_flight_.front();
  in_flight_.pop_front();
  done_[turn].synchronize();
  const int32_t* tokens = host_tokens_.data() + turn * static_cast<size_t>(max_rows_);
  return {tokens, tokens + n_rows};
}

}  // namespace tandem::cuda
