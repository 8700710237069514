#include "ops/cuda/activations.h"

#include "ops/cuda/dependent_launch.cuh"
#include "ops/cuda/launch.h"
#include "ops/cuda/quantize_device.cuh"

namespace tandem::cuda {
namespace {

constexpr int kWarps = 8;

struct FillArgs {
  const float* x;  ///< (n_tokens, x_stride)
  int64_t x_stride;
  std::byte* out;  ///< (n_tokens, token_bytes)
  int64_t token_bytes;
  int64_t n_tokens;
  int64_t n_cols;
  int64_t n_segments;
  int64_t lead;  ///< columns of the first segment that the shard doesn't own
  uint32_t* not_finite;
};

/// Column c of a segment; zero outside the shard.
__device__ float value_at(const FillArgs& args, int64_t token, int64_t segment, int c) {
  const int64_t col = segment * kSegmentCols + c - args.lead;
  return col >= 0 && col < args.n_cols ? args.x[token * args.x_stride + col] : 0.0F;
}

/// Thread map: a warp a (token, segment); a lane 8 columns. Reads 1 KB, writes a record.
template <ActForm kForm>
__global__ void fill_kernel(const __grid_constant__ FillArgs args) {
  device::let_next_start();
  device::wait_for_inputs();
  const int64_t item = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (item >= args.n_tokens * args.n_segments) return;
  const int64_t token = item / args.n_segments;
  const int64_t segment = item % args.n_segments;
  float x[8];
  bool finite = true;
  for (int i = 0; i < 8; ++i) {
    x[i] = value_at(args, token, segment, 8 * lane + i);
    finite &= fabsf(x[i]) < INFINITY;
  }
  if (!finite && args.not_finite != nullptr) *args.not_finite = 1;
  std::byte* record = args.out + token * args.token_bytes + segment * device::record_bytes_of<kForm>();
  device::store_record<kForm>(x, record, lane);
}

int64_t record_bytes_of(ActForm form) {
  if (form == ActForm::f32) return ActLayout::kF32Bytes;
  return form == ActForm::q8 ? ActLayout::kQ8Bytes : ActLayout::kQ15Bytes;
}

}  // namespace

CudaActivations::CudaActivations(int64_t max_tokens, Range cols, ActForm form)
    : max_tokens_(max_tokens),
      cols_(cols),
      form_(form),
      token_bytes_(segments_of(cols).size() * record_bytes_of(form)) {
  require(max_tokens >= 0 && cols.begin >= 0, "cuda activations: shape", max_tokens, cols.begin, cols.end);
  data_ = DeviceBuffer<std::byte>(static_cast<size_t>(max_tokens * token_bytes_));
  if (data_.size() == 0) return;
  check(cudaMemset(data_.data(), 0, data_.bytes()));
  check(cudaStreamSynchronize(nullptr));  // streams of ours don't wait for it
}

void CudaActivations::fill(const float* x, int64_t x_stride, int64_t n_tokens, uint32_t* not_finite,
                           cudaStream_t stream, bool early) {
  require(n_tokens >= 0 && n_tokens <= max_tokens_, "cuda activations: tokens", n_tokens, max_tokens_);
  FillArgs args{x,
                x_stride,
                data_.data(),
                token_bytes_,
                n_tokens,
                cols_.size(),
                segments_of(cols_).size(),
                cols_.begin % kSegmentCols,
                not_finite};
  const int64_t n = args.n_tokens * args.n_segments;
  if (n == 0) return;
  const void* kernel = form_ == ActForm::f32  ? reinterpret_cast<const void*>(fill_kernel<ActForm::f32>)
                       : form_ == ActForm::q8 ? reinterpret_cast<const void*>(fill_kernel<ActForm::q8>)
                                              : reinterpret_cast<const void*>(fill_kernel<ActForm::q15>);
  launch(kernel, {ceil_div(n, kWarps), kWarps * 32, 0, early}, &args, stream);
}

}  // namespace tandem::cuda
