// The CUDA backend chooses tokens (ops/token_sampler.h): the head over the rows that sample, then the passes
// of sampling.h, all in the step's graph.
#include <algorithm>

#include "ops/core/error.h"
#include "ops/cuda/cuda_backend.h"

namespace tandem::cuda {

void CudaBackend::open_sampling(const SamplingShape& shape) {
  // Recorded steps hold addresses of what is made anew here.
  check(cudaStreamSynchronize(stream_.get()));
  recordings_.clear();
  n_vocab_ = shape.vocab.back().end;
  sampler_.emplace(shape, options_.rank, collective_.get(), std::min(shape_.max_tokens, kMostSequences));
  sample_input_.reset(sampler_->pass_rows());
}

void CudaBackend::admit(int32_t slot, const sampling::Chain& chain, std::span<const sampling::Bias> bias,
                        std::span<const int32_t> history) {
  sampler_->admit(slot, chain, bias, history, stream_.get());
}

/// The exchanges of peer_windows(), in the part of the windows that is kept for sampling.
PeerWindows CudaBackend::sampling_windows(uint32_t number) const {
  PeerWindows peers = peer_windows(number);
  for (int r = 0; r < peers.n_ranks; ++r)
    peers.windows[r] += sampling_window_offset(peers.n_ranks, shape_.n_embd);
  peers.slot_bytes = sampling_slot_bytes(n_vocab_);
  return peers;
}

void CudaBackend::sample(const Vector& norm, float eps, const Matrix& head) {
  require(sampler_.has_value(), "sampling was not opened");
  const DeviceMatrix& matrix = on_device(head);
  const auto n_all = static_cast<int64_t>(kind_.n_samples);
  for (int64_t first = 0; first < n_all; first += sampler_->pass_rows()) {
    const int64_t n = std::min(sampler_->pass_rows(), n_all - first);
    CudaActivations& input = sample_input_.get(products_->form_of(matrix, n), {0, shape_.n_embd});
    AddNorm what;
    what.n_cols = shape_.n_embd;
    what.residual = residual_.data();
    what.weight = on_device(&norm);
    what.eps = eps;
    what.not_finite = not_finite_.data();
    what.rows = step_->view().outputs + first;
    what.out[0] = &input;
    add_norm(what, n, early(), stream_.get());
    const GemvOperand part{&matrix, nullptr, sampler_->logits(), sampler_->stride(), nullptr};
    if (matrix.n_rows() > 0)
      products_->multiply({&part, 1}, input, n, {Epilogue::none, early()}, stream_.get());
    DeviceSampler::Pass pass{&step_->view(), step_->host_offset(), first, n, kind_.from_all, early(), {}};
    pass.next_exchange = [&] { return sampling_windows(n_exchanges_++); };
    sampler_->choose(pass, stream_.get());
  }
}

std::vector<int32_t> CudaBackend::collect() {
  std::vector<int32_t> tokens = sampler_->collect();
  if (collective_) collective_->check_health();
  check_finite();
  if (std::find(tokens.begin(), tokens.end(), sampling::kNoToken) != tokens.end()) {
    throw Error(ExitCode::bad_data, "no token has a finite score",
                "the file may be damaged, or a bias excludes every token");
  }
  return tokens;
}

}  // namespace tandem::cuda
