// The CUDA backend: its state and the verbs' declarations. Private to ops/cuda: backend.cpp makes it, runs
// steps and the head; backend_layer.cpp has what a layer consists of; backend_experts.cpp the mixtures of
// experts; backend_exchange.cpp how partial rows reach the other ranks; backend_sampling.cpp
// chooses tokens; backend_roads.cpp has products' roads measured.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "ops/cuda/activation_set.h"
#include "ops/cuda/attention.h"
#include "ops/cuda/backend.h"
#include "ops/cuda/device_matrix.h"
#include "ops/cuda/experts.h"
#include "ops/cuda/graph.h"
#include "ops/cuda/norm.h"
#include "ops/cuda/peer_copies.h"
#include "ops/cuda/products.h"
#include "ops/cuda/sampling.h"
#include "ops/cuda/step_buffer.h"
#include "ops/cuda/step_clock.h"

#include <fmt/format.h>

namespace tandem::cuda {

/// Tokens whose partial rows the GEMV itself sends to the peers.
inline constexpr int64_t kSendTokens = 8;
/// Sequences of a step.
inline constexpr int64_t kMostSequences = 256;

/// What the launches of a recorded step depend on.
struct StepKind {
  int64_t n_tokens = 0;
  size_t n_samples = 0;
  bool from_all = false;  ///< as StepBatch
  auto operator<=>(const StepKind&) const = default;
};

struct RecordedStep {
  Recording recording;
  RoadSet roads;  ///< that its layers' products take
};

inline Epilogue epilogue_of(Gate gate) {
  return gate == Gate::swiglu ? Epilogue::swiglu : Epilogue::geglu;
}

class CudaBackend final : public Backend, public TokenSampler, public RoadTuner {
 public:
  CudaBackend(const CudaBackendOptions& options, std::unique_ptr<DeviceCollective> collective)
      : options_(options),
        collective_(std::move(collective)),
        not_finite_(1),
        copies_(options.bulk, options.rank) {
    check(cudaGetDeviceProperties(&properties_, options.device));
    *not_finite_.data() = 0;
  }
  ~CudaBackend() override {
    cudaStreamSynchronize(stream_.get());
    cudaStreamSynchronize(exchange_stream_.get());
  }

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
  void open_sampling(const SamplingShape& shape) override;
  void admit(int32_t slot, const sampling::Chain& chain, std::span<const sampling::Bias> bias,
             std::span<const int32_t> history) override;
  void sample(const Vector& norm, float eps, const Matrix& head) override;
  std::vector<int32_t> collect() override;

  std::optional<DeviceTime> take_device_time() override { return clock_.take(); }

  Exactness exactness() const override {
    return options_.deterministic ? Exactness::prompts : Exactness::none;
  }

  RoadTuner* road_tuner() override { return this; }
  std::optional<RoadKey> key_of(const Product& product) const override;
  std::optional<Roads> measure(std::span<const Product> alike) override;
  void set_roads(const Product& product, const Roads& roads) override;
  RoadSet take_roads() override { return std::exchange(taken_, {}); }

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
  /// The form in which the step's tokens are multiplied with the matrix, in `set`.
  CudaActivations& input_of(ActivationSet& set, const DeviceMatrix& matrix) const {
    return set.get(products_->form_of(matrix, n_tokens_), matrix.cols());
  }
  /// Whether the step's partial rows are more than the peers' windows are for, or there are no windows and
  /// nothing is recorded: they travel in a stream of their own, beside what can be done meanwhile, by copies
  /// where copies_bulk(), else by all_reduce().
  bool exchanges_bulk() const;
  /// Whether the step's partial rows have room in the windows of two ranks.
  bool copies_bulk() const { return cut_for_copies() && !collective_->windows().empty(); }
  /// The same, also where the exchange is silent.
  bool cut_for_copies() const {
    return collective_->has_windows() && copies_.carries(n_tokens_ * shape_.n_embd);
  }
  void note_tokens(const StepBatch& batch);
  /// Whether the tokens are prompts' alone, where that counts: in a deterministic step.
  bool prompts_alone() const { return runs_.size() == 1 && runs_[0].prompt; }
  bool has_prompts() const {
    return std::any_of(runs_.begin(), runs_.end(), [](const TokenRun& run) { return run.prompt; });
  }
  void multiply(std::span<const GemvOperand> parts, const CudaActivations& x, Range tokens,
                GemvOptions options);
  void products(std::span<const GemvOperand> parts, ActivationSet& x);
  void partial_product(const Matrix& weight, ActivationSet& x);
  int64_t copied_tokens() const;
  int64_t piece_tokens(const GemvOperand& part, ActForm form) const;
  void await_sent();
  void send_copies(Range tokens);
  void add_copies(AddNorm& what);
  void partial_pieces(const GemvOperand& part, ActivationSet& x);
  void start_exchange(Range tokens, size_t piece);
  PeerWindows peer_windows(uint32_t number) const;
  PeerWindows sampling_windows(uint32_t number) const;
  void gate_rows(const DeviceMatrix& gate, const DeviceMatrix& up, Gate kind, CudaActivations& hidden);
  void expert_gate(std::span<const GemvOperand> gated, Gate kind, CudaActivations& hidden,
                   GemvOptions options);
  const std::byte* const* expert_table(std::span<const std::unique_ptr<Matrix>> experts);
  bool sorts_experts(const DeviceMatrix& gate) const;
  void sorted_experts(std::span<const std::unique_ptr<Matrix>> gates,
                      std::span<const std::unique_ptr<Matrix>> ups,
                      std::span<const std::unique_ptr<Matrix>> downs, Gate gate_kind);
  void reduce_bulk(AddNorm what, Readers next, Readers later);
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
  std::optional<Products> products_;
  std::vector<RopeRows> rope_rows_;       // of ropes_
  std::optional<StepBuffer> few_, many_;  // steps that are recorded, and all others
  StepClock clock_;

  // --- the step
  StepBuffer* step_ = nullptr;
  int64_t n_tokens_ = 0;
  /// Neighbouring tokens that are all prompts', or all not.
  struct TokenRun {
    Range tokens;
    bool prompt = false;
  };
  std::vector<TokenRun> runs_;  // of a deterministic step; else none
  std::vector<AttentionPart> parts_;
  bool one_each_ = false;        // each token is a sequence's only one, and takes the road of single ones
  Attention layer_attention_;    // what rope_append() was given: attend() launches both at once where it can
  uint32_t next_number_ = 1;     // of the next step's first exchange with the peers
  uint32_t n_exchanges_ = 0;     // of this step, so far
  bool follows_kernel_ = false;  // the stream's last launch was a kernel of ours
  bool sent_ = false;            // this exchange's partial rows are on their way already
  RoadSet step_roads_;           // that its layers' products take
  RoadSet taken_;                // of all steps since take_roads()
  StepKind kind_;
  int64_t n_vocab_ = 0;                   // of all ranks
  std::optional<DeviceSampler> sampler_;  // goes after the graphs, as all that they use
  std::map<std::pair<int, StepKind>, RecordedStep> recordings_;  // by the exchange's variant too
  DeviceBuffer<float> residual_;                                 // (max_tokens, n_embd)
  DeviceBuffer<float> partial_;                                  // (max_tokens, n_embd)
  DeviceBuffer<float> q_, k_, v_;                                // (max_tokens, local heads · head_dim)
  DeviceBuffer<float> gate_, up_;                                // (max_tokens, n_ff)
  ActivationSet normed_, attended_, hidden_;
  DeviceBuffer<float> router_logits_;  // (max_tokens, kMaxRouterExperts)
  DeviceBuffer<int32_t> chosen_;       // (max_tokens, n_experts_used)
  DeviceBuffer<float> chosen_weight_;  // (max_tokens, n_experts_used)
  std::map<const void*, DeviceBuffer<const std::byte*>> expert_tables_;

  // --- many tokens of experts, made when first needed: rows are entries in the order of experts
  ExpertOrder expert_order_;
  DeviceBuffer<float> expert_gate_, expert_up_;  // (max_tokens · n_experts_used, n_ff)
  DeviceBuffer<float> expert_out_;               // (max_tokens · n_experts_used, n_embd)
  ActivationSet expert_input_, expert_hidden_;

  // --- bulk exchanges
  struct Piece {
    Range tokens;
    Event ready;  ///< its partial rows are there
    Event done;   ///< all ranks' sums are there
  };
  static constexpr size_t kMostPieces = 8;
  Stream exchange_stream_{Stream::Priority::high};
  std::array<Piece, kMostPieces> pieces_;
  size_t n_pieces_ = 0;  ///< of the exchange that is under way
  PeerCopies copies_;
  Event sent_rows_;                 ///< the last exchange's copies have read partial_
  bool sending_ = false;            ///< and nothing in stream_ has awaited that yet
  DeviceBuffer<int32_t> counting_;  // 0, 1, 2 …
  ActivationSet sample_input_;
  ActivationSet head_input_;
  int64_t head_rows_ = 0;               // what the next three are made for
  DeviceBuffer<int32_t> head_outputs_;  // (head_rows)
  DeviceBuffer<float> logits_;          // (head_rows, n_vocab)
  PinnedBuffer<float> host_logits_;     // (head_rows, n_vocab)
};

}  // namespace tandem::cuda
