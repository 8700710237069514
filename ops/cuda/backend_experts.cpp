// The CUDA backend's mixtures of experts.
#include "ops/cuda/cuda_backend.h"

namespace tandem::cuda {

void CudaBackend::route(const Matrix& router, int64_t n_used) {
  const DeviceMatrix& matrix = on_device(router);
  const GemvOperand part{&matrix, nullptr, router_logits_.data(), matrix.n_rows(), nullptr};
  products({&part, 1}, normed_);
  cuda::route(router_logits_.data(), static_cast<int32_t>(matrix.n_rows()), static_cast<int32_t>(n_used),
              n_tokens_, chosen_.data(), chosen_weight_.data(), not_finite_.data(), early(), stream_.get());
}

/// The tiles of each expert, for kernels. Made when first asked for: not while a step is recorded.
const std::byte* const* CudaBackend::expert_table(std::span<const std::unique_ptr<Matrix>> experts) {
  auto& table = expert_tables_[experts.data()];
  if (table.size() == 0) {
    std::vector<const std::byte*> tiles;
    for (const auto& expert : experts) tiles.push_back(on_device(*expert).tiles());
    table = DeviceBuffer<const std::byte*>(tiles.size());
    check(cudaMemcpyAsync(table.data(), tiles.data(), table.bytes(), cudaMemcpyHostToDevice, stream_.get()));
    stream_.synchronize();
  }
  return table.data();
}

/// One token's hidden row of one expert, times options.factor.
void CudaBackend::expert_gate(std::span<const GemvOperand> gated, Gate kind, CudaActivations& hidden,
                              GemvOptions options) {
  const auto input = [&](const GemvOperand& part) -> CudaActivations& {
    return normed_.get(on_device(*part.weight).form(), part.weight->cols());
  };
  if (gated[0].weight->type() == gated[1].weight->type()) {
    options.epilogue = epilogue_of(kind);
    if (writes_records(gated[0].weight->type(), gated[0].weight->n_rows(), hidden)) {
      options.records = &hidden;
      options.not_finite = not_finite_.data();
    }
    gemv(gated, input(gated[0]), 1, options, stream_.get());
    return;
  }
  gemv(gated.subspan(1, 1), input(gated[1]), 1, options, stream_.get());
  options.factor = nullptr;
  gemv(gated.subspan(0, 1), input(gated[0]), 1, options, stream_.get());
  const int64_t n = gated[0].weight->n_rows();
  const int64_t at = options.first_token * n;
  apply_gate(kind, gate_.data() + at, up_.data() + at, n, options.early, stream_.get());
}

void CudaBackend::expert_ffn(std::span<const std::unique_ptr<Matrix>> gates,
                             std::span<const std::unique_ptr<Matrix>> ups,
                             std::span<const std::unique_ptr<Matrix>> downs, Gate gate_kind,
                             int64_t /*chunk_cols*/) {
  const DeviceMatrix& gate = on_device(*gates[0]);
  const DeviceMatrix& up = on_device(*ups[0]);
  const DeviceMatrix& down = on_device(*downs[0]);
  await_sent();
  if (gate.n_rows() == 0) {
    clear_partial();
    return;
  }
  if (sorts_experts(gate)) {
    sorted_experts(gates, ups, downs, gate_kind);
    return;
  }
  const std::array gated = {GemvOperand{&gate, nullptr, gate_.data(), gate.n_rows(), expert_table(gates)},
                            GemvOperand{&up, nullptr, up_.data(), gate.n_rows(), expert_table(ups)}};
  const GemvOperand summed{&down, nullptr, partial_.data(), shape_.n_embd, expert_table(downs)};
  CudaActivations& hidden = hidden_.get(down.form(), down.cols());
  step_roads_.add(Road::gemv);
  GemvOptions options;
  options.early = options_.early;
  for (int64_t k = 0; k < shape_.n_experts_used; ++k) {
    for (int64_t t = 0; t < n_tokens_; ++t) {
      options.first_token = t;
      options.expert = chosen_.data() + t * shape_.n_experts_used + k;
      options.factor = chosen_weight_.data() + t * shape_.n_experts_used + k;
      options.accumulate = false;
      expert_gate(gated, gate_kind, hidden, options);
    }
    if (gate.type() != up.type() || !writes_records(gate.type(), gate.n_rows(), hidden))
      hidden.fill(gate_.data(), gate.n_rows(), n_tokens_, not_finite_.data(), stream_.get(), early());
    for (int64_t t = 0; t < n_tokens_; ++t) {
      options.first_token = t;
      options.expert = chosen_.data() + t * shape_.n_experts_used + k;
      options.factor = nullptr;
      options.accumulate = k > 0;
      gemv({&summed, 1}, hidden, 1, options, stream_.get());
    }
  }
}

/// Whether the step has so many tokens that each expert multiplies its own together; only where run_step()
/// expects it.
bool CudaBackend::sorts_experts(const DeviceMatrix& gate) const {
  return products_->form_of(gate, n_tokens_) == ActForm::f16;
}

/// Each expert's tokens together: (token, expert) entries sorted by expert, products of an expert's rows, and
/// a weighted sum of each token's entries.
void CudaBackend::sorted_experts(std::span<const std::unique_ptr<Matrix>> gates,
                                 std::span<const std::unique_ptr<Matrix>> ups,
                                 std::span<const std::unique_ptr<Matrix>> downs, Gate gate_kind) {
  const int64_t n_used = shape_.n_experts_used;
  const int64_t n_entries = n_tokens_ * n_used;
  if (expert_gate_.size() == 0) {
    const int64_t most = shape_.max_tokens * n_used;
    expert_order_ = ExpertOrder(most);
    expert_gate_ = DeviceBuffer<float>(static_cast<size_t>(most * shape_.n_ff));
    expert_up_ = DeviceBuffer<float>(static_cast<size_t>(most * shape_.n_ff));
    expert_out_ = DeviceBuffer<float>(static_cast<size_t>(most * shape_.n_embd));
    expert_input_.reset(most);
    expert_hidden_.reset(most);
  }
  const auto n_experts = static_cast<int64_t>(gates.size());
  expert_order_.sort(chosen_.data(), n_entries, static_cast<int32_t>(n_experts), stream_.get());
  const Range cols = on_device(*gates[0]).cols();
  const CudaActivations& normed = normed_.get(ActForm::f16, cols);
  CudaActivations& input = expert_input_.get(ActForm::f16, cols);
  expert_order_.gather(normed, input, n_used, stream_.get());
  const auto of_expert = [&](int64_t e, auto&& multiply) {
    GemvOptions options;
    options.first_token = expert_order_.begin(e);
    const int64_t n = expert_order_.begin(e + 1) - options.first_token;
    if (n > 0) multiply(n, options);
  };
  for (int64_t e = 0; e < n_experts; ++e) {
    const DeviceMatrix& gate = on_device(*gates[static_cast<size_t>(e)]);
    const DeviceMatrix& up = on_device(*ups[static_cast<size_t>(e)]);
    const std::array parts = {GemvOperand{&gate, nullptr, expert_gate_.data(), gate.n_rows()},
                              GemvOperand{&up, nullptr, expert_up_.data(), up.n_rows()}};
    of_expert(e, [&](int64_t n, GemvOptions options) {
      if (gate.type() == up.type()) options.epilogue = epilogue_of(gate_kind);
      step_roads_.add(products_->multiply(parts, input, n, options, stream_.get()));
      if (gate.type() == up.type()) return;
      const int64_t at = options.first_token * gate.n_rows();
      apply_gate(gate_kind, expert_gate_.data() + at, expert_up_.data() + at, n * gate.n_rows(), false,
                 stream_.get());
    });
  }
  const DeviceMatrix& first = on_device(*downs[0]);
  CudaActivations& hidden = expert_hidden_.get(products_->form_of(first, n_tokens_), first.cols());
  hidden.fill(expert_gate_.data(), on_device(*gates[0]).n_rows(), n_entries, not_finite_.data(),
              stream_.get());
  for (int64_t e = 0; e < n_experts; ++e) {
    const DeviceMatrix& down = on_device(*downs[static_cast<size_t>(e)]);
    const GemvOperand part{&down, nullptr, expert_out_.data(), shape_.n_embd};
    of_expert(e, [&](int64_t n, const GemvOptions& options) {
      step_roads_.add(products_->multiply({&part, 1}, hidden, n, options, stream_.get()));
    });
  }
  expert_order_.combine(expert_out_.data(), chosen_weight_.data(), n_used, shape_.n_embd, partial_.data(),
                        stream_.get());
}

}  // namespace tandem::cuda
