#include "ops/cuda/step_buffer.h"

#include <algorithm>
#include <cstring>

#include "ops/core/check.h"

namespace tandem::cuda {

StepBuffer::StepBuffer(int64_t max_tokens, int64_t max_sequences, int64_t pages_stride,
                       std::span<RopeRows> ropes)
    : max_tokens_(max_tokens), max_sequences_(max_sequences), ropes_(ropes) {
  require(ropes.size() <= kMaxRopes, "step buffer: ropes", ropes.size());
  constexpr int64_t kAlign = 64;
  int64_t n_bytes = kAlign;  // the exchanges' number, host_offset
  const auto reserve = [&](int64_t n, int64_t element_bytes) {
    const int64_t at = n_bytes;
    n_bytes = round_up(n_bytes + n * element_bytes, kAlign);
    return at;
  };
  const int64_t tokens = reserve(max_tokens, sizeof(int32_t));
  const int64_t positions = reserve(max_tokens, sizeof(int32_t));
  const int64_t sequences = reserve(max_tokens, sizeof(int32_t));
  const int64_t slot_of = reserve(max_sequences, sizeof(int32_t));
  const int64_t outputs = reserve(max_sequences, sizeof(int32_t));
  const int64_t output_slots = reserve(max_sequences, sizeof(int32_t));
  small_bytes_ = n_bytes;
  std::array<int64_t, kMaxRopes> rope_at{};
  for (size_t i = 0; i < ropes.size(); ++i) {
    const int64_t n_pairs = ropes[i].n_pairs();
    view_.n_rot[i] = static_cast<int32_t>(2 * n_pairs);
    rope_at[i] = reserve(max_tokens * n_pairs * 2, sizeof(float));
  }
  const int64_t pages = reserve(max_sequences * pages_stride, sizeof(int32_t));  // last: rarely all in use
  device_ = DeviceBuffer<std::byte>(static_cast<size_t>(n_bytes));
  for (Staging& staging : staging_) {
    staging.bytes = PinnedBuffer<std::byte>(static_cast<size_t>(n_bytes));
    std::memset(staging.bytes.data(), 0, staging.bytes.bytes());
  }
  check(cudaMemset(device_.data(), 0, device_.bytes()));  // page numbers that nobody has written name a page
  const auto at = [&]<class T>(T*& pointer, int64_t offset) {
    pointer = reinterpret_cast<T*>(device_.data() + offset);
  };
  at(view_.tokens, tokens);
  at(view_.positions, positions);
  at(view_.sequences, sequences);
  at(view_.slot_of, slot_of);
  at(view_.outputs, outputs);
  at(view_.output_slots, output_slots);
  at(view_.pages, pages);
  view_.pages_stride = pages_stride;
  for (size_t i = 0; i < ropes.size(); ++i) at(view_.rope[i], rope_at[i]);
}

bool StepBuffer::holds(const StepBatch& batch) const {
  return static_cast<int64_t>(batch.tokens.size()) <= max_tokens_ &&
         static_cast<int64_t>(batch.sequences.size()) <= max_sequences_;
}

void StepBuffer::fill_ropes() {
  for (size_t i = 0; i < ropes_.size(); ++i) {
    const int64_t n_floats = 2 * ropes_[i].n_pairs();
    if (n_floats == 0) continue;
    float* out = const_cast<float*>(host_at(view_.rope[i]));
    for (const int32_t position : positions_) out = std::copy_n(ropes_[i].row(position), n_floats, out);
  }
}

void StepBuffer::fill_slots(const StepBatch& batch) {
  require(batch.samples.size() <= batch.sequences.size(), "step buffer: samples", batch.samples.size());
  auto* slot_of = const_cast<int32_t*>(host_at(view_.slot_of));
  for (const StepSequence& sequence : batch.sequences) *slot_of++ = sequence.slot;
  auto* outputs = const_cast<int32_t*>(host_at(view_.outputs));
  auto* output_slots = const_cast<int32_t*>(host_at(view_.output_slots));
  for (const StepSample& sample : batch.samples) {
    *outputs++ = sample.token;
    *output_slots++ = sample.slot;
  }
}

void StepBuffer::fill_sequences(const StepBatch& batch) {
  positions_.clear();
  auto* sequences = const_cast<int32_t*>(host_at(view_.sequences));
  auto* pages = const_cast<int32_t*>(host_at(view_.pages));
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const StepSequence& sequence = batch.sequences[s];
    require(static_cast<int64_t>(sequence.pages.size()) <= view_.pages_stride, "step buffer: pages",
            sequence.pages.size());
    std::copy(sequence.pages.begin(), sequence.pages.end(),
              pages + static_cast<int64_t>(s) * view_.pages_stride);
    for (int64_t i = 0; i < sequence.n_tokens; ++i) {
      sequences[positions_.size()] = static_cast<int32_t>(s);
      positions_.push_back(sequence.first_position + static_cast<int32_t>(i));
    }
  }
  require(positions_.size() == batch.tokens.size(), "sequences do not cover the step's tokens",
          positions_.size());
  std::copy(positions_.begin(), positions_.end(), const_cast<int32_t*>(host_at(view_.positions)));
}

/// The small arrays whole, with the first rotations behind them; the other rotations; each sequence's pages.
void StepBuffer::copy(const StepBatch& batch, cudaStream_t stream) {
  const auto send = [&](const void* from, int64_t n_bytes) {
    const auto* first = static_cast<const std::byte*>(from);
    const auto offset = first - device_.data();
    check(cudaMemcpyAsync(device_.data() + offset, host() + offset, static_cast<size_t>(n_bytes),
                          cudaMemcpyHostToDevice, stream));
  };
  const auto rope_bytes = [&](size_t i) {
    return static_cast<int64_t>(batch.tokens.size()) * view_.n_rot[i] * static_cast<int64_t>(sizeof(float));
  };
  send(device_.data(), small_bytes_ + (ropes_.empty() ? 0 : rope_bytes(0)));
  for (size_t i = 1; i < ropes_.size(); ++i) {
    if (rope_bytes(i) > 0) send(view_.rope[i], rope_bytes(i));
  }
  size_t most_pages = 0;
  for (const StepSequence& sequence : batch.sequences)
    most_pages = std::max(most_pages, sequence.pages.size());
  const size_t pitch = static_cast<size_t>(view_.pages_stride) * sizeof(int32_t);
  check(cudaMemcpy2DAsync(const_cast<int32_t*>(view_.pages), pitch, host_at(view_.pages), pitch,
                          most_pages * sizeof(int32_t), batch.sequences.size(), cudaMemcpyHostToDevice,
                          stream));
}

void StepBuffer::upload(const StepBatch& batch, uint32_t number, uint32_t host_offset, cudaStream_t stream) {
  require(holds(batch), "step buffer: too small", batch.tokens.size(), batch.sequences.size());
  turn_ = (turn_ + 1) % kTurns;
  staging_[turn_].copied.synchronize();  // the step that was written here has been read
  std::memcpy(host(), &number, sizeof(number));
  std::memcpy(host() + sizeof(number), &host_offset, sizeof(host_offset));
  fill_slots(batch);
  std::copy(batch.tokens.begin(), batch.tokens.end(), const_cast<int32_t*>(host_at(view_.tokens)));
  fill_sequences(batch);
  fill_ropes();
  copy(batch, stream);
  staging_[turn_].copied.record(stream);
}

}  // namespace tandem::cuda
