#include "ops/cuda/backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

#include "ops/core/error.h"
#include "ops/cuda/activation_set.h"
#include "ops/cuda/attention.h"
#include "ops/cuda/device_matrix.h"
#include "ops/cuda/graph.h"
#include "ops/cuda/norm.h"
#include "ops/cuda/router.h"
#include "ops/cuda/sampling.h"
#include "ops/cuda/step_buffer.h"
#include "ops/cuda/workspace.h"

namespace tandem {
namespace cuda {
namespace {

/// Steps of one token of each of at most this many sequences are recorded.
constexpr int64_t kGraphTokens = 64;
/// Tokens whose partial rows the GEMV itself sends to the peers.
constexpr int64_t kSendTokens = 8;
/// Sequences of a step.
constexpr int64_t kMostRows = 256;

Epilogue epilogue_of(Gate gate) {
  return gate == Gate::swiglu ? Epilogue::swiglu : Epilogue::geglu;
}

/// What a recorded step's launches depend on.
struct StepKind {
  int64_t n_tokens = 0;
  size_t n_samples = 0;
  bool from_all = false;
  auto operator<=>(const StepKind&) const = default;
};

class CudaBackend final : public Backend, public TokenSampler {
 public:
  CudaBackend(const CudaBackendOptions& options, std::unique_ptr<DeviceCollective> collective)
      : options_(options), collective_(std::move(collective)), not_finite_(1) {
    check(cudaGetDeviceProperties(&properties_, options.device));
    *not_finite_.data() = 0;
  }
  ~CudaBackend() override { cudaStreamSynchronize(stream_.get()); }

  std::string_view kind() const override { return "CUDA"; }
  std::string describe() const override {
    const std::string_view comm = collective_ ? collective_->name() : "single";
    return fmt::format("CUDA ({}, sm_{}{}, {})", properties_.name, properties_.major, properties_.minor,
                       comm);
  }

  std::unique_ptr<Matrix> make_matrix(TensorType type, int64_t n_rows, Range cols,
                                      InputPrecision precision) override {
    auto matrix = std::make_unique<DeviceMatrix>(type, n_rows, cols, precision, stager_);
    weight_bytes_ += matrix->bytes();
    return matrix;
  }
  std::unique_ptr<Vector> make_vector(std::span<const float> values) override {
    weight_bytes_ += values.size_bytes();
    return std::make_unique<DeviceVector>(values);
  }
  void set_ropes(std::vector<RopeSpec> ropes) override { ropes_ = std::move(ropes); }
  std::string fit_fault(size_t weight_bytes, const BackendShape& shape) const override;
  void allocate(const BackendShape& shape) override;
  void for_each_piece(int64_t n, int64_t /*grain*/, void (*work)(void*, Range), void* context) override {
    if (n > 0) work(context, {0, n});  // the device packs; the more rows at once, the longer its transfers
  }
  void open_staging(std::span<const std::span<std::byte>> buffers) override { stager_.open(buffers); }
  void settle_rows() override { stager_.settle(); }
  void close_staging() override { stager_.close(); }

  void run_step(const StepBatch& batch, const std::function<void()>& verbs) override;
  void embed(const Matrix& table, Range vocab, float scale, const NormSpec& norm) override;
  void qkv(const AttentionWeights& weights) override;
  void rope_append(const AttentionWeights& weights, const AttentionSpec& spec) override;
  void attend(const AttentionSpec& spec, const Matrix& reader) override;
  void attention_output(const Matrix& o, int64_t /*chunk_cols*/) override { partial_product(o, attended_); }
  void gate_up(const Matrix& gate, const Matrix& up, Gate gate_kind, const Matrix& reader) override;
  void ffn_down(const Matrix& down, int64_t /*chunk_cols*/) override { partial_product(down, hidden_); }
  void route(const Matrix& router, int64_t n_used) override;
  void expert_ffn(std::span<const std::unique_ptr<Matrix>> gates,
                  std::span<const std::unique_ptr<Matrix>> ups,
                  std::span<const std::unique_ptr<Matrix>> downs, Gate gate_kind,
                  int64_t chunk_cols) override;
  void reduce_add_norm(const NormSpec& norm) override;
  std::span<const float> head(std::span<const int64_t> outputs, const Vector& norm, float eps,
                              const Matrix& head) override;

  TokenSampler* token_sampler() override { return this; }
  /// Where the host takes part in every exchange nothing can be launched ahead.
  int lookahead() const override { return collective_ == nullptr || collective_->capturable() ? 1 : 0; }
  void open_sampling(const SamplingShape& shape) override {
    n_vocab_ = shape.vocab.back().end;
    sampler_.emplace(shape, options_.rank, collective_.get(),
                     std::min<int64_t>(shape_.max_tokens, kMostRows));
    sample_input_.reset(sampler_->pass_rows());
  }
  void admit(int32_t slot, const sampling::Chain& chain, std::span<const sampling::Bias> bias,
             std::span<const int32_t> history) override {
    sampler_->admit(slot, chain, bias, history, stream_.get());
  }
  void sample(const Vector& norm, float eps, const Matrix& head) override;
  std::vector<int32_t> collect() override;

  size_t weight_bytes() const override { return weight_bytes_; }
  size_t cache_bytes() const override { return cache_ ? cache_->bytes() : 0; }
  size_t workspace_bytes() const override;

 private:
  /// Whether the next launch may begin before what is before it in the stream has ended: a kernel.
  bool early() { return std::exchange(follows_kernel_, true) && options_.early; }
  void clear_partial() {
    check(cudaMemsetAsync(partial_.data(), 0, static_cast<size_t>(n_tokens_ * shape_.n_embd) * sizeof(float),
                          stream_.get()));
    follows_kernel_ = false;
  }
  void products(std::span<const GemvOperand> parts, ActivationSet& x);
  void partial_product(const Matrix& weight, ActivationSet& x);
  PeerWindows peer_windows(uint32_t number) const;
  PeerWindows sampling_windows(uint32_t number) const;
  void gate_rows(const DeviceMatrix& gate, const DeviceMatrix& up, Gate kind);
  void expert_gate(std::span<const GemvOperand> gated, Gate kind, GemvOptions options);
  const std::byte* const* expert_table(std::span<const std::unique_ptr<Matrix>> experts);
  void check_finite();

  CudaBackendOptions options_;
  std::unique_ptr<DeviceCollective> collective_;  // outlives the graphs
  cudaDeviceProp properties_{};
  size_t weight_bytes_ = 0;
  RowStager stager_;
  BackendShape shape_;
  std::vector<RopeSpec> ropes_;
  Stream stream_;
  PinnedBuffer<uint32_t> not_finite_;  // written by kernels only where a value isn't finite
  std::optional<CudaKvCache> cache_;
  std::optional<AttentionScratch> scratch_;
  std::optional<StepBuffer> few_, many_;  // steps that are recorded, and all others

  // --- the step
  StepBuffer* step_ = nullptr;
  int64_t n_tokens_ = 0;
  bool one_each_ = false;        // no two of its tokens are of one sequence
  Attention layer_attention_;    // what rope_append() was given: attend() launches both at once where it can
  uint32_t next_number_ = 1;     // of the next step's first exchange with the peers
  uint32_t n_exchanges_ = 0;     // of this step, so far
  bool follows_kernel_ = false;  // the stream's last launch was a kernel of ours
  bool sent_ = false;            // this exchange's partial rows are on their way already
  std::optional<DeviceSampler> sampler_;  // goes after the graphs
  size_t n_samples_ = 0;                  // of this step
  bool from_all_ = false;                 // one of them needs all logits
  int64_t n_vocab_ = 0;                   // of all ranks
  std::map<StepKind, Recording> recordings_;
  DeviceBuffer<float> residual_;   // (max_tokens, n_embd)
  DeviceBuffer<float> partial_;    // (max_tokens, n_embd)
  DeviceBuffer<float> q_, k_, v_;  // (max_tokens, local heads · head_dim)
  DeviceBuffer<float> gate_, up_;  // (max_tokens, n_ff)
  ActivationSet normed_, attended_, hidden_;
  DeviceBuffer<float> router_logits_;  // (max_tokens, kMaxRouterExperts)
  DeviceBuffer<int32_t> chosen_;       // (max_tokens, n_experts_used)
  DeviceBuffer<float> chosen_weight_;  // (max_tokens, n_experts_used)
  std::map<const void*, DeviceBuffer<const std::byte*>> expert_tables_;
  DeviceBuffer<int32_t> counting_;  // 0, 1, 2 …
  ActivationSet sample_input_;
  ActivationSet head_input_;
  int64_t head_rows_ = 0;               // what the next three are made for
  DeviceBuffer<int32_t> head_outputs_;  // (head_rows)
  DeviceBuffer<float> logits_;          // (head_rows, n_vocab)
  PinnedBuffer<float> host_logits_;     // (head_rows, n_vocab)
};

std::string CudaBackend::fit_fault(size_t weight_bytes, const BackendShape& shape) const {
  size_t free = 0;
  size_t total = 0;
  check(cudaMemGetInfo(&free, &total));
  const auto usable = std::min(free, static_cast<size_t>(static_cast<double>(total) * options_.mem_fraction));
  return fit_fault_of(weight_bytes, shape, properties_.multiProcessorCount, usable);
}

void CudaBackend::allocate(const BackendShape& shape) {
  shape_ = shape;
  const int64_t n = shape.max_tokens;
  const auto floats = [&](int64_t cols) { return DeviceBuffer<float>(static_cast<size_t>(n * cols)); };
  const auto n_heads = static_cast<int64_t>(shape.kv_of_head.size());
  residual_ = floats(shape.n_embd);
  partial_ = floats(shape.n_embd);
  q_ = floats(n_heads * shape.head_dim);
  k_ = floats(shape.n_kv_heads * shape.head_dim);
  v_ = floats(shape.n_kv_heads * shape.head_dim);
  gate_ = floats(shape.n_ff);
  up_ = floats(shape.n_ff);
  for (ActivationSet* set : {&normed_, &attended_, &hidden_}) set->reset(n);
  if (shape.n_experts_used > 0) {
    router_logits_ = floats(kMaxRouterExperts);
    chosen_ = DeviceBuffer<int32_t>(static_cast<size_t>(n * shape.n_experts_used));
    chosen_weight_ = floats(shape.n_experts_used);
  }
  std::vector<int32_t> counting(static_cast<size_t>(n));
  for (size_t i = 0; i < counting.size(); ++i) counting[i] = static_cast<int32_t>(i);
  counting_ = DeviceBuffer<int32_t>(counting.size());
  check(cudaMemcpy(counting_.data(), counting.data(), counting_.bytes(), cudaMemcpyHostToDevice));
  few_.emplace(std::min(n, kGraphTokens), std::min(n, kGraphTokens), shape.n_pages, ropes_);
  many_.emplace(n, std::min(n, kMostRows), shape.n_pages, ropes_);
  cache_.emplace(shape.n_layers, static_cast<int32_t>(shape.n_kv_heads), static_cast<int32_t>(shape.head_dim),
                 cache_type_of(shape.cache_type), shape.n_pages);
  scratch_.emplace(attention_shape(shape_));
  check(cudaDeviceSynchronize());  // vectors and tables are copied by another stream
}

size_t CudaBackend::workspace_bytes() const {
  return residual_.bytes() + partial_.bytes() + q_.bytes() + k_.bytes() + v_.bytes() + gate_.bytes() +
         up_.bytes() + normed_.bytes() + attended_.bytes() + hidden_.bytes() + head_input_.bytes() +
         logits_.bytes() + (few_ ? few_->bytes() + many_->bytes() : 0) + (scratch_ ? scratch_->bytes() : 0) +
         (sampler_ ? sampler_->bytes() : 0);
}

void CudaBackend::run_step(const StepBatch& batch, const std::function<void()>& verbs) {
  n_tokens_ = static_cast<int64_t>(batch.tokens.size());
  one_each_ = batch.sequences.size() == batch.tokens.size();
  n_samples_ = batch.samples.size();
  from_all_ = batch.from_all;
  const bool recorded = options_.graphs && one_each_ && few_->holds(batch) &&
                        (n_samples_ == 0 || n_samples_ == batch.tokens.size()) &&
                        (collective_ == nullptr || collective_->capturable());
  step_ = recorded ? &*few_ : &*many_;
  step_->upload(batch, next_number_, sampler_ ? sampler_->host_offset() : 0, stream_.get());
  n_exchanges_ = 0;
  const auto run = [&] {
    n_exchanges_ = 0;
    if (sampler_) sampler_->resolve(step_->view(), n_tokens_, stream_.get());
    verbs();
    return n_exchanges_;
  };
  const StepKind kind{n_tokens_, n_samples_, from_all_};
  n_exchanges_ = recorded ? recordings_[kind].run(stream_, run) : run();
  next_number_ += n_exchanges_;
  if (n_samples_ > 0) sampler_->launched(static_cast<int64_t>(n_samples_), stream_.get());
}

void CudaBackend::embed(const Matrix& table, Range vocab, float scale, const NormSpec& norm) {
  on_device(table).embed(vocab, step_->view().tokens, n_tokens_, scale, partial_.data(), residual_.data(),
                         stream_.get());
  reduce_add_norm(norm);
}

/// The parts' products with the form of x that each reads.
void CudaBackend::products(std::span<const GemvOperand> parts, ActivationSet& x) {
  for (const ActForm form : {ActForm::f32, ActForm::q8, ActForm::q15}) {
    std::array<GemvOperand, kMaxGemvParts> same;
    size_t n = 0;
    for (const GemvOperand& part : parts) {
      if (on_device(*part.weight).form() == form) same[n++] = part;
    }
    if (n == 0) continue;
    gemv({same.data(), n}, x.get(form, same[0].weight->cols()), n_tokens_, {Epilogue::none, early()},
         stream_.get());
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
  layer_attention_.scale = spec.scale;
  layer_attention_.window = spec.window;
  layer_attention_.not_finite = not_finite_.data();
  layer_attention_.scratch = &*scratch_;
}

void CudaBackend::attend(const AttentionSpec& /*spec*/, const Matrix& reader) {
  if (shape_.kv_of_head.empty()) return;
  const DeviceMatrix& o = on_device(reader);
  layer_attention_.out = &attended_.get(o.form(), o.cols());
  if (one_each_) {
    append_attend(layer_attention_, n_tokens_, early(), stream_.get());
    return;
  }
  cuda::rope_append(layer_attention_, n_tokens_, early(), stream_.get());
  cuda::attend(layer_attention_, n_tokens_, early(), stream_.get());
}

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

/// The same exchanges, in the part of the windows that is kept for sampling.
PeerWindows CudaBackend::sampling_windows(uint32_t number) const {
  PeerWindows peers = peer_windows(number);
  for (int r = 0; r < peers.n_ranks; ++r)
    peers.windows[r] += sampling_window_offset(peers.n_ranks, shape_.n_embd);
  peers.slot_bytes = sampling_slot_bytes(n_vocab_);
  return peers;
}

void CudaBackend::partial_product(const Matrix& weight, ActivationSet& x) {
  const DeviceMatrix& matrix = on_device(weight);
  const GemvOperand part{&matrix, nullptr, partial_.data(), shape_.n_embd, nullptr};
  GemvOptions options{Epilogue::none, early()};
  if (matrix.empty()) {
    clear_partial();
    return;
  }
  if (collective_ && !collective_->windows().empty() && n_tokens_ <= kSendTokens) {
    options.peers = peer_windows(n_exchanges_);
    sent_ = true;
  }
  gemv({&part, 1}, x.get(matrix.form(), matrix.cols()), n_tokens_, options, stream_.get());
}

/// gate_ = act(x · gate) · (x · up)
void CudaBackend::gate_rows(const DeviceMatrix& gate, const DeviceMatrix& up, Gate kind) {
  const std::array parts = {GemvOperand{&gate, nullptr, gate_.data(), gate.n_rows(), nullptr},
                            GemvOperand{&up, nullptr, up_.data(), gate.n_rows(), nullptr}};
  if (gate.type() == up.type()) {
    gemv(parts, normed_.get(gate.form(), gate.cols()), n_tokens_, {epilogue_of(kind), early()},
         stream_.get());
    return;
  }
  products(parts, normed_);
  apply_gate(kind, gate_.data(), up_.data(), n_tokens_ * gate.n_rows(), early(), stream_.get());
}

void CudaBackend::gate_up(const Matrix& gate, const Matrix& up, Gate gate_kind, const Matrix& reader) {
  if (gate.n_rows() == 0) return;
  gate_rows(on_device(gate), on_device(up), gate_kind);
  const DeviceMatrix& down = on_device(reader);
  hidden_.get(down.form(), down.cols())
      .fill(gate_.data(), gate.n_rows(), n_tokens_, not_finite_.data(), stream_.get(), early());
}

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
void CudaBackend::expert_gate(std::span<const GemvOperand> gated, Gate kind, GemvOptions options) {
  const auto input = [&](const GemvOperand& part) -> CudaActivations& {
    return normed_.get(on_device(*part.weight).form(), part.weight->cols());
  };
  if (gated[0].weight->type() == gated[1].weight->type()) {
    options.epilogue = epilogue_of(kind);
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
  if (gate.n_rows() == 0) {
    clear_partial();
    return;
  }
  const std::array gated = {GemvOperand{&gate, nullptr, gate_.data(), gate.n_rows(), expert_table(gates)},
                            GemvOperand{&up, nullptr, up_.data(), gate.n_rows(), expert_table(ups)}};
  const GemvOperand summed{&down, nullptr, partial_.data(), shape_.n_embd, expert_table(downs)};
  CudaActivations& hidden = hidden_.get(down.form(), down.cols());
  GemvOptions options;
  options.early = options_.early;
  for (int64_t k = 0; k < shape_.n_experts_used; ++k) {
    for (int64_t t = 0; t < n_tokens_; ++t) {
      options.first_token = t;
      options.expert = chosen_.data() + t * shape_.n_experts_used + k;
      options.factor = chosen_weight_.data() + t * shape_.n_experts_used + k;
      options.accumulate = false;
      expert_gate(gated, gate_kind, options);
    }
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
    CudaActivations* out = &normed_.get(on_device(*reader).form(), {0, shape_.n_embd});
    if (std::find(what.out, what.out + n_outputs, out) != what.out + n_outputs) continue;
    require(n_outputs < kMaxNormOutputs, "norm: too many forms");
    what.out[n_outputs++] = out;
  }
  if (collective_ && !collective_->windows().empty()) {
    if (!sent_) what.partial = partial_.data();
    for (int64_t t = 0; t < n_tokens_; t += kExchangeTokens) {
      what.first_token = t;
      what.peers = peer_windows(n_exchanges_++);
      add_norm(what, std::min(kExchangeTokens, n_tokens_ - t), early(), stream_.get());
    }
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

void CudaBackend::check_finite() {
  if (*static_cast<volatile uint32_t*>(not_finite_.data()) == 0) return;
  throw Error(ExitCode::bad_data, "the model's values are no longer finite numbers, or exceed the f16 cache",
              "use --cache-type-k f32 --cache-type-v f32; if that doesn't help, the file may be damaged");
}

void CudaBackend::sample(const Vector& norm, float eps, const Matrix& head) {
  require(sampler_.has_value(), "sampling was not opened");
  const DeviceMatrix& matrix = on_device(head);
  CudaActivations& input = sample_input_.get(matrix.form(), {0, shape_.n_embd});
  const auto n_all = static_cast<int64_t>(n_samples_);
  for (int64_t first = 0; first < n_all; first += sampler_->pass_rows()) {
    const int64_t n = std::min(sampler_->pass_rows(), n_all - first);
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
    if (matrix.n_rows() > 0) gemv({&part, 1}, input, n, {Epilogue::none, early()}, stream_.get());
    DeviceSampler::Pass pass{&step_->view(), step_->host_offset(), first, n, from_all_, options_.early, {}};
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

std::span<const float> CudaBackend::head(std::span<const int64_t> outputs, const Vector& norm, float eps,
                                         const Matrix& head) {
  const auto n = static_cast<int64_t>(outputs.size());
  const DeviceMatrix& matrix = on_device(head);
  const int64_t n_vocab = matrix.n_rows();
  if (n > head_rows_) {
    head_rows_ = std::max<int64_t>(n, 1);
    head_input_.reset(head_rows_);
    head_outputs_ = DeviceBuffer<int32_t>(static_cast<size_t>(head_rows_));
    logits_ = DeviceBuffer<float>(static_cast<size_t>(head_rows_ * n_vocab));
    host_logits_ = PinnedBuffer<float>(static_cast<size_t>(head_rows_ * n_vocab));
  }
  AddNorm what;
  what.n_cols = shape_.n_embd;
  what.residual = residual_.data();
  what.weight = on_device(&norm);
  what.eps = eps;
  what.not_finite = not_finite_.data();
  if (outputs.back() - outputs.front() + 1 == n) {
    what.rows = counting_.data() + outputs.front();
  } else {
    const std::vector<int32_t> rows(outputs.begin(), outputs.end());
    check(cudaMemcpyAsync(head_outputs_.data(), rows.data(), rows.size() * sizeof(int32_t),
                          cudaMemcpyHostToDevice, stream_.get()));
    what.rows = head_outputs_.data();
  }
  CudaActivations& input = head_input_.get(matrix.form(), {0, shape_.n_embd});
  what.out[0] = &input;
  add_norm(what, n, false, stream_.get());
  const GemvOperand part{&matrix, nullptr, logits_.data(), n_vocab, nullptr};
  if (n_vocab > 0) {
    gemv({&part, 1}, input, n, {Epilogue::none, early()}, stream_.get());
    check(cudaMemcpyAsync(host_logits_.data(), logits_.data(),
                          static_cast<size_t>(n * n_vocab) * sizeof(float), cudaMemcpyDeviceToHost,
                          stream_.get()));
  }
  stream_.synchronize();
  if (collective_) collective_->check_health();
  check_finite();
  return {host_logits_.data(), static_cast<size_t>(n * n_vocab)};
}

}  // namespace
}  // namespace cuda

std::unique_ptr<Backend> make_cuda_backend(const CudaBackendOptions& options,
                                           std::unique_ptr<cuda::DeviceCollective> collective) {
  cuda::check(cudaSetDevice(options.device));
  return std::make_unique<cuda::CudaBackend>(options, std::move(collective));
}

}  // namespace tandem
