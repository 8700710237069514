#include "ops/cuda/products.h"

#include <algorithm>

#include "ops/core/check.h"
#include "ops/cuda/format_kernels.h"
#include "ops/cuda/gemm.h"
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

const float* scales_from(const CudaActivations& x, int64_t token) {
  return reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(x.scales()) +
                                        token * x.token_bytes());
}

/// The part's outputs of these tokens, as they are.
RawRows rows_of(const GemvOperand& part, Range tokens) {
  RawRows rows;
  rows.data = part.out + tokens.begin * part.out_stride;
  rows.stride = part.out_stride;
  rows.n_rows = part.weight->n_rows();
  rows.n_tokens = tokens.size();
  return rows;
}

/// The same, as sums that lack scales.
RawRows raw_rows(const GemvOperand& part, const CudaActivations& x, Range tokens) {
  RawRows rows = rows_of(part, tokens);
  if (x.form() == ActForm::f16) {
    rows.scales = scales_from(x, tokens.begin);
    rows.scale_stride = x.token_bytes();
    rows.power = 1.0F / half_weight_power(part.weight->type());
  }
  return rows;
}

}  // namespace

Products::Products(int64_t most_elements, bool deterministic)
    : deterministic_(deterministic), capacity_(capacity_for(most_elements)) {
  std::string why_not;
  gemm_ = Gemm::open();
  if (!deterministic) blas_ = Blas::open(why_not);
  if (gemm_ || blas_) unpacked_ = DeviceBuffer<std::byte>(capacity_);
}

size_t Products::bytes_of(int64_t most_elements, int n_multiprocessors) {
  return capacity_for(most_elements) + kBlasBytes + BatchScratch::bytes_on(n_multiprocessors);
}

size_t Products::bytes() const {
  return unpacked_.bytes() + batch_.bytes() + (blas_ ? blas_->workspace_bytes() : 0);
}

ActForm Products::form_of(const DeviceMatrix& matrix, int64_t n_tokens) const {
  const TensorType type = matrix.type();
  if (deterministic_) return has_batch_kernel(type) ? ActForm::f16 : matrix.form();
  const bool few = n_tokens <= matrix.roads().gemv;
  const bool unpacks = has_unpacked(type) && !few;
  if (is_float(type)) return unpacks && unpacked_bytes(type) == 2 ? ActForm::f16 : ActForm::f32;
  if (has_batch_kernel(type)) return few ? matrix.form() : ActForm::f16;
  return unpacks ? ActForm::f16 : matrix.form();
}

Road Products::road_of(std::span<const GemvOperand> parts, ActForm form, int64_t n_tokens,
                       bool prompt) const {
  if (deterministic_) {
    if (form != ActForm::f16) return Road::gemv;
    return prompt && gemm_ ? Road::unpacked : Road::batch;
  }
  const Roads& roads = parts[0].weight->roads();
  if (form == ActForm::f32) return blas_ && n_tokens > roads.gemv ? Road::unpacked : Road::gemv;
  if (form != ActForm::f16) return Road::gemv;
  const bool batch = std::all_of(parts.begin(), parts.end(), [](const GemvOperand& part) {
    return has_batch_kernel(part.weight->type());
  });
  const bool unpacks = has_unpacked(parts[0].weight->type());
  require(batch || unpacks, "products: no kernel for halves");
  return unpacks && (n_tokens > roads.batch || !batch) ? Road::unpacked : Road::batch;
}

Road Products::multiply(std::span<const GemvOperand> parts, const CudaActivations& x, int64_t n_tokens,
                        const GemvOptions& options, cudaStream_t stream, bool prompt) {
  require(!parts.empty(), "products: parts");
  const Road road = road_of(parts, x.form(), n_tokens, prompt);
  GemvOptions own = options;
  own.fixed = deterministic_;
  if (road == Road::gemv) gemv(parts, x, n_tokens, own, stream);
  if (road == Road::batch) multiply_batch(parts, x, n_tokens, own, stream);
  if (road == Road::unpacked) multiply_unpacked(parts, x, n_tokens, own, stream);
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

/// The part's rows `rows` by our own kernel, whose unpacked weights begin at `w`. raw: without scales and
/// biases.
GemmPart Products::gemm_part(const GemvOperand& part, const std::byte* w, Range rows, int64_t first_token,
                             bool raw) {
  GemmPart out;
  out.w = w;
  out.m = rows.size();
  out.out = part.out + first_token * part.out_stride + rows.begin;
  out.out_stride = part.out_stride;
  if (raw) return out;
  out.power = 1.0F / half_weight_power(part.weight->type());
  if (part.bias != nullptr) out.bias = part.bias + rows.begin;
  return out;
}

void Products::multiply_own(std::span<const GemmPart> parts, Epilogue gate, const CudaActivations& x,
                            Range tokens, bool raw, cudaStream_t stream) {
  GemmProduct product;
  product.parts = parts;
  product.x = x.data() + tokens.begin * x.token_bytes();
  product.n = tokens.size();
  product.k = segments_of(x.cols()).size() * kSegmentCols;
  product.x_stride = x.token_bytes() / 2;
  product.gate = gate;
  if (!raw) {
    product.scales = scales_from(x, tokens.begin);
    product.scale_stride = x.token_bytes();
  }
  gemm_->multiply(product, stream);
}

/// Some of the product's tokens with some of the part's rows by cuBLASLt.
void Products::multiply_blas(const GemvOperand& part, const std::byte* w, Range rows,
                             const CudaActivations& x, Range tokens, cudaStream_t stream) {
  const bool halves = x.form() == ActForm::f16;
  blas_->multiply({halves ? BlasType::halves : BlasType::floats, w, x.data() + tokens.begin * x.token_bytes(),
                   part.out + tokens.begin * part.out_stride + rows.begin, rows.size(), tokens.size(),
                   stored_cols(*part.weight), x.token_bytes() / (halves ? 2 : 4), part.out_stride},
                  stream);
}

/// Some rows at a time, where a matrix doesn't fit. raw: scales and biases are still to come.
void Products::multiply_panels(const GemvOperand& part, const CudaActivations& x, Range tokens, bool own,
                               bool raw, cudaStream_t stream) {
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
    if (own) {
      const GemmPart part_of_it = gemm_part(part, unpacked_.data(), rows, tokens.begin, raw);
      multiply_own({&part_of_it, 1}, Epilogue::none, x, tokens, raw, stream);
    } else {
      multiply_blas(part, unpacked_.data(), rows, x, tokens, stream);
    }
  }
}

bool Products::writes_records(std::span<const GemvOperand> parts, ActForm form, int64_t n_tokens,
                              const CudaActivations& out, bool prompt) const {
  const CudaMatrix& weight = *parts[0].weight;
  const Road road = road_of(parts, form, n_tokens, prompt);
  if (road == Road::unpacked) return writes_halves(weight.n_rows(), out);
  return road == Road::gemv && cuda::writes_records(weight.type(), weight.n_rows(), out);
}

void Products::multiply_unpacked(std::span<const GemvOperand> parts, const CudaActivations& x,
                                 int64_t n_tokens, const GemvOptions& options, cudaStream_t stream) {
  require(options.expert == nullptr && options.factor == nullptr && !options.accumulate &&
              options.peers.n_ranks == 0,
          "products: options that are not for unpacked weights");
  const Range tokens{options.first_token, options.first_token + n_tokens};
  std::vector<const CudaMatrix*> weights;
  std::vector<GemvOperand> full;
  for (const GemvOperand& part : parts) {
    require(part.weight->cols() == x.cols(), "products: columns", part.weight->n_cols());
    if (part.weight->n_rows() == 0) continue;
    full.push_back(part);
    weights.push_back(part.weight);
  }
  const bool gated = options.epilogue != Epilogue::none;
  require(!gated || full.size() == 2, "products: gate and up", full.size());
  const std::byte* w = unpack_all(weights, stream);
  const bool own = takes_own(full, x.form(), n_tokens, options);
  const bool raw = !own || (gated && w == nullptr);  // scales, biases and gates are still to come
  if (own && w != nullptr) {
    std::vector<GemmPart> own_parts;
    for (const GemvOperand& part : full) {
      own_parts.push_back(gemm_part(part, w, {0, part.weight->n_rows()}, tokens.begin, raw));
      w += unpacked_matrix_bytes(*part.weight);
    }
    multiply_own(own_parts, options.epilogue, x, tokens, raw, stream);
  } else {
    for (const GemvOperand& part : full) {
      if (w == nullptr) {
        multiply_panels(part, x, tokens, own, raw, stream);
        continue;
      }
      multiply_blas(part, w, {0, part.weight->n_rows()}, x, tokens, stream);
      w += unpacked_matrix_bytes(*part.weight);
    }
  }
  if (raw) {
    finish(full, x, tokens, options, stream);
  } else if (options.records != nullptr) {
    halve_rows(rows_of(full[0], tokens), *options.records, tokens.begin, options.not_finite, stream);
  }
}

/// Whether our own kernel takes a product with unpacked weights: where it alone may, or is faster. For q·k·v
/// it is launched once, cuBLASLt thrice.
bool Products::takes_own(std::span<const GemvOperand> parts, ActForm form, int64_t n_tokens,
                         const GemvOptions& options) const {
  if (!gemm_ || form != ActForm::f16 || options.by_blas) return false;
  if (!blas_) return true;
  int64_t n_rows = 0;
  for (const GemvOperand& part : parts) n_rows += part.weight->n_rows();
  return options.epilogue == Epilogue::none && (parts.size() > 1 || gemm_->fills(n_rows, n_tokens));
}

/// Scales, biases and gates of sums that lack them.
void Products::finish(std::span<const GemvOperand> parts, const CudaActivations& x, Range tokens,
                      const GemvOptions& options, cudaStream_t stream) {
  if (options.epilogue == Epilogue::none) {
    for (const GemvOperand& part : parts) {
      if (x.form() == ActForm::f16 || part.bias != nullptr)
        finish_rows(raw_rows(part, x, tokens), part.bias, stream);
    }
    return;
  }
  const RawRows gate = raw_rows(parts[0], x, tokens);
  const RawRows up = raw_rows(parts[1], x, tokens);
  if (options.records != nullptr) {
    gate_halves(options.epilogue, gate, up, *options.records, tokens.begin, options.not_finite, stream);
  } else {
    gate_rows(options.epilogue, gate, up, stream);
  }
}

/// Adds the matrices that n_tokens are multiplied with as halves once they are unpacked. False where others
/// are among them.
bool Products::add_unpacked(std::span<const Matrix* const> weights, int64_t n_tokens, bool prompt,
                            std::vector<const CudaMatrix*>& to) const {
  for (const Matrix* weight : weights) {
    const DeviceMatrix& matrix = on_device(*weight);
    if (matrix.n_rows() == 0) continue;
    const ActForm form = form_of(matrix, n_tokens);
    const GemvOperand part{&matrix};
    if (form != ActForm::f16 || road_of({&part, 1}, form, n_tokens, prompt) != Road::unpacked) return false;
    to.push_back(&matrix);
  }
  return true;
}

void Products::prepare(std::span<const Matrix* const> weights, std::span<const Matrix* const> later,
                       int64_t n_tokens, cudaStream_t stream, bool prompt) {
  std::vector<const CudaMatrix*> full;
  if (!add_unpacked(weights, n_tokens, prompt, full) || full.empty()) return;
  std::vector<const CudaMatrix*> both = full;
  const bool more = add_unpacked(later, n_tokens, prompt, both) && fit(both);
  unpack_all(more ? both : full, stream);
}

}  // namespace tandem::cuda
