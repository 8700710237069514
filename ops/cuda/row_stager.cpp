#include "ops/cuda/row_stager.h"

#include <algorithm>

namespace tandem::cuda {
namespace {

constexpr size_t kDeviceBytes = size_t{32} << 20;

}  // namespace

void RowStager::open(std::span<const std::span<std::byte>> buffers) {
  check(cudaDeviceSynchronize());  // matrices that were just made have been zeroed
  for (const std::span<std::byte> buffer : buffers) {
    if (buffer.empty()) continue;
    if (cudaHostRegister(buffer.data(), buffer.size(), cudaHostRegisterDefault) == cudaSuccess) {
      pinned_.push_back(buffer.data());
    } else {
      (void)cudaGetLastError();  // not the next call's error
    }
  }
}

void RowStager::put(CudaMatrix& matrix, int64_t row_begin, int64_t n_rows, const std::byte* rows,
                    size_t row_stride) {
  if (matrix.empty() || n_rows == 0) return;
  if (rows_.size() == 0) rows_ = DeviceBuffer<std::byte>(kDeviceBytes);
  const auto most = static_cast<int64_t>(rows_.size() / row_stride);
  require(most > 0, "row stager: a row is too long", row_stride);
  for (int64_t at = 0; at < n_rows; at += most) {
    const int64_t n = std::min(most, n_rows - at);
    check(cudaMemcpyAsync(rows_.data(), rows + static_cast<size_t>(at) * row_stride,
                          static_cast<size_t>(n) * row_stride, cudaMemcpyHostToDevice, stream_.get()));
    matrix.put_device_rows(row_begin + at, n, rows_.data(), row_stride, stream_.get());
  }
}

void RowStager::settle() {
  stream_.synchronize();
}

void RowStager::close() {
  cudaStreamSynchronize(stream_.get());
  for (std::byte* buffer : pinned_) cudaHostUnregister(buffer);
  pinned_.clear();
  rows_ = {};
}

}  // namespace tandem::cuda
