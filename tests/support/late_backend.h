// A backend that samples like a GPU's (ops/token_sampler.h): the CPU's verbs, the chain of
// ops/core/sampling_chain.h, tokens that the host gets to know when it collects them, and steps whose tokens
// name what the one before chose. So the engine's lookahead is tested without a GPU.
#pragma once

#include <deque>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "ops/core/check.h"
#include "ops/cpu/backend.h"
#include "tests/support/solo_team.h"

namespace tandem::test {

class LateBackend final : public Backend, public TokenSampler {
 public:
  LateBackend(std::unique_ptr<Backend> inner, Communicator& communicator)
      : inner_(std::move(inner)), communicator_(communicator) {}

  // --- what samples
  TokenSampler* token_sampler() override { return this; }
  int lookahead() const override { return 1; }
  void open_sampling(const SamplingShape& shape) override {
    shape_ = shape;
    slots_.resize(static_cast<size_t>(shape.n_slots));
  }
  void admit(int32_t slot, const sampling::Chain& chain, std::span<const sampling::Bias> bias,
             std::span<const int32_t> history) override {
    Slot& to = slots_[static_cast<size_t>(slot)];
    to.chain = chain;
    to.bias.assign(bias.begin(), bias.end());
    for (size_t i = 0; i < history.size(); ++i) to.ring[i % to.ring.size()] = history[i];
  }
  void sample(const Vector& norm, float eps, const Matrix& head) override;
  std::vector<int32_t> collect() override {
    require(!in_flight_.empty(), "nothing is in flight");
    std::vector<int32_t> tokens = std::move(in_flight_.front());
    in_flight_.pop_front();
    return tokens;
  }
  Exactness exactness() const override { return shown_exactness; }
  Exactness shown_exactness = Exactness::none;
  /// Tokens of prompts, as the steps say.
  int64_t n_prompt_tokens() const { return n_prompt_tokens_; }
  /// Most steps that were in flight at once, and steps that needed all logits.
  size_t most_in_flight() const { return most_in_flight_; }
  int n_from_all() const { return n_from_all_; }

  void run_step(const StepBatch& batch, const std::function<void()>& verbs) override {
    std::vector<int32_t> tokens(batch.tokens.begin(), batch.tokens.end());
    for (const StepSequence& sequence : batch.sequences) {
      n_prompt_tokens_ += sequence.n_prompt;
      Slot& slot = slots_[static_cast<size_t>(sequence.slot)];
      for (int64_t i = 0; i < sequence.n_tokens; ++i) {
        int32_t& token = tokens[static_cast<size_t>(sequence.first_token + i)];
        if (token == kLatestOfSlot) token = slot.latest;
        slot.ring[static_cast<size_t>(sequence.first_position + i) % slot.ring.size()] = token;
      }
    }
    batch_ = batch;
    StepBatch known = batch;
    known.tokens = tokens;
    inner_->run_step(known, verbs);
  }

  // --- the CPU's
  std::string_view kind() const override { return inner_->kind(); }
  std::string describe() const override { return inner_->describe(); }
  std::unique_ptr<Matrix> make_matrix(TensorType type, int64_t n_rows, Range cols,
                                      InputPrecision precision) override {
    return inner_->make_matrix(type, n_rows, cols, precision);
  }
  std::unique_ptr<Vector> make_vector(std::span<const float> values) override {
    return inner_->make_vector(values);
  }
  void set_ropes(std::vector<RopeSpec> ropes) override { inner_->set_ropes(std::move(ropes)); }
  std::string fit_fault(size_t weight_bytes, const BackendShape& shape) const override {
    return inner_->fit_fault(weight_bytes, shape);
  }
  void allocate(const BackendShape& shape) override { inner_->allocate(shape); }
  void for_each_piece(int64_t n, int64_t grain, void (*work)(void*, Range), void* context) override {
    inner_->for_each_piece(n, grain, work, context);
  }
  void open_staging(std::span<const std::span<std::byte>> buffers) override { inner_->open_staging(buffers); }
  void settle_rows() override { inner_->settle_rows(); }
  void close_staging() override { inner_->close_staging(); }
  void embed(const Matrix& table, Range vocab, float scale, const NormSpec& norm) override {
    inner_->embed(table, vocab, scale, norm);
  }
  void qkv(const AttentionWeights& weights) override { inner_->qkv(weights); }
  void rope_append(const AttentionWeights& weights, const AttentionSpec& spec) override {
    inner_->rope_append(weights, spec);
  }
  void attend(const AttentionSpec& spec, const Matrix& reader) override { inner_->attend(spec, reader); }
  void attention_output(const Matrix& o, int64_t chunk_cols) override {
    inner_->attention_output(o, chunk_cols);
  }
  void gate_up(const Matrix& gate, const Matrix& up, Gate gate_kind, const Matrix& reader) override {
    inner_->gate_up(gate, up, gate_kind, reader);
  }
  void ffn_down(const Matrix& down, int64_t chunk_cols) override { inner_->ffn_down(down, chunk_cols); }
  void route(const Matrix& router, int64_t n_used) override { inner_->route(router, n_used); }
  void expert_ffn(std::span<const std::unique_ptr<Matrix>> gates,
                  std::span<const std::unique_ptr<Matrix>> ups,
                  std::span<const std::unique_ptr<Matrix>> downs, Gate gate_kind,
                  int64_t chunk_cols) override {
    inner_->expert_ffn(gates, ups, downs, gate_kind, chunk_cols);
  }
  void reduce_add_norm(const NormSpec& norm) override { inner_->reduce_add_norm(norm); }
  std::span<const float> head(std::span<const int64_t> outputs, const Vector& norm, float eps,
                              const Matrix& head) override {
    return inner_->head(outputs, norm, eps, head);
  }
  size_t weight_bytes() const override { return inner_->weight_bytes(); }
  size_t cache_bytes() const override { return inner_->cache_bytes(); }
  size_t workspace_bytes() const override { return inner_->workspace_bytes(); }

 private:
  struct Slot {
    sampling::Chain chain;
    std::vector<sampling::Bias> bias;
    std::vector<int32_t> ring = std::vector<int32_t>(sampling::kHistoryTokens);
    int32_t latest = 0;
  };
  int32_t choose(std::span<const float> mine, const Slot& slot, int64_t position);

  std::unique_ptr<Backend> inner_;
  Communicator& communicator_;
  SamplingShape shape_;
  std::vector<Slot> slots_;
  StepBatch batch_;
  std::deque<std::vector<int32_t>> in_flight_;
  size_t most_in_flight_ = 0;
  int n_from_all_ = 0;
  int64_t n_prompt_tokens_ = 0;
};

inline void LateBackend::sample(const Vector& norm, float eps, const Matrix& head) {
  std::vector<int64_t> outputs;
  for (const StepSample& sample : batch_.samples) outputs.push_back(sample.token);
  const std::span<const float> logits = inner_->head(outputs, norm, eps, head);
  const auto n_local = static_cast<size_t>(head.n_rows());
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < outputs.size(); ++i) {
    int64_t position = 0;
    for (const StepSequence& sequence : batch_.sequences) {
      if (outputs[i] >= sequence.first_token && outputs[i] < sequence.first_token + sequence.n_tokens)
        position = sequence.first_position + outputs[i] - sequence.first_token + 1;
    }
    Slot& slot = slots_[static_cast<size_t>(batch_.samples[i].slot)];
    require(batch_.from_all || slot.chain.road != sampling::Road::everything, "needs all logits");
    slot.latest = choose(logits.subspan(i * n_local, n_local), slot, position);
    tokens.push_back(slot.latest);
  }
  n_from_all_ += batch_.from_all ? 1 : 0;
  in_flight_.push_back(std::move(tokens));
  most_in_flight_ = std::max(most_in_flight_, in_flight_.size());
}

/// From all ranks' logits.
inline int32_t LateBackend::choose(std::span<const float> mine, const Slot& slot, int64_t position) {
  std::byte* out = communicator_.contribution(static_cast<size_t>(shape_.vocab.back().end) * sizeof(float));
  std::copy(mine.begin(), mine.end(), reinterpret_cast<float*>(out));
  const PartialSlots parts = communicator_.publish();
  std::vector<float> logits;
  for (size_t r = 0; r < shape_.vocab.size(); ++r) {
    const auto* part = reinterpret_cast<const float*>(parts[r]);
    logits.insert(logits.end(), part, part + shape_.vocab[r].size());
  }
  std::vector<int32_t> counts(logits.size());
  sampling::adjust(SoloTeam{}, slot.chain, slot.bias.data(), slot.ring.data(), position, 0,
                   static_cast<int32_t>(logits.size()), 0, logits.data(), counts.data());
  auto work = std::make_unique<sampling::Workspace>();
  const sampling::Segment all{logits.data(), static_cast<int64_t>(logits.size()), 0};
  return sampling::choose_from_all(SoloTeam{}, *work, slot.chain, static_cast<uint64_t>(position), {&all, 1});
}

}  // namespace tandem::test
