// How the CUDA backend's partial rows reach the other ranks, and the norm behind them.
#include <algorithm>

#include "ops/cuda/cuda_backend.h"

namespace tandem::cuda {
namespace {

constexpr int64_t kGrain = 64;  ///< tokens, of the matrix kernels

}  // namespace

PeerWindows CudaBackend::peer_windows(uint32_t number) const {
  PeerWindows peers;
  const auto windows = collective_->windows();
  std::copy(windows.begin(), windows.end(), peers.windows);
  peers.n_ranks = static_cast<int32_t>(windows.size());
  peers.rank = options_.rank;
  peers.slot_bytes = exchange_slot_bytes(shape_.n_embd);
  peers.number_base = step_->number_base();
  peers.number = number;
  return peers;
}

void CudaBackend::partial_product(const Matrix& weight, ActivationSet& x) {
  const DeviceMatrix& matrix = on_device(weight);
  const GemvOperand part{&matrix, nullptr, partial_.data(), shape_.n_embd, nullptr};
  await_sent();
  GemvOptions options{Epilogue::none, early()};
  if (exchanges_bulk()) {
    partial_pieces(part, x);
    return;
  }
  if (matrix.empty()) {
    clear_partial();
    return;
  }
  const CudaActivations& input = input_of(x, matrix);
  if (collective_ && !collective_->windows().empty() && n_tokens_ <= kSendTokens &&
      products_->road_of({&part, 1}, input.form(), n_tokens_) == Road::gemv) {
    options.peers = peer_windows(n_exchanges_);
    sent_ = true;
  }
  multiply({&part, 1}, input, {0, n_tokens_}, options);
}

bool CudaBackend::exchanges_bulk() const {
  return collective_ && n_tokens_ > kExchangeTokens;
}

/// Whoever writes partial rows is behind the copies of the last ones.
void CudaBackend::await_sent() {
  if (!std::exchange(sending_, false)) return;
  check(cudaStreamWaitEvent(stream_.get(), sent_rows_.get()));
  follows_kernel_ = false;
}

/// Tokens of a copy, behind which the other rank may add them: the smaller, the less is left to do when the
/// last one arrives; each costs the link the time of about a megabyte.
int64_t CudaBackend::copied_tokens() const {
  constexpr int64_t kFloats = int64_t{1} << 20;
  return round_up(ceil_div(kFloats, shape_.n_embd), kGrain);
}

void CudaBackend::send_copies(Range tokens) {
  const int64_t step = copied_tokens();
  if (tokens.begin == 0) copies_.begin(collective_->windows());
  for (int64_t t = tokens.begin; t < tokens.end; t += step) {
    const Range floats{t * shape_.n_embd, std::min(tokens.end, t + step) * shape_.n_embd};
    copies_.send(partial_.data(), floats, exchange_stream_.get());
  }
  sent_rows_.record(exchange_stream_);
  sending_ = true;
}

/// The exchange of these tokens' partial rows, as soon as the piece is ready.
void CudaBackend::start_exchange(Range tokens, size_t piece) {
  check(cudaStreamWaitEvent(exchange_stream_.get(), pieces_[piece].ready.get()));
  pieces_[piece].tokens = tokens;
  n_pieces_ = piece + 1;
  if (copies_bulk()) {
    send_copies(tokens);
    return;
  }
  collective_->all_reduce(partial_.data() + tokens.begin * shape_.n_embd, tokens.size() * shape_.n_embd,
                          exchange_stream_.get());
  pieces_[piece].done.record(exchange_stream_);
}

/// Tokens that are multiplied at once; of those that are copied, a multiple. Copies cost no multiprocessors,
/// and most of an exchange's time goes by beside the unpacking of the next weights, so a product with
/// unpacked weights is not cut into less than a wave of tiles (of 128 x 256 on the 132 multiprocessors of a
/// Hopper GPU): half a wave takes as long as a whole one. Where nothing is unpacked the product takes its
/// tokens some at a time anyhow, and its own end is all that an exchange can go by beside: it is cut as
/// copies are. An all-reduce of kernels takes longer than the unpacking and is worth two pieces sooner.
int64_t CudaBackend::piece_tokens(const GemvOperand& part, ActForm form) const {
  constexpr int64_t kWaveFloats = int64_t{1} << 22;  // that a wave of tiles makes
  constexpr int64_t kLeastTokens = 256;              // that are worth cutting for an all-reduce
  if (!cut_for_copies()) return round_up(ceil_div(n_tokens_, n_tokens_ < kLeastTokens ? 1 : 2), kGrain);
  const bool waves = products_->road_of({&part, 1}, form, n_tokens_, has_prompts()) == Road::unpacked;
  const int64_t step = copied_tokens();
  const int64_t n = std::max<int64_t>(1, waves ? n_tokens_ * shape_.n_embd / kWaveFloats : kMostPieces);
  return round_up(ceil_div(n_tokens_, std::min(n, int64_t{kMostPieces})), step);
}

/// The product in pieces, so that the first ones' sums travel while the next are multiplied. For an
/// all-reduce every rank cuts alike, also one that has nothing to multiply.
void CudaBackend::partial_pieces(const GemvOperand& part, ActivationSet& x) {
  const DeviceMatrix& matrix = on_device(*part.weight);
  const int64_t step = piece_tokens(part, products_->form_of(matrix, n_tokens_));
  if (matrix.empty()) clear_partial();
  const auto n = static_cast<size_t>(ceil_div(n_tokens_, step));
  const auto tokens = [&](size_t i) {
    const int64_t begin = static_cast<int64_t>(i) * step;
    return Range{begin, std::min(n_tokens_, begin + step)};
  };
  for (size_t i = 0; i < n; ++i) {
    if (!matrix.empty()) multiply({&part, 1}, input_of(x, matrix), tokens(i), {Epilogue::none, false});
    pieces_[i].ready.record(stream_);
  }
  for (size_t i = 0; i < n; ++i) start_exchange(tokens(i), i);
}

/// Both ranks' rows, each as soon as its piece is there. Where ranks share a device nothing may take all
/// multiprocessors while it waits: copies within a device may need some.
void CudaBackend::add_copies(AddNorm& what) {
  what.slots[options_.rank] = partial_.data();
  what.slots[1 - options_.rank] = copies_.theirs();
  what.n_slots = 2;
  if (options_.shared) {
    copies_.await(stream_.get());
  } else {
    what.arrivals = copies_.arrivals(copied_tokens());
  }
}

/// add_norm() behind the bulk exchange; the next product's weights are unpacked while it is awaited.
void CudaBackend::reduce_bulk(AddNorm what, Readers next, Readers later) {
  if (n_pieces_ == 0) {
    pieces_[0].ready.record(stream_);
    start_exchange({0, n_tokens_}, 0);
  }
  products_->prepare(next, later, n_tokens_, stream_.get(), has_prompts());
  what.slots[0] = partial_.data();
  what.n_slots = 1;
  if (copies_bulk()) {
    add_copies(what);
    add_norm(what, n_tokens_, false, stream_.get());
    n_pieces_ = 0;
  }
  for (size_t i = 0; i < n_pieces_; ++i) {
    check(cudaStreamWaitEvent(stream_.get(), pieces_[i].done.get()));
    what.first_token = pieces_[i].tokens.begin;
    add_norm(what, pieces_[i].tokens.size(), false, stream_.get());
  }
  n_pieces_ = 0;
  follows_kernel_ = true;
}

void CudaBackend::reduce_add_norm(const NormSpec& norm) {
  AddNorm what;
  what.n_cols = shape_.n_embd;
  what.post_weight = on_device(norm.post);
  what.residual = residual_.data();
  what.weight = on_device(norm.next);
  what.eps = norm.eps;
  what.not_finite = not_finite_.data();
  int n_outputs = 0;
  for (const Matrix* reader : norm.readers) {
    if (reader->n_rows() == 0) continue;
    CudaActivations* out =
        &normed_.get(products_->form_of(on_device(*reader), n_tokens_), {0, shape_.n_embd});
    if (std::find(what.out, what.out + n_outputs, out) != what.out + n_outputs) continue;
    require(n_outputs < kMaxNormOutputs, "norm: too many forms");
    what.out[n_outputs++] = out;
  }
  if (exchanges_bulk()) {
    reduce_bulk(what, norm.readers, norm.later);
    return;
  }
  if (collective_ && !collective_->windows().empty()) {
    if (!sent_) what.partial = partial_.data();
    what.peers = peer_windows(n_exchanges_++);
    add_norm(what, n_tokens_, early(), stream_.get());
    sent_ = false;
    return;
  }
  if (collective_) {
    collective_->all_reduce(partial_.data(), n_tokens_ * shape_.n_embd, stream_.get());
    follows_kernel_ = false;
  }
  what.slots[0] = partial_.data();
  what.n_slots = 1;
  add_norm(what, n_tokens_, early(), stream_.get());
}

}  // namespace tandem::cuda
