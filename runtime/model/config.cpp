#include "runtime/model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "ops/core/error.h"
#include "runtime/gguf/printable.h"

namespace tandem {
namespace {

constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxWidth = 1 << 20;

constexpr std::array<std::string_view, 3> kArchitectures = {"llama", "qwen2", "gemma3"};

[[noreturn]] void bad(const GgufFile& file, const std::string& what) {
  throw Error(ExitCode::bad_data, fmt::format("{}: {}", printable(file.path(), kPathCharacters), what));
}

/// Looks keys up under the architecture's prefix.
class Keys {
 public:
  Keys(const GgufFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}
  std::string full(std::string_view key) const { return fmt::format("{}.{}", prefix_, key); }
  bool has(std::string_view key) const { return file_.has(full(key)); }
  int64_t integer(std::string_view key, int64_t min, int64_t max) const {
    return file_.get_int(full(key), min, max);
  }
  int64_t integer_or(std::string_view key, int64_t fallback, int64_t min, int64_t max) const {
    return file_.get_int_or(full(key), fallback, min, max);
  }
  double number_or(std::string_view key, double fallback) const {
    return file_.get_float_or(full(key), fallback);
  }
  std::string text_or(std::string_view key, std::string_view fallback) const {
    return file_.get_string_or(full(key), fallback);
  }
  /// A count that some files give a layer each; tandem takes it where all layers agree.
  int64_t uniform(std::string_view key, int64_t fallback, int64_t max) const {
    const std::string name = full(key);
    const auto found = file_.metadata().find(name);
    if (found == file_.metadata().end() || found->second.type != GgufType::array) {
      return file_.get_int_or(name, fallback, 1, max);
    }
    const std::vector<int32_t>& values = *file_.find_ints(name);
    if (values.empty() ||
        std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) != values.end()) {
      bad(file_, fmt::format("{} differs from layer to layer, which tandem does not support", name));
    }
    if (values[0] < 1 || values[0] > max) bad(file_, fmt::format("{} is out of range: {}", name, values[0]));
    return values[0];
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

void read_rope(const GgufFile& file, const Keys& keys, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  rope.style = config.architecture == "llama" ? RopeStyle::adjacent : RopeStyle::halves;
  rope.n_rot = keys.integer_or("rope.dimension_count", config.head_dim, 2, config.head_dim);
  if (rope.n_rot % 2 != 0)
    bad(file, fmt::format("{} is odd: {}", keys.full("rope.dimension_count"), rope.n_rot));
  rope.base = keys.number_or("rope.freq_base", 10000.0);
  if (!(rope.base > 1.0) || !std::isfinite(rope.base)) {
    bad(file, fmt::format("{} must be above 1: {}", keys.full("rope.freq_base"), rope.base));
  }
  const std::string type = keys.text_or("rope.scaling.type", "none");
  // Old files give linear scaling by this key alone.
  const double legacy = keys.number_or("rope.scale_linear", 1.0);
  rope.factor = keys.number_or("rope.scaling.factor", legacy);
  if (!(rope.factor > 0.0) || !std::isfinite(rope.factor)) {
    bad(file, fmt::format("{} must be positive: {}", keys.full("rope.scaling.factor"), rope.factor));
  }
  if (type == "linear" || (type == "none" && !keys.has("rope.scaling.type") && rope.factor != 1.0)) {
    rope.scaling = RopeScaling::linear;
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::yarn;
  } else if (type != "none" && type != "llama3") {  // llama3's scaling is in the rope_freqs tensor
    bad(file, fmt::format("{} = {} is not supported (known: none, linear, yarn, llama3)",
                          keys.full("rope.scaling.type"), in_quotes(type)));
  }
  if (rope.scaling == RopeScaling::none) rope.factor = 1.0;
  rope.original_context =
      keys.integer_or("rope.scaling.original_context_length", config.n_ctx_train, 1, 1 << 30);
  rope.attention_factor = keys.number_or("rope.scaling.attn_factor", 1.0);
  rope.beta_fast = keys.number_or("rope.scaling.yarn_beta_fast", 32.0);
  rope.beta_slow = keys.number_or("rope.scaling.yarn_beta_slow", 1.0);
  config.rope_local = rope;
}

void read_gemma3(const Keys& keys, ModelConfig& config) {
  config.qk_norm = true;
  config.post_norms = true;
  config.gate = Gate::geglu_tanh;
  config.embedding_scale = std::sqrt(static_cast<float>(config.n_embd));
  config.window = keys.integer_or("attention.sliding_window", 0, 0, 1 << 30);
  config.window_period = keys.integer_or("attention.sliding_window_pattern", 6, 1, kMaxLayers);
  // The 27B model divides by the embedding's share of a head instead of the head's size.
  constexpr int64_t kLayersOf27B = 62;
  const int64_t scale_dim =
      config.n_layers == kLayersOf27B ? config.n_embd / config.n_heads : config.head_dim;
  config.attention_scale = 1.0f / std::sqrt(static_cast<float>(scale_dim));
  // Local layers keep the short-context rotation: own base, no stretching.
  config.rope_local.base = keys.number_or("rope.freq_base_swa", 10000.0);
  config.rope_local.scaling = RopeScaling::none;
  config.rope_local.factor = 1.0;
}

void check_consistency(const GgufFile& file, const Keys& keys, const ModelConfig& config) {
  if (config.n_heads % config.n_kv_heads != 0) {
    bad(file, fmt::format("{} heads are not a multiple of {} KV heads", config.n_heads, config.n_kv_heads));
  }
  if (config.n_experts > 0 && (config.n_experts_used < 1 || config.n_experts_used > config.n_experts)) {
    bad(file, fmt::format("{} must be 1 to {}: {}", keys.full("expert_used_count"), config.n_experts,
                          config.n_experts_used));
  }
  if (!(config.norm_eps > 0.0f) || !(config.norm_eps < 1.0f)) {
    bad(file, fmt::format("{} must lie in (0, 1): {}", keys.full("attention.layer_norm_rms_epsilon"),
                          config.norm_eps));
  }
}

int64_t vocabulary_size(const GgufFile& file) {
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr) bad(file, "tensor token_embd.weight is missing");
  return embedding->n_rows();
}

}  // namespace

bool is_known_architecture(std::string_view architecture) {
  return std::find(kArchitectures.begin(), kArchitectures.end(), architecture) != kArchitectures.end();
}

ModelConfig ModelConfig::from_gguf(const GgufFile& file) {
  ModelConfig config;
  config.architecture = file.get_string("general.architecture");
  if (!is_known_architecture(config.architecture)) {
    bad(file, fmt::format("architecture {} is not supported (known: {})", in_quotes(config.architecture),
                          fmt::join(kArchitectures, ", ")));
  }
  const Keys keys(file, config.architecture);
  config.name = printable(file.get_string_or("general.name", config.architecture), 255);
  config.n_layers = keys.integer("block_count", 1, kMaxLayers);
  config.n_embd = keys.integer("embedding_length", 1, kMaxWidth);
  config.n_ff = keys.uniform("feed_forward_length", 0, kMaxWidth);
  config.n_heads = keys.uniform("attention.head_count", 0, kMaxWidth);
  if (config.n_heads < 1) bad(file, fmt::format("{} is missing", keys.full("attention.head_count")));
  if (config.n_ff < 1) bad(file, fmt::format("{} is missing", keys.full("feed_forward_length")));
  config.n_kv_heads = keys.uniform("attention.head_count_kv", config.n_heads, config.n_heads);
  if (!keys.has("attention.key_length") &&
      (config.n_embd % config.n_heads != 0 || config.n_embd < 2 * config.n_heads)) {
    bad(file, fmt::format("{} heads don't divide an embedding of {}, and {} is missing", config.n_heads,
                          config.n_embd, keys.full("attention.key_length")));
  }
  config.head_dim = keys.integer_or("attention.key_length", config.n_embd / config.n_heads, 2, 4096);
  const int64_t value_dim = keys.integer_or("attention.value_length", config.head_dim, 2, 4096);
  if (value_dim != config.head_dim) {
    bad(file, fmt::format("keys of {} and values of {} dimensions a head differ, which {} models don't have",
                          config.head_dim, value_dim, config.architecture));
  }
  config.n_ctx_train = keys.integer_or("context_length", 2048, 1, 1 << 30);
  config.n_experts = keys.integer_or("expert_count", 0, 0, 1024);
  config.n_experts_used = keys.integer_or("expert_used_count", 0, 0, 1024);
  if (config.n_experts > 0) {
    config.n_ff = keys.integer_or("expert_feed_forward_length", config.n_ff, 1, kMaxWidth);
  }
  config.norm_eps = static_cast<float>(keys.number_or("attention.layer_norm_rms_epsilon", 1e-5));
  config.attention_scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  config.n_vocab = vocabulary_size(file);
  config.tied_head = file.find_tensor("output.weight") == nullptr;
  config.qkv_bias = file.find_tensor("blk.0.attn_q.bias") != nullptr;
  read_rope(file, keys, config);
  if (config.architecture == "gemma3") read_gemma3(keys, config);
  check_consistency(file, keys, config);
  return config;
}

RopeFrequencies rope_frequencies(const RopeConfig& rope, const std::vector<float>& factors) {
  const int64_t half = rope.n_rot / 2;
  RopeFrequencies out;
  out.inverse.resize(static_cast<size_t>(half));
  out.magnitude = rope.attention_factor;
  const double stretch = rope.scaling == RopeScaling::none ? 1.0 : 1.0 / rope.factor;
  double low = 0.0;
  double high = 0.0;
  if (rope.scaling == RopeScaling::yarn) {
    // The dimension whose wave turns `beta` times within the original context (YaRN, Peng et al. 2023,
    // section 3.2).
    const auto dimension_of = [&](double beta) {
      return static_cast<double>(rope.n_rot) *
             std::log(static_cast<double>(rope.original_context) / (beta * 2.0 * std::numbers::pi)) /
             (2.0 * std::log(rope.base));
    };
    low = std::max(0.0, std::floor(dimension_of(rope.beta_fast)));
    high = std::min(static_cast<double>(rope.n_rot - 1), std::ceil(dimension_of(rope.beta_slow)));
    out.magnitude *= 1.0 + 0.1 * std::log(rope.factor);
  }
  for (int64_t i = 0; i < half; ++i) {
    const double factor = factors.empty() ? 1.0 : static_cast<double>(factors[static_cast<size_t>(i)]);
    const double full =
        std::pow(rope.base, -2.0 * static_cast<double>(i) / static_cast<double>(rope.n_rot)) / factor;
    double keep = 0.0;  // share of the unstretched frequency
    if (rope.scaling == RopeScaling::yarn) {
      const double ramp = (static_cast<double>(i) - low) / std::max(0.001, high - low);
      keep = 1.0 - std::clamp(ramp, 0.0, 1.0);
    }
    out.inverse[static_cast<size_t>(i)] = full * (stretch * (1.0 - keep) + keep);
  }
  return out;
}

}  // namespace tandem
