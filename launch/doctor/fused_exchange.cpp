#include "launch/doctor/fused_exchange.h"

#include <algorithm>
#include <vector>

#include "ops/core/check.h"
#include "ops/cuda/norm.h"

namespace tandem::cuda {
namespace {

constexpr int kGraphLength = 50;  // exchanges: what starting a graph and the ranks' skew cost vanishes

}  // namespace

FusedExchange::FusedExchange(Communicator& comm, const PeerMemory& memory, ExchangeCounter& counter,
                             int64_t n_cols, int64_t n_tokens, bool early)
    : comm_(comm),
      memory_(memory),
      counter_(counter),
      n_cols_(n_cols),
      n_tokens_(n_tokens),
      early_(early),
      rows_(static_cast<size_t>((2 * n_tokens + 1) * n_cols)),
      number_base_(1),
      out_(n_tokens, {0, n_cols}, ActForm::q8) {
  require(memory.window_bytes() >= static_cast<size_t>(exchange_window_bytes(comm.size(), n_cols)),
          "the windows are too small for the exchange", memory.window_bytes(), n_cols);
  std::vector<float> host(rows_.size());
  for (size_t i = 0; i < host.size(); ++i)
    host[i] = static_cast<float>(i * 2654435761U % 1000) * 2e-6F - 1e-3F;
  check(cudaMemcpy(rows_.data(), host.data(), rows_.bytes(), cudaMemcpyHostToDevice));
  check(cudaDeviceSynchronize());
  record();
  comm_.barrier();
}

FusedExchange::~FusedExchange() {
  cudaStreamSynchronize(stream_.get());
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

void FusedExchange::record() {
  AddNorm what;
  what.n_cols = n_cols_;
  what.partial = rows_.data();
  what.residual = rows_.data() + n_tokens_ * n_cols_;
  what.weight = rows_.data() + 2 * n_tokens_ * n_cols_;
  what.eps = 1e-5F;
  what.out[0] = &out_;
  std::copy(memory_.windows().begin(), memory_.windows().end(), what.peers.windows);
  what.peers.n_ranks = comm_.size();
  what.peers.rank = comm_.rank();
  what.peers.slot_bytes = exchange_slot_bytes(n_cols_);
  what.peers.number_base = number_base_.data();
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < kGraphLength; ++i) {
    for (int64_t t = 0; t < n_tokens_; t += kExchangeTokens) {
      what.first_token = t;
      what.peers.number = n_numbers_++;
      const bool first = i == 0 && t == 0;
      add_norm(what, std::min(kExchangeTokens, n_tokens_ - t), early_ && !first, stream_.get());
    }
  }
  check(cudaStreamEndCapture(stream_.get(), &graph));
  const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
  cudaGraphDestroy(graph);
  check(status);
}

double FusedExchange::run_us() {
  const uint32_t base = counter_.take(n_numbers_);
  const Event begin;
  const Event end;
  check(cudaMemcpyAsync(number_base_.data(), &base, sizeof(base), cudaMemcpyHostToDevice, stream_.get()));
  stream_.synchronize();
  comm_.barrier();
  begin.record(stream_);
  check(cudaGraphLaunch(graph_, stream_.get()));
  end.record(stream_);
  stream_.synchronize();
  return double{Event::elapsed_us(begin, end)} / kGraphLength;
}

double FusedExchange::median_us(int n_times) {
  std::vector<double> times;
  for (int i = -1; i < n_times; ++i) {  // the first one brings the graph to the device
    const double us = run_us();
    if (i >= 0) times.push_back(us);
  }
  const auto middle = times.begin() + n_times / 2;
  std::nth_element(times.begin(), middle, times.end());
  double us = *middle;
  comm_.broadcast(std::as_writable_bytes(std::span(&us, 1)), 0);
  return us;
}

}  // namespace tandem::cuda
