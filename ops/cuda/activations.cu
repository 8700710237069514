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
  const int lane = static_cast<int>(threadIdx.x % 32);
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

/// Thread map: a block a token, twice over its row: for its largest magnitude, then for its halves (from the
/// caches). A lane 8 columns of a segment at a time.
__global__ void __launch_bounds__(kWarps * 32) fill_half_kernel(const __grid_constant__ FillArgs args) {
  __shared__ float largest[kWarps];
  device::let_next_start();
  device::wait_for_inputs();
  const int64_t token = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const float* row = args.x + token * args.x_stride;
  float amax = 0;
  bool finite = true;
  for (int64_t c = threadIdx.x; c < args.n_cols; c += kWarps * 32) {
    finite &= fabsf(row[c]) < INFINITY;
    amax = fmaxf(amax, fabsf(row[c]));
  }
  if (!finite && args.not_finite != nullptr) *args.not_finite = 1;
  const device::HalfScale scale = device::block_half_scale(amax, largest);
  std::byte* out = args.out + token * args.token_bytes;
  for (int64_t segment = warp; segment < args.n_segments; segment += kWarps) {
    float x[8];
    for (int i = 0; i < 8; ++i) x[i] = value_at(args, token, segment, 8 * lane + i);
    device::store_halves(x, scale.inverse, out + segment * ActLayout::kF16Bytes, lane);
  }
  if (threadIdx.x == 0) *reinterpret_cast<float*>(out + args.n_segments * ActLayout::kF16Bytes) = scale.scale;
}

int64_t record_bytes_of(ActForm form) {
  switch (form) {
    case ActForm::f32:
      return ActLayout::kF32Bytes;
    case ActForm::q8:
      return ActLayout::kQ8Bytes;
    case ActForm::q15:
      return ActLayout::kQ15Bytes;
    case ActForm::f16:
      break;
  }
  return ActLayout::kF16Bytes;
}

}  // namespace

CudaActivations::CudaActivations(int64_t max_tokens, Range cols, ActForm form)
    : max_tokens_(max_tokens),
      cols_(cols),
      form_(form),
      token_bytes_(segments_of(cols).size() * record_bytes_of(form) +
                   (form == ActForm::f16 ? ActLayout::kTailBytes : 0)) {
  require(max_tokens >= 0 && cols.begin >= 0, "cuda activations: shape", max_tokens, cols.begin, cols.end);
  data_ = DeviceBuffer<std::byte>(static_cast<size_t>(max_tokens * token_bytes_));
  if (data_.size() == 0) return;
  check(cudaMemset(data_.data(), 0, data_.bytes()));
  check(cudaStreamSynchronize(nullptr));  // streams of ours don't wait for it
}

const float* CudaActivations::scales() const {
  require(form_ == ActForm::f16, "activations without a scale a token", static_cast<int>(form_));
  return reinterpret_cast<const float*>(data_.data() + segments_of(cols_).size() * ActLayout::kF16Bytes);
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
  if (form_ == ActForm::f16) {
    launch(reinterpret_cast<const void*>(fill_half_kernel), {n_tokens, kWarps * 32, 0, early}, &args, stream);
    return;
  }
  const void* kernel = form_ == ActForm::f32  ? reinterpret_cast<const void*>(fill_kernel<ActForm::f32>)
                       : form_ == ActForm::q8 ? reinterpret_cast<const void*>(fill_kernel<ActForm::q8>)
                                              : reinterpret_cast<const void*>(fill_kernel<ActForm::q15>);
  launch(kernel, {ceil_div(n, kWarps), kWarps * 32, 0, early}, &args, stream);
}

}  // namespace tandem::cuda
