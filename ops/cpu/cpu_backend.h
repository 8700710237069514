// The CPU backend's class: what it holds between verbs, and how its work is shared out to threads. The verbs
// are in backend.cpp, those of the feed-forward in backend_ffn.cpp; nobody else includes this. Kernels have
// no place here.
#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "ops/cpu/activations.h"
#include "ops/cpu/attention.h"
#include "ops/cpu/backend.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/kv_cache.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/rope.h"
#include "ops/cpu/thread_pool.h"

namespace tandem {

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

inline const CpuMatrix& cpu(const Matrix& matrix) {
  return static_cast<const CpuMatrix&>(matrix);
}
inline const float* data_of(const Vector* vector) {
  return vector == nullptr ? nullptr : static_cast<const CpuVector*>(vector)->data();
}

/// The forms in which a row must be written for its readers. Floats always: they are what is quantised.
ActForms forms_for(Readers readers);

[[noreturn]] void fail_not_finite(const char* where);

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

  std::string_view kind() const override { return "CPU"; }
  Exactness exactness() const override { return Exactness::all; }
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
  std::string fit_fault(size_t /*weight_bytes*/, const BackendShape& /*shape*/) const override { return ""; }
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
  /// Whether the cache keeps heads mixed (ops/core/head_mix.h).
  bool mixes() const { return is_quantised(cache_->type()); }
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

}  // namespace tandem
