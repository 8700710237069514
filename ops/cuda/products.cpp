#include "ops/cuda/products.h"

#include <algorithm>

#include "ops/core/check.h"
#include "ops/cuda/format_kernels.h"
#include "ops/cuda/rows.h"
#include "ops/quant/formats.h"

namespace tandem::cuda {
namespace {

constexpr size_t kMostUnpacked = size_t{512} << 20;
constexpr size_t kBlasBytes = size_t{32} << 20;

bool is_float(TensorType type) {
  return type_info(type).block_elements == 1;
}

int64_t stored_cols(const CudaMatrix& weight) {
  return weight.n_segments() * kSegmentCols;
}
size_t unpacked_row_bytes(const CudaMatrix& weight) {
  return static_cast<size_t>(stored_cols(weight)) * static_cast<size_t>(unpacked_bytes(weight.type()));
}
/// Whole tiles.
size_t unpacked_matrix_bytes(const CudaMatrix& weight) {
  return static_cast<size_t>(round_up(weight.n_rows(), kTileRows)) * unpacked_row_bytes(weight);
}

size_t capacity_for(int64_t most_elements) {
  return std::min(kMostUnpacked, static_cast<size_t>(most_elements) * 2);
}

void unpack_tiles(const CudaMatrix& weight, Range tiles, std::byte* to, cudaStream_t stream) {
  with_format(weight.type(), [&]<class F>(F) {
    const FormatKernels kernels = format_kernels<F>();
    kernels.unpack({weight.tiles() + tiles.begin * weight.n_segments() * kernels.unit_bytes, tiles.size(),
                    weight.n_segments(), to},
                   stream);
  });
}

/// Of the tokens from `first` on.
RawRows raw_rows(const GemvOperand& part, const CudaActivations& x, Range tokens) {
  RawRows rows;
  rows.data = part.out + tokens.begin * part.out_stride;
  rows.stride = part.out_stride;
  rows.n_rows = part.weight->n_rows();
  rows.n_tokens = tokens.size();
  if (x.form() == ActForm::f16) {
    rows.scales = reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(x.scales()) +
                                                 tokens.begin * x.token_bytes());
    rows.scale_stride = x.token_bytes();
    rows.power = 1.0F / half_weight_power(part.weight->type());
  }
  return rows;
}

}  // namespace

Products::Products(int64_t most_elements, bool deterministic)
    : deterministic_(deterministic), capacity_(capacity_for(most_elements)) {
  std::string why_not;
  if (!deterministic) blas_ = Blas::open(why_not);
  if (blas_) unpacked_ = DeviceBuffer<std::byte>(capacity_);
}

size_t Products::bytes_of(int64_t most_elements, int n_multiprocessors) {
  return capacity_for(most_elements) + kBlasBytes + BatchScratch::bytes_on(n_multiprocessors);
}

size_t Products::bytes() const {
  return unpacked_.bytes() + batch_.bytes() + (blas_ ? blas_->workspace_bytes() : 0);
}

ActForm Products::form_of(const DeviceMatrix& matrix, int64_t n_tokens) const {
  const TensorType type = matrix.type();
  const bool few = n_tokens <= matrix.roads().gemv;
  if (is_float(type)) return blas_ && !few && unpacked_bytes(type) == 2 ? ActForm::f16 : ActForm::f32;
  if (has_batch_kernel(type)) return few && !deterministic_ ? matrix.form() : ActForm::f16;
  return blas_ && !few ? ActForm::f16 : matrix.form();
}

Road Products::road_of(std::span<const GemvOperand> parts, ActForm form, int64_t n_tokens) const {
  const Roads& roads = parts[0].weight->roads();
  if (form == ActForm::f32) return blas_ && n_tokens > roads.gemv ? Road::blas : Road::gemv;
  if (form != ActForm::f16) return Road::gemv;
  const bool batch = std::all_of(parts.begin(), parts.end(), [](const GemvOperand& part) {
    return has_batch_kernel(part.weight->type());
  });
  require(batch || blas_, "products: no kernel for halves");
  return blas_ && (n_tokens > roads.batch || !batch) ? Road::blas : Road::batch;
}

Road Products::multiply(std::span<const GemvOperand> parts, const CudaActivations& x, int64_t n_tokens,
                        const GemvOptions& options, cudaStream_t stream) {
  require(!parts.empty(), "products: parts");
  const Road road = road_of(parts, x.form(), n_tokens);
  GemvOptions own = options;
  own.fixed = deterministic_;
  if (road == Road::gemv) gemv(parts, x, n_tokens, own, stream);
  if (road == Road::batch) multiply_batch(parts, x, n_tokens, own, stream);
  if (road == Road::blas) multiply_blas(parts, x, n_tokens, own, stream);
  return road;
}

void Products::multiply_batch(std::span<const GemvOperand> parts, const CudaActivations& x, int64_t n_tokens,
                              GemvOptions options, cudaStream_t stream) {
  const int64_t first = options.first_token;
  for (int64_t t = 0; t < n_tokens; t += kMaxBatchTokens) {
    options.first_token = first + t;
    batch_product(parts, x, std::min(kMaxBatchTokens, n_tokens - t), options, batch_, stream);
  }
}

bool Products::fit(std::span<const CudaMatrix* const> weights) const {
  size_t n_bytes = 0;
  for (const CudaMatrix* weight : weights) n_bytes += unpacked_matrix_bytes(*weight);
  return n_bytes <= capacity_;
}

/// Where the weights stand unpacked one behind another; null where they don't.
const std::byte* Products::standing(std::span<const CudaMatrix* const> weights) const {
  const std::byte* at = unpacked_.data();
  for (size_t i = 0; i + weights.size() <= ready_.size(); ++i) {
    if (std::equal(weights.begin(), weights.end(), ready_.begin() + static_cast<std::ptrdiff_t>(i)))
      return at;
    at += unpacked_matrix_bytes(*ready_[i]);
  }
  return nullptr;
}

/// Unpacks the weights one behind another, unless they stand there, and says where. Null where they don't
/// fit.
const std::byte* Products::unpack_all(std::span<const CudaMatrix* const> weights, cudaStream_t stream) {
  if (const std::byte* at = standing(weights); at != nullptr) return at;
  if (!fit(weights)) return nullptr;
  ready_.assign(weights.begin(), weights.end());
  std::byte* to = unpacked_.data();
  for (const CudaMatrix* weight : weights) {
    unpack_tiles(*weight, {0, ceil_div(weight->n_rows(), kTileRows)}, to, stream);
    to += unpacked_matrix_bytes(*weight);
  }
  return unpacked_.data();
}

namespace {

BlasProduct blas_product(const GemvOperand& part, const std::byte* w, Range rows, const CudaActivations& x,
                         Range tokens) {
  const bool halves = x.form() == ActForm::f16;
  BlasProduct product;
  product.type = halves ? BlasType::halves : BlasType::floats;
  product.w = w;
  product.x = x.data() + tokens.begin * x.token_bytes();
  product.out = part.out + tokens.begin * part.out_stride + rows.begin;
  product.m = rows.size();
  product.n = tokens.size();
  product.k = stored_cols(*part.weight);
  product.x_stride = x.token_bytes() / (halves ? 2 : 4);
  product.out_stride = part.out_stride;
  return product;
}

}  // namespace

/// Some rows at a time, where a matrix doesn't fit.
void Products::multiply_panels(const GemvOperand& part, const CudaActivations& x, Range tokens,
                               cudaStream_t stream) {
  ready_.clear();
  const CudaMatrix& weight = *part.weight;
  const size_t tile_bytes = unpacked_row_bytes(weight) * kTileRows;
  const auto panel = static_cast<int64_t>(capacity_ / tile_bytes);
  require(panel > 0, "products: a tile doesn't fit", tile_bytes, capacity_);
  const int64_t n_tiles = ceil_div(weight.n_rows(), kTileRows);
  for (int64_t tile = 0; tile < n_tiles; tile += panel) {
    const int64_t end = std::min(n_tiles, tile + panel);
    unpack_tiles(weight, {tile, end}, unpacked_.data(), stream);
    const Range rows{tile * kTileRows, std::min(weight.n_rows(), end * kTileRows)};
    blas_->multiply(blas_product(part, unpacked_.data(), rows, x, tokens), stream);
  }
}

bool Products::writes_records(std::span<const GemvOperand> parts, ActForm form, int64_t n_tokens,
                              const CudaActivations& out) const {
  const CudaMatrix& weight = *parts[0].weight;
  const Road road = road_of(parts, form, n_tokens);
  if (road == Road::blas) return writes_halves(weight.n_rows(), out);
  return road == Road::gemv && cuda::writes_records(weight.type(), weight.n_rows(), out);
}

void Products::multiply_blas(std::span<const GemvOperand> parts, const CudaActivations& x, int64_t n_tokens,
                             const GemvOptions& options, cudaStream_t stream) {
  require(options.expert == nullptr && options.factor == nullptr && !options.accumulate &&
              options.peers.n_ranks == 0,
          "products: options that are not for cuBLASLt");
  const Range tokens{options.first_token, options.first_token + n_tokens};
  std::vector<const CudaMatrix*> weights;
  std::vector<GemvOperand> full;
  for (const GemvOperand& part : parts) {
    require(part.weight->cols() == x.cols(), "products: columns", part.weight->n_cols());
    if (part.weight->n_rows() == 0) continue;
    full.push_back(part);
    weights.push_back(part.weight);
  }
  const std::byte* w = unpack_all(weights, stream);
  for (const GemvOperand& part : full) {
    if (w != nullptr) {
      blas_->multiply(blas_product(part, w, {0, part.weight->n_rows()}, x, tokens), stream);
      w += unpacked_matrix_bytes(*part.weight);
    } else {
      multiply_panels(part, x, tokens, stream);
    }
  }
  if (options.epilogue != Epilogue::none) {
    require(full.size() == 2, "products: gate and up", full.size());
    const RawRows gate = raw_rows(full[0], x, tokens);
    const RawRows up = raw_rows(full[1], x, tokens);
    if (options.records != nullptr) {
      gate_halves(options.epilogue, gate, up, *options.records, tokens.begin, options.not_finite, stream);
    } else {
      gate_rows(options.epilogue, gate, up, stream);
    }
    return;
  }
  for (const GemvOperand& part : full) {
    if (x.form() == ActForm::f16 || part.bias != nullptr)
      finish_rows(raw_rows(part, x, tokens), part.bias, stream);
  }
}

/// Adds the matrices that n_tokens are multiplied with by cuBLASLt as halves. False where others are among
/// them.
bool Products::add_unpacked(std::span<const Matrix* const> weights, int64_t n_tokens,
                            std::vector<const CudaMatrix*>& to) const {
  for (const Matrix* weight : weights) {
    const DeviceMatrix& matrix = on_device(*weight);
    if (matrix.n_rows() == 0) continue;
    const ActForm form = form_of(matrix, n_tokens);
    const GemvOperand part{&matrix};
    if (form != ActForm::f16 || road_of({&part, 1}, form, n_tokens) != Road::blas) return false;
    to.push_back(&matrix);
  }
  return true;
}

void Products::prepare(std::span<const Matrix* const> weights, std::span<const Matrix* const> later,
                       int64_t n_tokens, cudaStream_t stream) {
  std::vector<const CudaMatrix*> full;
  if (!add_unpacked(weights, n_tokens, full) || full.empty()) return;
  std::vector<const CudaMatrix*> both = full;
  const bool more = add_unpacked(later, n_tokens, both) && fit(both);
  unpack_all(more ? both : full, stream);
}

}  // namespace tandem::cuda
