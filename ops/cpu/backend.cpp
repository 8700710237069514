#include "ops/cpu/backend.h"

#include <array>
#include <atomic>

#include "ops/core/check.h"
#include "ops/core/error.h"
#include "ops/core/head_mix.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/elementwise.h"
#include "ops/cpu/norm.h"

namespace tandem {

ActForms forms_for(Readers readers) {
  ActForms forms = ActForms{}.with(ActForm::f32);
  for (const Matrix* reader : readers) {
    if (!cpu(*reader).packed().empty()) forms = forms.with(cpu(*reader).form());
  }
  return forms;
}

void fail_not_finite(const char* where) {
  throw Error(ExitCode::bad_data,
              std::string("the model's values are no longer finite numbers (") + where + ")",
              "the file may be damaged: compare its checksum with its source's");
}

void CpuBackend::allocate(const BackendShape& shape) {
  shape_ = shape;
  const std::vector<KvLayerShape> layers(
      static_cast<size_t>(shape.n_layers),
      {static_cast<int32_t>(shape.n_kv_heads), static_cast<int32_t>(shape.head_dim),
       static_cast<int32_t>(shape.head_dim)});
  cache_.emplace(layers, shape.cache_type, shape.n_pages);
}

size_t CpuBackend::workspace_bytes() const {
  const auto floats = [](const std::vector<float>& v) { return v.capacity() * sizeof(float); };
  return floats(residual_) + floats(q_) + floats(k_) + floats(v_) + floats(gate_) + floats(up_) +
         floats(logits_) + normed_.capacity_bytes() + attended_.capacity_bytes() + hidden_.capacity_bytes() +
         head_input_.capacity_bytes() + expert_input_.capacity_bytes() +
         expert_sums_.capacity() * sizeof(int64_t);
}

void CpuBackend::begin_step(const StepBatch& batch) {
  tokens_.assign(batch.tokens.begin(), batch.tokens.end());
  positions_.clear();
  attention_tokens_.clear();
  page_tables_.clear();
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const StepSequence& sequence = batch.sequences[s];
    page_tables_.push_back(sequence.pages);
    for (int64_t i = 0; i < sequence.n_tokens; ++i) {
      positions_.push_back(sequence.first_position + static_cast<int32_t>(i));
      attention_tokens_.push_back({positions_.back(), static_cast<int32_t>(s)});
    }
  }
  require(positions_.size() == tokens_.size(), "sequences do not cover the step's tokens", positions_.size());
  for (size_t i = 0; i < ropes_.size(); ++i) {
    rope_tables_[i].fill(positions_, ropes_[i].inverse_frequency, ropes_[i].magnitude);
  }
}

void CpuBackend::embed(const Matrix& table, Range vocab, float scale, const NormSpec& norm) {
  const auto n_tokens = static_cast<int64_t>(tokens_.size());
  const size_t n_bytes = static_cast<size_t>(n_tokens * shape_.n_embd) * sizeof(float);
  auto* out = reinterpret_cast<float*>(exchange_.contribution(n_bytes));
  for_each_token(n_tokens, [&](int64_t t) {
    float* row = out + t * shape_.n_embd;
    const int64_t token = tokens_[static_cast<size_t>(t)];
    if (vocab.contains(token)) {
      cpu(table).packed().dequantize_row(token - vocab.begin, row);
    } else {
      std::fill_n(row, shape_.n_embd, 0.0f);
    }
  });
  const PartialSlots slots = exchange_.publish();  // one rank's row of a token is not zero
  residual_.resize(static_cast<size_t>(n_tokens * shape_.n_embd));
  std::vector<const float*> rows(slots.size());
  for (size_t r = 0; r < slots.size(); ++r) rows[r] = reinterpret_cast<const float*>(slots[r]);
  reduce_floats(rows.data(), static_cast<int>(rows.size()), n_tokens * shape_.n_embd, scale, residual_.data(),
                isa_);
  add_norm({}, norm);
}

void CpuBackend::reduce_add_norm(const NormSpec& norm) {
  add_norm(exchange_.publish(), norm);
}

void CpuBackend::add_norm(PartialSlots slots, const NormSpec& norm) {
  const auto n_tokens = static_cast<int64_t>(tokens_.size());
  std::vector<const int64_t*> sums(slots.size());
  for (size_t r = 0; r < slots.size(); ++r) sums[r] = reinterpret_cast<const int64_t*>(slots[r]);
  if (norm.next != nullptr) normed_.reshape(n_tokens, shape_.n_embd, forms_for(norm.readers));
  ReduceAddNorm args;
  args.n_cols = shape_.n_embd;
  args.slots = sums.data();
  args.n_ranks = static_cast<int>(sums.size());
  args.slot_stride = shape_.n_embd;
  args.post_norm_weight = data_of(norm.post);
  args.residual = residual_.data();
  args.residual_stride = shape_.n_embd;
  args.norm_weight = data_of(norm.next);
  if (norm.next != nullptr) {
    args.out = normed_.f32_row(0);
    args.out_stride = normed_.padded_cols();
    args.out_padded_cols = normed_.padded_cols();
  }
  args.eps = norm.eps;
  std::atomic<bool> finite{true};
  for_each_token(n_tokens, [&](int64_t t) {
    bool ok = tandem::reduce_add_norm(args, {t, t + 1}, isa_);
    if (norm.next != nullptr) ok = quantize(normed_, {t, t + 1}) && ok;
    if (!ok) finite.store(false, std::memory_order_relaxed);
  });
  if (!finite.load()) fail_not_finite("residual");
}

void CpuBackend::products(std::span<const Product> list, const Activations& x) {
  int64_t n_panels = 0;
  for (const Product& p : list) n_panels += p.weight->packed().empty() ? 0 : p.weight->packed().n_panels();
  const int64_t n_tasks = std::min<int64_t>(n_panels, pool_.n_threads());
  const Range tokens{0, x.n_tokens()};
  pool_.run(n_tasks, [&](int64_t task, int) {
    const Range mine{n_panels * task / n_tasks, n_panels * (task + 1) / n_tasks};
    int64_t before = 0;
    for (const Product& p : list) {
      if (p.weight->packed().empty()) continue;
      const int64_t n = p.weight->packed().n_panels();
      const Range panels = intersect({mine.begin - before, mine.end - before}, {0, n});
      if (!panels.empty()) {
        matmul(p.weight->packed(), x, p.weight->form(), panels, tokens, p.out, p.out_stride);
      }
      before += n;
    }
  });
}

void CpuBackend::partial_product(const CpuMatrix& weight, const Activations& x, int64_t chunk_cols,
                                 int64_t* out) {
  const int64_t n_tokens = static_cast<int64_t>(x.n_tokens());
  const int64_t n_rows = shape_.n_embd;
  const PackedMatrix& packed = weight.packed();
  const int64_t n_panels = ceil_div(n_rows, kPanelRows);
  const int64_t n_tasks = std::min<int64_t>(n_panels, pool_.n_threads());
  std::atomic<bool> in_range{true};
  pool_.run(n_tasks, [&](int64_t task, int) {
    const Range panels{n_panels * task / n_tasks, n_panels * (task + 1) / n_tasks};
    const Range rows = intersect({panels.begin * kPanelRows, panels.end * kPanelRows}, {0, n_rows});
    for (int64_t t = 0; t < n_tokens; ++t)
      std::fill_n(out + t * n_rows + rows.begin, rows.size(), int64_t{0});
    if (packed.empty()) return;
    if (!matmul_partial(packed, x, weight.form(), chunk_cols, panels, {0, n_tokens}, out, n_rows)) {
      in_range.store(false, std::memory_order_relaxed);
    }
  });
  if (!in_range.load()) fail_not_finite("a partial sum");
}

void CpuBackend::quantize_rows(Activations& x, const char* where) {
  std::atomic<bool> finite{true};
  for_each_token(x.n_tokens(), [&](int64_t t) {
    if (!quantize(x, {t, t + 1})) finite.store(false, std::memory_order_relaxed);
  });
  if (!finite.load()) fail_not_finite(where);
}

void CpuBackend::qkv(const AttentionWeights& weights) {
  const auto n_tokens = static_cast<int64_t>(tokens_.size());
  const CpuMatrix& q = cpu(*weights.q);
  const CpuMatrix& k = cpu(*weights.k);
  const CpuMatrix& v = cpu(*weights.v);
  q_.resize(static_cast<size_t>(n_tokens * q.n_rows()));
  k_.resize(static_cast<size_t>(n_tokens * k.n_rows()));
  v_.resize(static_cast<size_t>(n_tokens * v.n_rows()));
  const std::array list = {Product{&q, q_.data(), q.n_rows()}, Product{&k, k_.data(), k.n_rows()},
                           Product{&v, v_.data(), v.n_rows()}};
  products(list, normed_);
  if (weights.q_bias == nullptr) return;
  for_each_token(n_tokens, [&](int64_t t) {
    add_row(q_.data() + t * q.n_rows(), data_of(weights.q_bias), q.n_rows(), isa_);
    add_row(k_.data() + t * k.n_rows(), data_of(weights.k_bias), k.n_rows(), isa_);
    add_row(v_.data() + t * v.n_rows(), data_of(weights.v_bias), v.n_rows(), isa_);
  });
}

void CpuBackend::rope_append(const AttentionWeights& weights, const AttentionSpec& spec) {
  const auto n_tokens = static_cast<int64_t>(tokens_.size());
  const RopeSpec& rope_spec = ropes_[static_cast<size_t>(spec.rope)];
  const RopeTable& table = rope_tables_[static_cast<size_t>(spec.rope)];
  const int64_t q_width = static_cast<int64_t>(shape_.kv_of_head.size()) * shape_.head_dim;
  const int64_t kv_width = shape_.n_kv_heads * shape_.head_dim;
  std::atomic<bool> fits{true};
  for_each_token(n_tokens, [&](int64_t t) {
    RopeHeads heads;
    heads.head_dim = shape_.head_dim;
    heads.norm_eps = spec.norm_eps;
    heads.style = rope_spec.style;
    heads.cosines = table.cosines(t);
    heads.sines = table.sines(t);
    heads.n_pairs = table.n_pairs();
    heads.x = q_.data() + t * q_width;
    heads.n_heads = static_cast<int64_t>(shape_.kv_of_head.size());
    heads.norm_weight = data_of(weights.q_norm);
    rope(heads, isa_);
    heads.x = k_.data() + t * kv_width;
    heads.n_heads = shape_.n_kv_heads;
    heads.norm_weight = data_of(weights.k_norm);
    rope(heads, isa_);
    if (mixes()) {
      const int width = mix_width(shape_.head_dim);
      mix_heads(q_.data() + t * q_width, q_width, width, read_mix(width), isa_);
      mix_heads(k_.data() + t * kv_width, kv_width, width, cached_mix(width), isa_);
      mix_heads(v_.data() + t * kv_width, kv_width, width, cached_mix(width), isa_);
    }
    const AttentionToken& token = attention_tokens_[static_cast<size_t>(t)];
    const int32_t page =
        page_tables_[static_cast<size_t>(token.sequence)][static_cast<size_t>(token.position / kPageTokens)];
    if (!cache_->append(static_cast<int>(spec.layer), page, token.position % kPageTokens,
                        k_.data() + t * kv_width, v_.data() + t * kv_width)) {
      fits.store(false, std::memory_order_relaxed);
    }
  });
  if (!fits.load()) {
    throw Error(ExitCode::bad_data,
                "a key or value does not fit the " + std::string(cache_type_name(cache_->type())) + " cache",
                "use --cache-type-k f32 --cache-type-v f32");
  }
}

void CpuBackend::attend(const AttentionSpec& spec, const Matrix& reader) {
  const auto n_tokens = static_cast<int64_t>(tokens_.size());
  const int64_t q_width = static_cast<int64_t>(shape_.kv_of_head.size()) * shape_.head_dim;
  const std::array<const Matrix*, 1> readers = {&reader};
  attended_.reshape(n_tokens, q_width, forms_for(readers));
  if (q_width == 0) return;
  AttentionArgs args;
  args.cache = &*cache_;
  args.layer = static_cast<int>(spec.layer);
  args.tokens = attention_tokens_;
  args.page_tables = page_tables_;
  args.kv_of_head = shape_.kv_of_head;
  args.q = q_.data();
  args.q_stride = q_width;
  args.out = attended_.f32_row(0);
  args.out_stride = attended_.padded_cols();
  args.scale = spec.scale;
  args.window = spec.window;
  tandem::attend(args, attention_scratch_, pool_, isa_);
  if (mixes()) {
    const int width = mix_width(shape_.head_dim);
    for_each_token(
        n_tokens, [&](int64_t t) { mix_heads(attended_.f32_row(t), q_width, width, read_mix(width), isa_); });
  }
  if (attended_.padded_cols() != q_width) {
    for (int64_t t = 0; t < n_tokens; ++t) {
      std::fill_n(attended_.f32_row(t) + q_width, attended_.padded_cols() - q_width, 0.0f);
    }
  }
  quantize_rows(attended_, "attention");
}

void CpuBackend::attention_output(const Matrix& o, int64_t chunk_cols) {
  partial_product(cpu(o), attended_, chunk_cols, partial_sums());
}

std::span<const float> CpuBackend::head(std::span<const int64_t> outputs, const Vector& norm, float eps,
                                        const Matrix& head) {
  const auto n = static_cast<int64_t>(outputs.size());
  const std::array<const Matrix*, 1> readers = {&head};
  head_input_.reshape(n, shape_.n_embd, forms_for(readers));
  std::atomic<bool> finite{true};
  for_each_token(n, [&](int64_t i) {
    float* row = head_input_.f32_row(i);
    const float* from = residual_.data() + outputs[static_cast<size_t>(i)] * shape_.n_embd;
    bool ok = rms_norm(from, data_of(&norm), shape_.n_embd, eps, row, isa_);
    std::fill(row + shape_.n_embd, row + head_input_.padded_cols(), 0.0f);
    ok = quantize(head_input_, {i, i + 1}) && ok;
    if (!ok) finite.store(false, std::memory_order_relaxed);
  });
  if (!finite.load()) fail_not_finite("final norm");
  logits_.resize(static_cast<size_t>(n * head.n_rows()));
  const std::array list = {Product{&cpu(head), logits_.data(), head.n_rows()}};
  products(list, head_input_);
  return logits_;
}

std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options, PartialExchange& exchange) {
  return std::make_unique<CpuBackend>(options, exchange);
}

}  // namespace tandem
