// The CUDA backend's verbs of a layer but for experts and exchanges.
#include "ops/cuda/cuda_backend.h"

namespace tandem::cuda {

/// Products of the step's `tokens`, by the roads of their kinds.
void CudaBackend::multiply(std::span<const GemvOperand> parts, const CudaActivations& x, Range tokens,
                           GemvOptions options) {
  const auto multiply_run = [&](Range run, bool prompt) {
    options.first_token = run.begin;
    step_roads_.add(products_->multiply(parts, x, run.size(), options, stream_.get(), prompt));
  };
  if (runs_.empty() || x.form() != ActForm::f16) {
    multiply_run(tokens, false);
    return;
  }
  for (const TokenRun& run : runs_) {
    const Range both = intersect(run.tokens, tokens);
    if (!both.empty()) multiply_run(both, run.prompt);
  }
}

/// The parts' products with the form of x that each reads.
void CudaBackend::products(std::span<const GemvOperand> parts, ActivationSet& x) {
  for (const ActForm form : {ActForm::f32, ActForm::q8, ActForm::q15, ActForm::f16}) {
    std::array<GemvOperand, kMaxGemvParts> same;
    size_t n = 0;
    for (const GemvOperand& part : parts) {
      if (products_->form_of(on_device(*part.weight), n_tokens_) == form) same[n++] = part;
    }
    if (n == 0) continue;
    multiply({same.data(), n}, x.get(form, same[0].weight->cols()), {0, n_tokens_},
             {Epilogue::none, early()});
  }
}

void CudaBackend::qkv(const AttentionWeights& weights) {
  const auto part = [](const Matrix* weight, const Vector* bias, DeviceBuffer<float>& out) {
    return GemvOperand{&on_device(*weight), on_device(bias), out.data(), weight->n_rows(), nullptr};
  };
  const std::array parts = {part(weights.q, weights.q_bias, q_), part(weights.k, weights.k_bias, k_),
                            part(weights.v, weights.v_bias, v_)};
  products(parts, normed_);
}

void CudaBackend::rope_append(const AttentionWeights& weights, const AttentionSpec& spec) {
  const auto head_dim = shape_.head_dim;
  layer_attention_ = Attention{};
  layer_attention_.step = step_->view();
  layer_attention_.cache = cache_->layer(spec.layer);
  layer_attention_.q = q_.data();
  layer_attention_.k = k_.data();
  layer_attention_.v = v_.data();
  layer_attention_.q_stride = static_cast<int64_t>(shape_.kv_of_head.size()) * head_dim;
  layer_attention_.k_stride = shape_.n_kv_heads * head_dim;
  layer_attention_.v_stride = shape_.n_kv_heads * head_dim;
  layer_attention_.q_norm = on_device(weights.q_norm);
  layer_attention_.k_norm = on_device(weights.k_norm);
  layer_attention_.norm_eps = spec.norm_eps;
  layer_attention_.rope = spec.rope;
  layer_attention_.style = ropes_[static_cast<size_t>(spec.rope)].style;
  layer_attention_.mixes = is_coded(cache_->type());
  layer_attention_.scale = spec.scale;
  layer_attention_.window = spec.window;
  layer_attention_.not_finite = not_finite_.data();
  layer_attention_.scratch = &*scratch_;
  layer_attention_.parts = parts_;
}

void CudaBackend::attend(const AttentionSpec& /*spec*/, const Matrix& reader) {
  if (shape_.kv_of_head.empty()) return;
  const DeviceMatrix& o = on_device(reader);
  layer_attention_.out = &input_of(attended_, o);
  if (one_each_) {
    append_attend(layer_attention_, n_tokens_, early(), stream_.get());
    return;
  }
  cuda::rope_append(layer_attention_, n_tokens_, early(), stream_.get());
  cuda::attend(layer_attention_, n_tokens_, early(), stream_.get());
}

/// hidden = act(x · gate) · (x · up), in the form that the next product reads.
void CudaBackend::gate_rows(const DeviceMatrix& gate, const DeviceMatrix& up, Gate kind,
                            CudaActivations& hidden) {
  const std::array parts = {GemvOperand{&gate, nullptr, gate_.data(), gate.n_rows(), nullptr},
                            GemvOperand{&up, nullptr, up_.data(), gate.n_rows(), nullptr}};
  if (gate.type() == up.type()) {
    const CudaActivations& input = input_of(normed_, gate);
    GemvOptions options{epilogue_of(kind), early()};
    const bool alike = runs_.size() <= 1;  // else rows become halves when all of them are there
    if (alike && products_->writes_records(parts, input.form(), n_tokens_, hidden, prompts_alone())) {
      options.records = &hidden;
      options.not_finite = not_finite_.data();
    }
    multiply(parts, input, {0, n_tokens_}, options);
    if (options.records != nullptr) return;
  } else {
    products(parts, normed_);
    apply_gate(kind, gate_.data(), up_.data(), n_tokens_ * gate.n_rows(), early(), stream_.get());
  }
  hidden.fill(gate_.data(), gate.n_rows(), n_tokens_, not_finite_.data(), stream_.get(), early());
}

void CudaBackend::gate_up(const Matrix& gate, const Matrix& up, Gate gate_kind, const Matrix& reader) {
  if (gate.n_rows() == 0) return;
  gate_rows(on_device(gate), on_device(up), gate_kind, input_of(hidden_, on_device(reader)));
}

}  // namespace tandem::cuda
