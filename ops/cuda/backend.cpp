#include "ops/cuda/backend.h"

#include <algorithm>

#include "ops/core/error.h"
#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/workspace.h"

namespace tandem {
namespace cuda {
namespace {

/// Steps of one token of each of at most this many sequences are recorded.
constexpr int64_t kGraphTokens = 64;

}  // namespace

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
  for (const RopeSpec& rope : ropes_) rope_rows_.emplace_back(rope.inverse_frequency, rope.magnitude);
  few_.emplace(std::min(n, kGraphTokens), std::min(n, kGraphTokens), shape.n_pages, rope_rows_);
  many_.emplace(n, std::min(n, kMostSequences), shape.n_pages, rope_rows_);
  cache_.emplace(shape.n_layers, static_cast<int32_t>(shape.n_kv_heads), static_cast<int32_t>(shape.head_dim),
                 cache_type_of(shape.cache_type), shape.n_pages);
  AttentionShape attention = attention_shape(shape_);
  attention.fixed_cuts = options_.deterministic;
  scratch_.emplace(attention);
  products_.emplace(most_product_elements(shape_), options_.deterministic);
  if (options_.bulk.slot_bytes > 0) copies_.open();
  check(cudaDeviceSynchronize());  // vectors and tables are copied by another stream
}

size_t CudaBackend::workspace_bytes() const {
  return residual_.bytes() + partial_.bytes() + q_.bytes() + k_.bytes() + v_.bytes() + gate_.bytes() +
         up_.bytes() + normed_.bytes() + attended_.bytes() + hidden_.bytes() + head_input_.bytes() +
         logits_.bytes() + expert_gate_.bytes() + expert_up_.bytes() + expert_out_.bytes() +
         expert_input_.bytes() + expert_hidden_.bytes() + (products_ ? products_->bytes() : 0) +
         (few_ ? few_->bytes() + many_->bytes() : 0) + (scratch_ ? scratch_->bytes() : 0) +
         (sampler_ ? sampler_->bytes() : 0);
}

/// Which roads the step's tokens take: by their number, or, where bits must not depend on that, prompts' and
/// others by their own each.
void CudaBackend::note_tokens(const StepBatch& batch) {
  parts_.clear();
  runs_.clear();
  one_each_ = batch.sequences.size() == batch.tokens.size();
  const auto add_run = [&](int64_t n, bool prompt) {
    if (n == 0) return;
    const int64_t begin = runs_.empty() ? 0 : runs_.back().tokens.end;
    if (runs_.empty() || runs_.back().prompt != prompt) runs_.push_back({{begin, begin}, prompt});
    runs_.back().tokens.end = begin + n;
  };
  for (const StepSequence& sequence : batch.sequences) {
    int64_t n_together = sequence.n_tokens > 1 ? sequence.n_tokens : 0;
    if (options_.deterministic) n_together = sequence.n_prompt;
    const int64_t n_single = sequence.n_tokens - n_together;
    const auto first = sequence.first_position;
    if (n_together > 0) parts_.push_back({static_cast<int32_t>(n_together), first, true});
    if (n_single > 0)
      parts_.push_back({static_cast<int32_t>(n_single), first + static_cast<int32_t>(n_together), false});
    if (!options_.deterministic) continue;
    one_each_ = one_each_ && n_together == 0;
    add_run(n_together, true);
    add_run(n_single, false);
  }
}

void CudaBackend::run_step(const StepBatch& batch, const std::function<void()>& verbs) {
  await_sent();  // a recorded step doesn't ask
  n_tokens_ = static_cast<int64_t>(batch.tokens.size());
  note_tokens(batch);
  // Many tokens of experts are counted by the host, in the middle of the step: more than an expert's roads,
  // which are never tuned below that, have for GEMV.
  const bool counts_experts =
      shape_.n_experts_used > 0 && (n_tokens_ > kMaxGemvTokens || options_.deterministic);
  kind_ = {n_tokens_, batch.samples.size(), batch.from_all};
  const bool recorded = options_.graphs && one_each_ && few_->holds(batch) && !counts_experts &&
                        (kind_.n_samples == 0 || kind_.n_samples == batch.tokens.size()) &&
                        (collective_ == nullptr || collective_->capturable());
  step_ = recorded ? &*few_ : &*many_;
  step_->upload(batch, next_number_, sampler_ ? sampler_->host_offset() : 0, stream_.get());
  clock_.begin(stream_.get());
  const auto run = [&] {
    n_exchanges_ = 0;
    step_roads_ = {};
    if (sampler_) sampler_->resolve(step_->view(), n_tokens_, stream_.get());
    verbs();
    return n_exchanges_;
  };
  const int variant = collective_ ? collective_->variant() : 0;
  if (recorded) {
    RecordedStep& known = recordings_[{variant, kind_}];
    products_->forget();
    step_roads_ = known.roads;
    n_exchanges_ = known.recording.run(stream_, run);
    known.roads = step_roads_;
    products_->forget();
  } else {
    n_exchanges_ = run();
  }
  clock_.end(stream_.get());
  taken_.add(step_roads_);
  next_number_ += n_exchanges_;
  if (kind_.n_samples > 0) sampler_->launched(static_cast<int64_t>(kind_.n_samples), stream_.get());
}

void CudaBackend::embed(const Matrix& table, Range vocab, float scale, const NormSpec& norm) {
  on_device(table).embed(vocab, step_->view().tokens, n_tokens_, scale, partial_.data(), residual_.data(),
                         stream_.get());
  reduce_add_norm(norm);
}

void CudaBackend::check_finite() {
  if (*static_cast<volatile uint32_t*>(not_finite_.data()) == 0) return;
  throw Error(ExitCode::bad_data, "the model's values are no longer finite numbers, or exceed the f16 cache",
              "use --cache-type-k f32 --cache-type-v f32; if that doesn't help, the file may be damaged");
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
  CudaActivations& input = head_input_.get(products_->form_of(matrix, n), {0, shape_.n_embd});
  what.out[0] = &input;
  add_norm(what, n, false, stream_.get());
  const GemvOperand part{&matrix, nullptr, logits_.data(), n_vocab, nullptr};
  if (n_vocab > 0) {
    products_->multiply({&part, 1}, input, n, {Epilogue::none, early()}, stream_.get());
    check(cudaMemcpyAsync(host_logits_.data(), logits_.data(),
                          static_cast<size_t>(n * n_vocab) * sizeof(float), cudaMemcpyDeviceToHost,
                          stream_.get()));
  }
  clock_.prolong(stream_.get());
  stream_.synchronize();
  if (collective_) collective_->check_health();
  check_finite();
  return {host_logits_.data(), static_cast<size_t>(n * n_vocab)};
}

}  // namespace cuda

std::unique_ptr<Backend> make_cuda_backend(const CudaBackendOptions& options,
                                           std::unique_ptr<cuda::DeviceCollective> collective) {
  cuda::check(cudaSetDevice(options.device));
  return std::make_unique<cuda::CudaBackend>(options, std::move(collective));
}

}  // namespace tandem
