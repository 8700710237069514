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

/// The all-reduce of these tokens' partial rows, as soon as the piece is ready.
void CudaBackend::start_exchange(Range tokens, size_t piece) {
  check(cudaStreamWaitEvent(exchange_stream_.get(), pieces_[piece].ready.get()));
  collective_->all_reduce(partial_.data() + tokens.begin * shape_.n_embd, tokens.size() * shape_.n_embd,
                          exchange_stream_.get());
  pieces_[piece].done.record(exchange_stream_);
  pieces_[piece].tokens = tokens;
  n_pieces_ = piece + 1;
}

/// The product in two pieces, so that the first one's sums travel while the second is multiplied. Every rank
/// cuts alike, also one that has nothing to multiply.
void CudaBackend::partial_pieces(const GemvOperand& part, ActivationSet& x) {
  constexpr int64_t kLeastTokens = 256;  // that are worth cutting
  constexpr int64_t kGrain = 64;         // of the matrix kernels
  const int64_t first = n_tokens_ < kLeastTokens ? n_tokens_ : round_up(n_tokens_ / 2, kGrain);
  const std::array<Range, 2> tokens = {Range{0, first}, Range{first, n_tokens_}};
  const size_t n = first < n_tokens_ ? 2 : 1;
  const DeviceMatrix& matrix = on_device(*part.weight);
  if (matrix.empty()) clear_partial();
  for (size_t i = 0; i < n; ++i) {
    GemvOptions options{Epilogue::none, false};
    options.first_token = tokens[i].begin;
    if (!matrix.empty())
      step_roads_.add(
          products_->multiply({&part, 1}, input_of(x, matrix), tokens[i].size(), options, stream_.get()));
    pieces_[i].ready.record(stream_);
  }
  for (size_t i = 0; i < n; ++i) start_exchange(tokens[i], i);
}

/// add_norm() behind the bulk exchange; the next product's weights are unpacked while it is awaited.
void CudaBackend::reduce_bulk(AddNorm what, Readers next) {
  if (n_pieces_ == 0) {
    pieces_[0].ready.record(stream_);
    start_exchange({0, n_tokens_}, 0);
  }
  products_->prepare(next, n_tokens_, stream_.get());
  what.slots[0] = partial_.data();
  what.n_slots = 1;
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
    reduce_bulk(what, norm.readers);
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
