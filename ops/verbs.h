// What the model needs of a device, in coarse verbs: one verb is what a GPU would like to do in one kernel. A
// backend owns its weights' layout, the workspace of a step and the KV cache; the model
// (runtime/model/forward.cpp) calls the verbs in order. Knows neither files nor ranks: a backend sees its own
// shard, and what it was made with carries its partial sums to the others.
//
// The workspace of a step, per token: residual (n_embd, fp32) · normed (n_embd, in the forms that its readers
// want) · q, k, v rows · attended (local heads) · hidden (local FFN columns) · router choice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ops/core/partial_exchange.h"
#include "ops/core/range.h"
#include "ops/quant/tensor_type.h"
#include "ops/token_sampler.h"
#include "ops/variants.h"

namespace tandem {

namespace cuda {
class RoadTuner;
}

/// How precisely a matrix's input is rounded, where its format computes with integers.
enum class InputPrecision : uint8_t {
  normal,  ///< 8 bits a value
  wide,    ///< 15 bits: where rounding costs most (ffn_down, the head)
};

/// A shard of a weight matrix in the backend's own layout.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual TensorType type() const = 0;
  virtual int64_t n_rows() const = 0;
  virtual int64_t n_cols() const = 0;
  virtual size_t bytes() const = 0;
  /// Takes local rows [row_begin, row_begin + n_rows); `rows`: whole rows of the stored matrix, `row_stride`
  /// bytes apart.
  virtual void put_rows(int64_t row_begin, int64_t n_rows, const std::byte* rows, size_t row_stride) = 0;
};

/// A small fp32 vector on the device (norm weights, biases).
class Vector {
 public:
  virtual ~Vector() = default;
  virtual int64_t size() const = 0;
};

/// Everything that sizes a backend's workspace and cache. Local counts: this rank's shard.
struct BackendShape {
  int64_t n_layers = 0;
  int64_t n_embd = 0;
  int64_t n_kv_heads = 0;
  std::vector<int32_t> kv_of_head;  // (local query heads), index of the local KV head
  int64_t head_dim = 0;
  int64_t n_ff = 0;
  int64_t n_vocab = 0;
  int64_t n_experts_used = 0;
  int64_t max_tokens = 0;   ///< in one step
  int64_t max_outputs = 0;  ///< rows of logits at once
  int64_t n_pages = 0;      ///< of the KV cache
  CacheType cache_type = CacheType::f16;
};

/// One step's tokens, grouped by sequence.
struct StepSequence {
  int64_t first_token = 0;  ///< index within the step
  int64_t n_tokens = 0;
  int32_t first_position = 0;  ///< of its first token
  std::span<const int32_t> pages;
  int32_t slot = 0;  ///< where a TokenSampler samples
  /// How many of its tokens, the first ones, are of the request's prompt: for backends whose bits differ
  /// between those and the generated ones.
  int64_t n_prompt = 0;
};
struct StepBatch {
  std::span<const int32_t> tokens;
  std::span<const StepSequence> sequences;
  std::span<const StepSample> samples = {};  ///< for a TokenSampler
  bool from_all = false;  ///< whether one of them needs all logits (sampling::Road::everything)
};

/// A rotation: what turns q and k of a layer.
struct RopeSpec {
  std::vector<double> inverse_frequency;  // (n_rot / 2), radians a position
  double magnitude = 1.0;                 ///< of cos and sin
  RopeStyle style = RopeStyle::adjacent;
};

struct AttentionWeights {
  const Matrix* q = nullptr;
  const Matrix* k = nullptr;
  const Matrix* v = nullptr;
  const Vector* q_bias = nullptr;  ///< or null, as the next four
  const Vector* k_bias = nullptr;
  const Vector* v_bias = nullptr;
  const Vector* q_norm = nullptr;
  const Vector* k_norm = nullptr;
};

struct AttentionSpec {
  int64_t layer = 0;
  int rope = 0;        ///< which of the specs given to set_ropes()
  float scale = 1.0f;  ///< of q·k
  int64_t window = 0;  ///< positions seen, the own one included; 0: all
  float norm_eps = 1e-5f;
};

/// What reads a norm's output, so that it is written in those forms.
using Readers = std::span<const Matrix* const>;

/// The norm behind a reduction: `post` (or null) is applied to the sum before the residual takes it, then
/// `next` (or null) norms the residual for `readers`. `later`: what is multiplied behind the readers, before
/// the next reduction: its weights, too, may be made ready while sums are awaited.
struct NormSpec {
  const Vector* post = nullptr;
  const Vector* next = nullptr;
  float eps = 1e-5f;
  Readers readers;
  Readers later = {};
};

/// Which tokens' keys and values are the same bits however the tokens were cut into steps.
enum class Exactness : uint8_t {
  none,
  prompts,  ///< a prompt's; a generated token's too, but other bits than the same token's of a prompt
  all,
};

/// A device's time from the begin of a first step to the end of a last one.
struct DeviceTime {
  int64_t n_steps = 0;
  double busy_s = 0.0;          ///< in steps
  double idle_s = 0.0;          ///< between one step's last operation and the next one's first
  double longest_idle_s = 0.0;  ///< at once
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view kind() const = 0;  ///< "CPU", "CUDA"
  virtual std::string describe() const = 0;

  // --- loading
  virtual std::unique_ptr<Matrix> make_matrix(TensorType type, int64_t n_rows, Range cols,
                                              InputPrecision precision) = 0;
  virtual std::unique_ptr<Vector> make_vector(std::span<const float> values) = 0;
  virtual void set_ropes(std::vector<RopeSpec> ropes) = 0;
  /// Why this much doesn't fit into the device's memory, with the numbers and the cure; empty where it does,
  /// or where the system decides (host memory). Asked before anything is allocated. weight_bytes: this rank's
  /// share of the file.
  virtual std::string fit_fault(size_t weight_bytes, const BackendShape& shape) const = 0;
  /// Allocates workspace and cache. Throws Error(unavailable) with the numbers where memory does not suffice.
  virtual void allocate(const BackendShape& shape) = 0;
  /// Runs `work(first, last)` over [0, n) in pieces of `grain` on the backend's threads: packing rows at
  /// load.
  virtual void for_each_piece(int64_t n, int64_t grain, void (*work)(void*, Range), void* context) = 0;
  /// Host memory that the rows given to put_rows() come from, until close_staging(): a GPU pins it, and
  /// put_rows() may then return before the rows are taken.
  virtual void open_staging(std::span<const std::span<std::byte>> buffers) = 0;
  /// Returns when all rows given so far have been taken from host memory.
  virtual void settle_rows() = 0;
  virtual void close_staging() = 0;

  // --- a step
  /// Runs `verbs`, which calls the verbs below in their order for `batch`. A backend may record the calls for
  /// a kind of step (how many tokens, of how many sequences), and replay the recording for the next step of
  /// that kind instead of calling `verbs`: they must depend on nothing else.
  virtual void run_step(const StepBatch& batch, const std::function<void()>& verbs) = 0;
  /// How many steps may be launched before the results of the one before them are collected: 0 where a step
  /// is done when its last verb returns. The same on every rank.
  virtual int lookahead() const { return 0; }
  virtual Exactness exactness() const { return Exactness::none; }

  /// residual = scale × the tokens' rows of the table, of which this rank holds the rows `vocab`; then the
  /// first norm. Collective.
  virtual void embed(const Matrix& table, Range vocab, float scale, const NormSpec& norm) = 0;

  virtual void qkv(const AttentionWeights& weights) = 0;
  /// qk-norm, rotation, append to the cache.
  virtual void rope_append(const AttentionWeights& weights, const AttentionSpec& spec) = 0;
  virtual void attend(const AttentionSpec& spec, const Matrix& reader) = 0;
  /// This rank's partial sums of the product, which reduce_add_norm() takes. A shard ends at a multiple of
  /// chunk_cols: sums that shall not depend on the split add floats within chunks only.
  virtual void attention_output(const Matrix& o, int64_t chunk_cols) = 0;

  virtual void gate_up(const Matrix& gate, const Matrix& up, Gate gate_kind, const Matrix& reader) = 0;
  virtual void ffn_down(const Matrix& down, int64_t chunk_cols) = 0;

  /// Chooses experts from the router's logits (all experts' router is replicated).
  virtual void route(const Matrix& router, int64_t n_used) = 0;
  /// The chosen experts' FFN, weighted by the router, summed: partial sums as in ffn_down.
  virtual void expert_ffn(std::span<const std::unique_ptr<Matrix>> gates,
                          std::span<const std::unique_ptr<Matrix>> ups,
                          std::span<const std::unique_ptr<Matrix>> downs, Gate gate_kind,
                          int64_t chunk_cols) = 0;

  /// residual += post?(the partial sums of all ranks); then the next norm. Collective.
  virtual void reduce_add_norm(const NormSpec& norm) = 0;

  /// Norms the residual rows of `outputs` (token indices) and multiplies them with the head's shard.
  /// Returns logits (n_outputs, head.n_rows()), valid until the next step.
  virtual std::span<const float> head(std::span<const int64_t> outputs, const Vector& norm, float eps,
                                      const Matrix& head) = 0;

  /// What chooses tokens on the device; null where the host does.
  virtual TokenSampler* token_sampler() { return nullptr; }
  /// Where products have several roads (ops/cuda/roads.h); null where there is one.
  virtual cuda::RoadTuner* road_tuner() { return nullptr; }

  /// Of the steps since the last call, all of which are done; none where the host computes.
  virtual std::optional<DeviceTime> take_device_time() { return std::nullopt; }

  virtual size_t weight_bytes() const = 0;
  virtual size_t cache_bytes() const = 0;
  virtual size_t workspace_bytes() const = 0;
};

}  // namespace tandem
