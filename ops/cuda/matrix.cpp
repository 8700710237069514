#include "ops/cuda/matrix.h"

#include "ops/cuda/batch.h"
#include "ops/cuda/format_kernels.h"
#include "ops/cuda/workspace.h"
#include "ops/quant/formats.h"

namespace tandem::cuda {
namespace {

FormatKernels kernels_of(TensorType type) {
  FormatKernels kernels;
  with_format(type, [&]<class F>(F) { kernels = format_kernels<F>(); });
  return kernels;
}

}  // namespace

CudaMatrix::CudaMatrix(TensorType type, int64_t n_rows, Range cols)
    : type_(type), n_rows_(n_rows), cols_(cols), roads_(built_in_roads(type, batch_code(type))) {
  require(n_rows >= 0 && cols.begin >= 0 && cols.end >= cols.begin, "cuda matrix: shape", n_rows, cols.begin,
          cols.end);
  const bool floats = type_info(type).block_elements == 1;
  require(floats || (cols.begin % kGroup == 0 && cols.end % kGroup == 0),
          "cuda matrix: columns not in groups of 32", cols.begin, cols.end);
  if (empty()) return;
  tiles_ = DeviceBuffer<std::byte>(matrix_bytes_of(type, n_rows, cols));
  check(cudaMemset(tiles_.data(), 0, tiles_.bytes()));
}

int64_t CudaMatrix::n_segments() const {
  return segments_of(cols_).size();
}

void CudaMatrix::put_rows(int64_t row_begin, int64_t n_rows, const std::byte* rows, size_t row_stride) {
  if (empty() || n_rows == 0) return;
  DeviceBuffer<std::byte> staging(static_cast<size_t>(n_rows) * row_stride);
  check(cudaStreamSynchronize(
      nullptr));  // the zeros of a matrix that was just made, which no stream of ours waits for
  const Stream stream;
  check(cudaMemcpyAsync(staging.data(), rows, staging.bytes(), cudaMemcpyHostToDevice, stream.get()));
  put_device_rows(row_begin, n_rows, staging.data(), row_stride, stream.get());
  stream.synchronize();
}

void CudaMatrix::put_device_rows(int64_t row_begin, int64_t n_rows, const std::byte* rows, size_t row_stride,
                                 cudaStream_t stream) {
  require(row_begin >= 0 && n_rows >= 0 && row_begin + n_rows <= n_rows_, "put_rows: range", row_begin,
          n_rows);
  require(row_stride % 2 == 0 && reinterpret_cast<uintptr_t>(rows) % 2 == 0, "put_rows: alignment",
          row_stride);
  if (empty() || n_rows == 0) return;
  kernels_of(type_).pack({rows, static_cast<int64_t>(row_stride), row_begin, n_rows, cols_, tiles_.data()},
                         stream);
}

void CudaMatrix::embed(Range ids, const int32_t* tokens, int64_t n_tokens, float scale, float* out,
                       float* residual, cudaStream_t stream) const {
  require(ids.size() == n_rows_ && cols_.begin == 0, "embed: shape of the table", n_rows_);
  EmbedArgs args;
  args.tiles = tiles_.data();
  args.n_segments = n_segments();
  args.n_cols = n_cols();
  args.rows = ids;
  args.tokens = tokens;
  args.n_tokens = n_tokens;
  args.scale = scale;
  args.out = out;
  args.residual = residual;
  kernels_of(type_).embed(args, stream);
}

}  // namespace tandem::cuda
