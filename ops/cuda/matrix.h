// A shard of a weight matrix in device memory, laid out in tiles (tile_layout.h). Filled at load from rows as
// the file stores them; read by ops/cuda/gemv.
#pragma once

#include "ops/cuda/memory.h"
#include "ops/cuda/roads.h"
#include "ops/verbs.h"

namespace tandem::cuda {

/// All local rows and the columns `cols` of a stored matrix. For quantised formats `cols` begins and ends at
/// multiples of 32 (or at the row's end); it may begin inside a 256-element super-block. What is never put is
/// zero.
class CudaMatrix : public Matrix {
 public:
  CudaMatrix(TensorType type, int64_t n_rows, Range cols);

  TensorType type() const override { return type_; }
  int64_t n_rows() const override { return n_rows_; }
  int64_t n_cols() const override { return cols_.size(); }
  Range cols() const { return cols_; }
  /// Device memory that the matrix takes.
  size_t bytes() const override { return tiles_.bytes(); }
  int64_t n_segments() const;
  bool empty() const { return n_rows_ == 0 || cols_.empty(); }

  /// By which kernels it is multiplied; the built-in ones until others are set.
  const Roads& roads() const { return roads_; }
  void set_roads(const Roads& roads) { roads_ = roads; }

  /// As Matrix::put_rows: from host memory; returns when the rows may be overwritten.
  void put_rows(int64_t row_begin, int64_t n_rows, const std::byte* rows, size_t row_stride) override;
  /// The same from device memory (rows at an even address), in order with `stream`.
  void put_device_rows(int64_t row_begin, int64_t n_rows, const std::byte* rows, size_t row_stride,
                       cudaStream_t stream);

  /// The rows of a table (its rows are the ids `ids`) that `tokens` name, as EmbedArgs says.
  void embed(Range ids, const int32_t* tokens, int64_t n_tokens, float scale, float* out, float* residual,
             cudaStream_t stream) const;

  const std::byte* tiles() const { return tiles_.data(); }  // (tiles, n_segments, unit bytes)

 private:
  TensorType type_;
  int64_t n_rows_;
  Range cols_;
  Roads roads_;
  DeviceBuffer<std::byte> tiles_;
};

}  // namespace tandem::cuda
