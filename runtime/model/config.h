// What a model is: the numbers of its architecture, read from GGUF metadata and checked against each other.
// Called by runtime/model and launch/commands. Reads no tensor data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ops/variants.h"
#include "runtime/gguf/gguf.h"

namespace tandem {

enum class RopeScaling : uint8_t { none, linear, yarn };

struct RopeConfig {
  RopeStyle style = RopeStyle::adjacent;
  int64_t n_rot = 0;  ///< dimensions of a head that turn
  double base = 10000.0;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1.0;  ///< context is stretched by this
  double attention_factor = 1.0;
  int64_t original_context = 0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
};

struct ModelConfig {
  std::string architecture;  ///< "llama", "qwen2", "gemma3"
  std::string name;
  int64_t n_layers = 0;
  int64_t n_embd = 0;
  int64_t n_ff = 0;  ///< of one expert where there are experts
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;  ///< of queries, keys and values
  int64_t n_vocab = 0;
  int64_t n_ctx_train = 0;
  int64_t n_experts = 0;  ///< 0: a dense FFN
  int64_t n_experts_used = 0;
  float norm_eps = 1e-5f;
  float embedding_scale = 1.0f;
  float attention_scale = 0.0f;
  Gate gate = Gate::swiglu;
  bool qkv_bias = false;
  bool qk_norm = false;       ///< per-head RMS norm of q and k before they turn
  bool post_norms = false;    ///< norms behind attention and FFN, before the residual sum
  bool tied_head = false;     ///< the head is the embedding table
  RopeConfig rope;            ///< of layers that see the whole context
  RopeConfig rope_local;      ///< of layers with a sliding window
  int64_t window = 0;         ///< positions that a local layer sees; 0: there are no such layers
  int64_t window_period = 0;  ///< every window_period-th layer sees everything

  bool is_local(int64_t layer) const { return window > 0 && (layer + 1) % window_period != 0; }
  const RopeConfig& rope_of(int64_t layer) const { return is_local(layer) ? rope_local : rope; }
  int64_t window_of(int64_t layer) const { return is_local(layer) ? window : 0; }
  /// Sets of rotations: `rope`'s, and `rope_local`'s where there are such layers.
  int64_t n_ropes() const { return window > 0 ? 2 : 1; }

  /// Throws Error(bad_data): an unknown architecture (lists the known ones), a missing or contradictory key.
  static ModelConfig from_gguf(const GgufFile& file);
};

/// Whether from_gguf() knows the architecture.
bool is_known_architecture(std::string_view architecture);

/// Inverse frequencies (n_rot / 2) with the scaling applied, and what cos and sin are multiplied with.
struct RopeFrequencies {
  std::vector<double> inverse;
  double magnitude = 1.0;
};

/// `factors`: the file's rope_freqs tensor (n_rot / 2), or empty.
RopeFrequencies rope_frequencies(const RopeConfig& rope, const std::vector<float>& factors);

}  // namespace tandem
