// Owners of CUDA's objects: device memory, streams, events. Move-only; each is freed by its owner alone.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

#include "ops/cuda/status.h"

namespace tandem::cuda {

/// Where a Buffer's memory comes from: the device …
struct DeviceMemory {
  static cudaError_t take(void** data, size_t n_bytes) { return cudaMalloc(data, n_bytes); }
  static void give_back(void* data) { cudaFree(data); }
};
/// … or the host, page-locked, where kernels see it at the same address.
struct PinnedMemory {
  static cudaError_t take(void** data, size_t n_bytes) {
    return cudaHostAlloc(data, n_bytes, cudaHostAllocMapped);
  }
  static void give_back(void* data) { cudaFreeHost(data); }
};

/// Memory of n elements, not initialised.
template <class T, class Memory>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t n) : size_(n) {
    if (n != 0) check(Memory::take(reinterpret_cast<void**>(&data_), n * sizeof(T)));
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) Memory::give_back(data_);
  }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

template <class T>
using DeviceBuffer = Buffer<T, DeviceMemory>;
template <class T>
using PinnedBuffer = Buffer<T, PinnedMemory>;

class Stream {
 public:
  /// high: its kernels' blocks go first where a multiprocessor has room.
  enum class Priority { normal, high };
  explicit Stream(Priority priority = Priority::normal) {
    int lowest = 0;
    int highest = 0;
    check(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                       priority == Priority::high ? highest : lowest));
  }
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~Stream() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  cudaStream_t get() const { return stream_; }
  void synchronize() const { check(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { check(cudaEventCreate(&event_)); }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }

  cudaEvent_t get() const { return event_; }
  void record(const Stream& stream) const { record(stream.get()); }
  void record(cudaStream_t stream) const { check(cudaEventRecord(event_, stream)); }
  /// Until what was recorded has been reached; at once where nothing was.
  void synchronize() const { check(cudaEventSynchronize(event_)); }
  /// Between two recorded events, the later one reached.
  static float elapsed_us(const Event& begin, const Event& end) {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin.event_, end.event_));
    return ms * 1000.0F;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace tandem::cuda
