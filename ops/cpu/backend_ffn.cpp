// The CPU backend's feed-forward: dense, and by experts that a router chooses.
#include <algorithm>
#include <array>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/elementwise.h"

namespace tandem {

/// hidden = gate(x·gate) · (x·up), quantised by the caller.
void CpuBackend::gated(const CpuMatrix& gate, const CpuMatrix& up, Gate kind, const Activations& x,
                       Activations& hidden) {
  const int64_t n_tokens = x.n_tokens();
  const int64_t n_ff = gate.n_rows();
  gate_.resize(static_cast<size_t>(n_tokens * n_ff));
  up_.resize(static_cast<size_t>(n_tokens * n_ff));
  const std::array list = {Product{&gate, gate_.data(), n_ff}, Product{&up, up_.data(), n_ff}};
  products(list, x);
  for_each_token(n_tokens, [&](int64_t t) {
    float* row = hidden.f32_row(t);
    apply_gate(kind, gate_.data() + t * n_ff, up_.data() + t * n_ff, n_ff, row, isa_);
    std::fill(row + n_ff, row + hidden.padded_cols(), 0.0f);
  });
}

void CpuBackend::gate_up(const Matrix& gate, const Matrix& up, Gate gate_kind, const Matrix& reader) {
  const std::array<const Matrix*, 1> readers = {&reader};
  hidden_.reshape(static_cast<int64_t>(tokens_.size()), gate.n_rows(), forms_for(readers));
  if (gate.n_rows() == 0) return;
  gated(cpu(gate), cpu(up), gate_kind, normed_, hidden_);
  quantize_rows(hidden_, "ffn");
}

void CpuBackend::ffn_down(const Matrix& down, int64_t chunk_cols) {
  partial_product(cpu(down), hidden_, chunk_cols, partial_sums());
}

void CpuBackend::route(const Matrix& router, int64_t n_used) {
  const auto n_tokens = static_cast<int64_t>(tokens_.size());
  const int64_t n_experts = router.n_rows();
  router_logits_.resize(static_cast<size_t>(n_tokens * n_experts));
  const std::array list = {Product{&cpu(router), router_logits_.data(), n_experts}};
  products(list, normed_);
  chosen_.resize(static_cast<size_t>(n_tokens * n_used));
  chosen_weight_.resize(static_cast<size_t>(n_tokens * n_used));
  RouterRule rule;
  rule.n_experts = static_cast<int>(n_experts);
  rule.n_used = static_cast<int>(n_used);
  for (int64_t t = 0; t < n_tokens; ++t) {
    if (!tandem::route(rule, router_logits_.data() + t * n_experts, chosen_.data() + t * n_used,
                       chosen_weight_.data() + t * n_used)) {
      fail_not_finite("router");
    }
  }
}

/// One expert's share of the tokens that chose it, added to `partial`. The router's weight multiplies the
/// hidden row, so that the experts' sums are added exactly like everything else in fixed point.
void CpuBackend::expert(const CpuMatrix& gate, const CpuMatrix& up, const CpuMatrix& down, Gate kind,
                        int64_t chunk_cols, std::span<const int32_t> tokens, std::span<const float> weights,
                        int64_t* partial) {
  const auto n = static_cast<int64_t>(tokens.size());
  expert_input_.reshape(n, shape_.n_embd, normed_.forms());
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(normed_.f32_row(tokens[static_cast<size_t>(i)]), normed_.padded_cols(),
                expert_input_.f32_row(i));
  }
  quantize_rows(expert_input_, "expert input");
  const std::array<const Matrix*, 1> readers = {&down};
  hidden_.reshape(n, gate.n_rows(), forms_for(readers));
  gated(gate, up, kind, expert_input_, hidden_);
  for_each_token(n, [&](int64_t i) {
    scale_row(hidden_.f32_row(i), gate.n_rows(), weights[static_cast<size_t>(i)], isa_);
  });
  quantize_rows(hidden_, "expert");
  expert_sums_.resize(static_cast<size_t>(n * shape_.n_embd));
  partial_product(down, hidden_, chunk_cols, expert_sums_.data());
  for_each_token(n, [&](int64_t i) {
    const int64_t* from = expert_sums_.data() + i * shape_.n_embd;
    int64_t* to = partial + tokens[static_cast<size_t>(i)] * shape_.n_embd;
    for (int64_t c = 0; c < shape_.n_embd; ++c) to[c] += from[c];
  });
}

void CpuBackend::expert_ffn(std::span<const std::unique_ptr<Matrix>> gates,
                            std::span<const std::unique_ptr<Matrix>> ups,
                            std::span<const std::unique_ptr<Matrix>> downs, Gate gate_kind,
                            int64_t chunk_cols) {
  const auto n_tokens = static_cast<int64_t>(tokens_.size());
  int64_t* sums = partial_sums();
  std::fill_n(sums, n_tokens * shape_.n_embd, int64_t{0});
  if (gates.empty() || gates[0]->n_rows() == 0) return;
  const auto n_used = static_cast<int64_t>(chosen_.size()) / n_tokens;
  std::vector<int32_t> tokens;
  std::vector<float> weights;
  for (size_t e = 0; e < gates.size(); ++e) {
    tokens.clear();
    weights.clear();
    for (int64_t i = 0; i < n_tokens * n_used; ++i) {
      if (chosen_[static_cast<size_t>(i)] != static_cast<int32_t>(e)) continue;
      tokens.push_back(static_cast<int32_t>(i / n_used));
      weights.push_back(chosen_weight_[static_cast<size_t>(i)]);
    }
    if (tokens.empty()) continue;
    expert(cpu(*gates[e]), cpu(*ups[e]), cpu(*downs[e]), gate_kind, chunk_cols, tokens, weights, sums);
  }
}

}  // namespace tandem
