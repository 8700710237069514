// Brings rows of a stored matrix from host memory to the device, where they are packed into tiles. Rows come
// from memory that is pinned once for the whole load (open), so that copies run at the link's speed and
// beside the reading of the next batch.
#pragma once

#include <span>
#include <vector>

#include "ops/cuda/matrix.h"

namespace tandem::cuda {

class RowStager {
 public:
  RowStager() = default;
  RowStager(const RowStager&) = delete;
  RowStager& operator=(const RowStager&) = delete;
  ~RowStager() { close(); }

  /// Pins the buffers where the system lets it; copies from others are slower, not wrong.
  void open(std::span<const std::span<std::byte>> buffers);
  /// May return before the rows are taken: see settle(). Arguments as Matrix::put_rows.
  void put(CudaMatrix& matrix, int64_t row_begin, int64_t n_rows, const std::byte* rows, size_t row_stride);
  /// Returns when all rows have been taken.
  void settle();
  /// Settles, and gives back what open() and put() took.
  void close();

 private:
  Stream stream_;
  DeviceBuffer<std::byte> rows_;  // reused in the stream's order
  std::vector<std::byte*> pinned_;
};

}  // namespace tandem::cuda
