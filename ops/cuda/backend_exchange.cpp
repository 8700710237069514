// How the CUDA backend's partial rows reach the other ranks, and the norm behind them.
#include <algorithm>

#include "ops/cuda/cuda_backend.h"

namespace tandem::cuda {

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
  step_roads_.add(products_->multiply({&part, 1}, input, n_tokens_, options, stream_.get()));
}

bool CudaBackend::exchanges_bulk() const {
  return collective_ && n_tokens_ > kExchangeTokens;
}

/// The exchange of these tokens' partial rows, as soon as the piece is ready.
void CudaBackend::start_exchange(Range tokens, size_t piece) {
  check(cudaStreamWaitEvent(exchange_stream_.get(), pieces_[piece].ready.get()));
  const Range floats{tokens.begin * shape_.n_embd, tokens.end * shape_.n_embd};
  if (copies_bulk()) {
    if (piece == 0) copies_.begin(collective_->windows());
    copies_.swap(partial_.data(), floats, exchange_stream_.get());
  } else {
    collective_->all_reduce(partial_.data() + floats.begin, floats.size(), exchange_stream_.get());
  }
  pieces_[piece].done.record(exchange_stream_);
  pieces_[piece].tokens = tokens;
  n_pieces_ = piece + 1;
}

/// Tokens that are multiplied and travel together. Copies cost no multiprocessors, and most of an exchange's
/// time goes by beside the unpacking of the next weights, so the product is not cut into less than a wave of
/// tiles (of 128 x 256 on the 132 multiprocessors of a Hopper GPU): half a wave takes as long as a whole one.
/// An all-reduce of kernels takes longer than the unpacking and is worth two pieces sooner.
int64_t CudaBackend::piece_tokens() const {
  constexpr int64_t kGrain = 64;                     // of the matrix kernels
  constexpr int64_t kWaveFloats = int64_t{1} << 22;  // that a wave of tiles makes
  constexpr int64_t kLeastTokens = 256;              // that are worth cutting for an all-reduce
  int64_t n = n_tokens_ < kLeastTokens ? 1 : 2;
  if (cut_for_copies())
    n = std::clamp<int64_t>(n_tokens_ * shape_.n_embd / kWaveFloats, 1, int64_t{kMostPieces});
  return round_up(ceil_div(n_tokens_, n), kGrain);
}

/// The product in pieces, so that the first ones' sums travel while the next are multiplied. Every rank cuts
/// alike, also one that has nothing to multiply.
void CudaBackend::partial_pieces(const GemvOperand& part, ActivationSet& x) {
  const int64_t step = piece_tokens();
  const DeviceMatrix& matrix = on_device(*part.weight);
  if (matrix.empty()) clear_partial();
  const auto n = static_cast<size_t>(ceil_div(n_tokens_, step));
  const auto tokens = [&](size_t i) {
    const int64_t begin = static_cast<int64_t>(i) * step;
    return Range{begin, std::min(n_tokens_, begin + step)};
  };
  for (size_t i = 0; i < n; ++i) {
    GemvOptions options{Epilogue::none, false};
    options.first_token = tokens(i).begin;
    if (!matrix.empty())
      step_roads_.add(
          products_->multiply({&part, 1}, input_of(x, matrix), tokens(i).size(), options, stream_.get()));
    pieces_[i].ready.record(stream_);
  }
  for (size_t i = 0; i < n; ++i) start_exchange(tokens(i), i);
}

/// add_norm() behind the bulk exchange; the next product's weights are unpacked while it is awaited.
void CudaBackend::reduce_bulk(AddNorm what, Readers next, Readers later) {
  if (n_pieces_ == 0) {
    pieces_[0].ready.record(stream_);
    start_exchange({0, n_tokens_}, 0);
  }
  products_->prepare(next, later, n_tokens_, stream_.get());
  what.slots[0] = partial_.data();
  what.n_slots = 1;
  if (copies_bulk()) {
    what.slots[options_.rank] = partial_.data();
    what.slots[1 - options_.rank] = copies_.theirs();
    what.n_slots = 2;
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
