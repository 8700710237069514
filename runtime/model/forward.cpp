// One token's road through the model. A layer is attention and feed-forward, each ending in a row-split
// product whose partial sums all ranks exchange; everything between two exchanges is local to a rank.
#include <fmt/format.h>

#include "ops/core/check.h"
#include "ops/core/error.h"
#include "runtime/model/model.h"

namespace tandem {
namespace {

/// What reads the norm in front of a layer's attention, and behind it the attention's output; and what reads
/// the norm in front of its feed-forward.
constexpr size_t kNormReaders = 3;
std::vector<const Matrix*> attention_readers(const LayerWeights& layer) {
  return {layer.q.get(), layer.k.get(), layer.v.get(), layer.o.get()};
}
std::vector<const Matrix*> ffn_readers(const LayerWeights& layer) {
  if (!layer.router) return {layer.gate.get(), layer.up.get()};
  std::vector<const Matrix*> readers = {layer.router.get()};
  for (const auto& matrix : layer.gates) readers.push_back(matrix.get());
  for (const auto& matrix : layer.ups) readers.push_back(matrix.get());
  return readers;
}

RopeSpec rope_spec(const RopeConfig& rope, const std::vector<float>& factors) {
  RopeFrequencies frequencies = rope_frequencies(rope, factors);
  return {std::move(frequencies.inverse), frequencies.magnitude, rope.style};
}

}  // namespace

Model::Model(const GgufFile& file, const ModelConfig& config, const SplitWeights& split,
             const ModelCapacity& capacity, std::unique_ptr<Backend> backend, Communicator& communicator,
             const LoadProgress& progress)
    : config_(config),
      plan_(file, config, split),
      shard_(plan_.rank(communicator.rank())),
      capacity_(capacity),
      shape_(backend_shape(config_, shard_, capacity_)),
      communicator_(communicator),
      backend_(std::move(backend)),
      weights_((check_fit(file), load_weights(file, config, plan_, capacity.cache_type, communicator,
                                              *backend_, load_stats_, progress))) {
  std::vector<RopeSpec> ropes = {rope_spec(config_.rope, weights_.rope_factors)};
  if (config_.n_ropes() > 1) ropes.push_back(rope_spec(config_.rope_local, {}));
  backend_->set_ropes(std::move(ropes));
  backend_->allocate(shape_);
  for (const LayerWeights& layer : weights_.layers) {
    attention_readers_.push_back(attention_readers(layer));
    ffn_readers_.push_back(ffn_readers(layer));
  }
}

/// Before the first byte is read. Throws Error(unavailable) on all ranks where one can't hold its share.
void Model::check_fit(const GgufFile& file) {
  int64_t n_bytes = 0;
  for (const GgufTensor& tensor : file.tensors()) n_bytes += plan_.bytes(tensor, communicator_.rank());
  const std::vector<std::string> faults =
      communicator_.gather_text(backend_->fit_fault(static_cast<size_t>(n_bytes), shape_));
  for (size_t r = 0; r < faults.size(); ++r) {
    if (!faults[r].empty()) throw Error(ExitCode::unavailable, fmt::format("rank {}: {}", r, faults[r]));
  }
}

/// The norm in front of layer `layer`'s attention, behind a reduction whose sum `post` norms first.
NormSpec Model::norm_before_attention(int64_t layer, const Vector* post) {
  NormSpec norm{post, nullptr, config_.norm_eps, {}, {}};
  if (layer < config_.n_layers) {  // behind the last layer the head norms the rows that it needs
    norm.next = weights_.layers[static_cast<size_t>(layer)].attention_norm.get();
    const Readers readers = attention_readers_[static_cast<size_t>(layer)];
    norm.readers = readers.first(kNormReaders);
    norm.later = readers.subspan(kNormReaders);
  }
  return norm;
}

void Model::attention(int64_t index) {
  const LayerWeights& layer = weights_.layers[static_cast<size_t>(index)];
  AttentionSpec spec;
  spec.layer = index;
  spec.rope = config_.is_local(index) ? 1 : 0;
  spec.scale = config_.attention_scale;
  spec.window = config_.window_of(index);
  spec.norm_eps = config_.norm_eps;

  backend_->qkv(layer.attention());
  backend_->rope_append(layer.attention(), spec);
  backend_->attend(spec, *layer.o);
  backend_->attention_output(*layer.o, plan_.attention_chunk());
  backend_->reduce_add_norm({layer.attention_post_norm.get(),
                             layer.ffn_norm.get(),
                             config_.norm_eps,
                             ffn_readers_[static_cast<size_t>(index)],
                             {}});
}

void Model::feed_forward(int64_t index) {
  const LayerWeights& layer = weights_.layers[static_cast<size_t>(index)];
  if (layer.router) {
    backend_->route(*layer.router, config_.n_experts_used);
    backend_->expert_ffn(layer.gates, layer.ups, layer.downs, config_.gate, plan_.ffn_chunk());
  } else {
    backend_->gate_up(*layer.gate, *layer.up, config_.gate, *layer.down);
    backend_->ffn_down(*layer.down, plan_.ffn_chunk());
  }
  backend_->reduce_add_norm(norm_before_attention(index + 1, layer.ffn_post_norm.get()));
}

std::vector<cuda::Product> Model::products() const {
  std::vector<cuda::Product> out;
  for (const LayerWeights& layer : weights_.layers) {
    out.push_back({{layer.q.get(), layer.k.get(), layer.v.get()}});
    out.push_back({{layer.o.get()}});
    if (!layer.router) {
      out.push_back({{layer.gate.get(), layer.up.get()}});
      out.push_back({{layer.down.get()}, false, true});
    }
    for (size_t e = 0; e < layer.gates.size(); ++e) {
      out.push_back({{layer.gates[e].get(), layer.ups[e].get()}, true});
      out.push_back({{layer.downs[e].get()}, true});
    }
  }
  const auto& head = weights_.separate_head ? weights_.separate_head : weights_.embedding;
  out.push_back({{head.get()}});
  return out;
}

void Model::forward(const StepBatch& batch) {
  const auto n_tokens = static_cast<int64_t>(batch.tokens.size());
  require(n_tokens > 0 && n_tokens <= capacity_.max_tokens, "step has a wrong number of tokens", n_tokens);
  backend_->run_step(batch, [this, samples = !batch.samples.empty()] {
    backend_->embed(*weights_.embedding, shard_.vocab, config_.embedding_scale,
                    norm_before_attention(0, nullptr));
    for (int64_t layer = 0; layer < config_.n_layers; ++layer) {
      attention(layer);
      feed_forward(layer);
    }
    if (samples) backend_->token_sampler()->sample(*weights_.output_norm, config_.norm_eps, weights_.head());
  });
}

std::span<const float> Model::logits(std::span<const int64_t> outputs) {
  return backend_->head(outputs, *weights_.output_norm, config_.norm_eps, weights_.head());
}

}  // namespace tandem
