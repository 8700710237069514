#include "ops/cpu/backend.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <optional>
#include <string>

#include "ops/core/check.h"
#include "ops/core/error.h"
#include "ops/cpu/activations.h"
#include "ops/cpu/attention.h"
#include "ops/cpu/elementwise.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/kv_cache.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/norm.h"
#include "ops/cpu/rope.h"
#include "ops/cpu/thread_pool.h"

namespace tandem {
namespace {

class CpuMatrix final : public Matrix {
 public:
  CpuMatrix(TensorType type, int64_t n_rows, Range cols, InputPrecision precision)
      : packed_(type, n_rows, cols), form_(activation_form(type, precision == InputPrecision::wide)) {}
  TensorType type() const override { return packed_.type(); }
  int64_t n_rows() const override { return packed_.n_rows(); }
  int64_t n_cols() const override { return packed_.n_cols(); }
  size_t bytes() const override { return packed_.bytes(); }
  void put_rows(int64_t row_begin, int64_t n_rows, const std::byte* rows, size_t row_stride) override {
    packed_.put_rows(row_begin, n_rows, rows, row_stride);
  }
  const PackedMatrix& packed() const { return packed_; }
  ActForm form() const { return form_; }

 private:
  PackedMatrix packed_;
  ActForm form_;
};

class CpuVector final : public Vector {
 public:
  explicit CpuVector(std::span<const float> values) : values_(values.begin(), values.end()) {}
  int64_t size() const override { return static_cast<int64_t>(values_.size()); }
  const float* data() const { return values_.data(); }

 private:
  std::vector<float> values_;
};

const CpuMatrix& cpu(const Matrix& matrix) {
  return static_cast<const CpuMatrix&>(matrix);
}
const float* data_of(const Vector* vector) {
  return vector == nullptr ? nullptr : static_cast<const CpuVector*>(vector)->data();
}

/// The forms in which a row must be written for its readers. Floats always: they are what is quantised.
ActForms forms_for(Readers readers) {
  ActForms forms = ActForms{}.with(ActForm::f32);
  for (const Matrix* reader : readers) {
    if (!cpu(*reader).packed().empty()) forms = forms.with(cpu(*reader).form());
  }
  return forms;
}

[[noreturn]] void fail_not_finite(const char* where) {
  throw Error(ExitCode::bad_data,
              std::string("the model's values are no longer finite numbers (") + where + ")",
              "the file may be damaged: compare its checksum with its source's");
}

/// One product of a fused group: its rows are dealt to threads together with the others'.
struct Product {
  const CpuMatrix* weight;
  float* out;  // (n_tokens, out_stride)
  int64_t out_stride;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(const CpuBackendOptions& options, PartialExchange& exchange)
      : exchange_(exchange), pool_(options.n_threads, options.cpus, options.spin_us), isa_(best_isa()) {}

  std::string describe() const override {
    return "CPU (" + std::string(isa_name(isa_)) + ", " + std::to_string(pool_.n_threads()) +
           (pool_.n_threads() == 1 ? " thread)" : " threads)");
  }

  std::unique_ptr<Matrix> make_matrix(TensorType type, int64_t n_rows, Range cols,
                                      InputPrecision precision) override {
    auto matrix = std::make_unique<CpuMatrix>(type, n_rows, cols, precision);
    weight_bytes_ += matrix->bytes();
    return matrix;
  }
  std::unique_ptr<Vector> make_vector(std::span<const float> values) override {
    weight_bytes_ += values.size_bytes();
    return std::make_unique<CpuVector>(values);
  }
  void set_ropes(std::vector<RopeSpec> ropes) override {
    ropes_ = std::move(ropes);
    rope_tables_.resize(ropes_.size());
  }
  void allocate(const BackendShape& shape) override;
  void for_each_piece(int64_t n, int64_t grain, void (*work)(void*, Range), void* context) override {
    pool_.run(ceil_div(n, grain), [&](int64_t task, int) {
      work(context, {task * grain, std::min(n, (task + 1) * grain)});
    });
  }

  void open_staging(std::span<const std::span<std::byte>> /*buffers*/) override {}
  void settle_rows() override {}
  void close_staging() override {}

  void run_step(const StepBatch& batch, const std::function<void()>& verbs) override {
    begin_step(batch);
    verbs();
  }
  void embed(const Matrix& table, Range vocab, float scale, const NormSpec& norm) override;
  void qkv(const AttentionWeights& weights) override;
  void rope_append(const AttentionWeights& weights, const AttentionSpec& spec) override;
  void attend(const AttentionSpec& spec, const Matrix& reader) override;
  void attention_output(const Matrix& o, int64_t chunk_cols) override;
  void gate_up(const Matrix& gate, const Matrix& up, Gate gate_kind, const Matrix& reader) override;
  void ffn_down(const Matrix& down, int64_t chunk_cols) override;
  void route(const Matrix& router, int64_t n_used) override;
  void expert_ffn(std::span<const std::unique_ptr<Matrix>> gates,
                  std::span<const std::unique_ptr<Matrix>> ups,
                  std::span<const std::unique_ptr<Matrix>> downs, Gate gate_kind,
                  int64_t chunk_cols) override;
  void reduce_add_norm(const NormSpec& norm) override;
  std::span<const float> head(std::span<const int64_t> outputs, const Vector& norm, float eps,
                              const Matrix& head) override;

  size_t weight_bytes() const override { return weight_bytes_; }
  size_t cache_bytes() const override { return cache_ ? cache_->bytes() : 0; }
  size_t workspace_bytes() const override;

 private:
  void begin_step(const StepBatch& batch);
  /// This rank's next partial sums: (n_tokens, n_embd), overwritten by its caller.
  int64_t* partial_sums() {
    return reinterpret_cast<int64_t*>(
        exchange_.contribution(tokens_.size() * static_cast<size_t>(shape_.n_embd) * sizeof(int64_t)));
  }
  /// residual += post?(Σ slots); then the next norm.
  void add_norm(PartialSlots slots, const NormSpec& norm);
  /// Runs fn(token) for every token, each thread a contiguous part.
  template <class F>
  void for_each_token(int64_t n, F&& fn) {
    const int64_t n_tasks = std::min<int64_t>(n, pool_.n_threads());
    pool_.run(n_tasks, [&](int64_t task, int) {
      for (int64_t t = n * task / n_tasks; t < n * (task + 1) / n_tasks; ++t) fn(t);
    });
  }
  void products(std::span<const Product> list, const Activations& x);
  void partial_product(const CpuMatrix& weight, const Activations& x, int64_t chunk_cols, int64_t* out);
  void quantize_rows(Activations& x, const char* where);
  void gated(const CpuMatrix& gate, const CpuMatrix& up, Gate kind, const Activations& x,
             Activations& hidden);
  void expert(const CpuMatrix& gate, const CpuMatrix& up, const CpuMatrix& down, Gate kind,
              int64_t chunk_cols, std::span<const int32_t> tokens, std::span<const float> weights,
              int64_t* partial);

  PartialExchange& exchange_;
  ThreadPool pool_;
  Isa isa_;
  size_t weight_bytes_ = 0;
  BackendShape shape_;
  std::vector<RopeSpec> ropes_;
  std::optional<KvCache> cache_;
  AttentionScratch attention_scratch_;

  // --- the step
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<AttentionToken> attention_tokens_;
  std::vector<std::span<const int32_t>> page_tables_;
  std::vector<RopeTable> rope_tables_;
  std::vector<float> residual_;       // (n_tokens, n_embd)
  Activations normed_;                // (n_tokens, n_embd)
  std::vector<float> q_, k_, v_;      // (n_tokens, local heads · head_dim)
  Activations attended_;              // (n_tokens, local query heads · head_dim)
  std::vector<float> gate_, up_;      // (n_tokens, n_ff)
  Activations hidden_;                // (n_tokens, n_ff)
  Activations head_input_;            // (n_outputs, n_embd)
  std::vector<float> logits_;         // (n_outputs, n_vocab)
  std::vector<float> router_logits_;  // (n_tokens, n_experts)
  std::vector<int32_t> chosen_;       // (n_tokens, n_experts_used)
  std::vector<float> chosen_weight_;  // (n_tokens, n_experts_used)
  Activations expert_input_;          // (tokens of one expert, n_embd)
  std::vector<int64_t> expert_sums_;  // (tokens of one expert, n_embd)
};

void CpuBackend::allocate(const BackendShape& shape) {
  shape_ = shape;
  const std::vector<KvLayerShape> layers(
      static_cast<size_t>(shape.n_layers),
      {static_cast<int32_t>(shape.n_kv_heads), static_cast<int32_t>(shape.head_dim),
       static_cast<int32_t>(shape.head_dim)});
  cache_.emplace(layers, shape.kv_f32 ? KvType::f32 : KvType::f16, shape.n_pages);
}

size_t CpuBackend::workspace_bytes() const {
  const auto floats = [](const std::vector<float>& v) { return v.capacity() * sizeof(float); };
  return floats(residual_) + floats(q_) + floats(k_) + floats(v_) + floats(gate_) + floats(up_) +
         floats(logits_) + normed_.capacity_bytes() + attended_.capacity_bytes() + hidden_.capacity_bytes() +
         head_input_.capacity_bytes() + expert_input_.capacity_bytes();
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
    const AttentionToken& token = attention_tokens_[static_cast<size_t>(t)];
    const int32_t page =
        page_tables_[static_cast<size_t>(token.sequence)][static_cast<size_t>(token.position / kPageTokens)];
    if (!cache_->append(static_cast<int>(spec.layer), page, token.position % kPageTokens,
                        k_.data() + t * kv_width, v_.data() + t * kv_width)) {
      fits.store(false, std::memory_order_relaxed);
    }
  });
  if (!fits.load()) {
    throw Error(ExitCode::bad_data, "a key or value does not fit the f16 cache",
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

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options, PartialExchange& exchange) {
  return std::make_unique<CpuBackend>(options, exchange);
}

}  // namespace tandem
