// One step's variables on the device, and the host memory that they are copied from: what changes from step
// to step while kernels and their arguments stay (step.h). Filled by the backend before each step.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "ops/cpu/rope.h"
#include "ops/cuda/memory.h"
#include "ops/cuda/step.h"
#include "ops/verbs.h"

namespace tandem::cuda {

class StepBuffer {
 public:
  /// pages_stride: most pages of a sequence. ropes: at most kMaxRopes; they outlive this.
  StepBuffer(int64_t max_tokens, int64_t max_sequences, int64_t pages_stride, std::span<RopeRows> ropes);

  bool holds(const StepBatch& batch) const;
  /// Copies the step to the device in order with `stream`: what it uses of the buffer, since the device has
  /// nothing else to do meanwhile. `number`: of its first exchange (peer_windows.h). `host_offset`: where
  /// what it chooses goes (sampling.h).
  void upload(const StepBatch& batch, uint32_t number, uint32_t host_offset, cudaStream_t stream);

  const StepView& view() const { return view_; }
  const uint32_t* number_base() const { return reinterpret_cast<const uint32_t*>(device_.data()); }
  const uint32_t* host_offset() const { return number_base() + 1; }
  size_t bytes() const { return device_.bytes(); }

 private:
  /// Where the host writes a step, while those before it may still wait for the device to read them.
  struct Staging {
    PinnedBuffer<std::byte> bytes;
    Event copied;
  };
  static constexpr size_t kTurns = 3;

  template <class T>
  T* host_at(const T* device) {
    return reinterpret_cast<T*>(host() + (reinterpret_cast<const std::byte*>(device) - device_.data()));
  }
  std::byte* host() const { return staging_[turn_].bytes.data(); }
  void fill_slots(const StepBatch& batch);
  void fill_sequences(const StepBatch& batch);
  void fill_ropes();
  void copy(const StepBatch& batch, cudaStream_t stream);

  int64_t max_tokens_;
  int64_t max_sequences_;
  int64_t small_bytes_ = 0;  // of what lies before the rotations
  std::span<RopeRows> ropes_;
  std::vector<int32_t> positions_;
  DeviceBuffer<std::byte> device_;
  std::array<Staging, kTurns> staging_;
  size_t turn_ = 0;
  StepView view_;
};

}  // namespace tandem::cuda
