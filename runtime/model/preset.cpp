#include "runtime/model/preset.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "runtime/model/config.h"

namespace tandem {
namespace {

constexpr ModelPreset dense(std::string_view name, std::string_view architecture, int64_t n_layers,
                            int64_t n_embd, int64_t n_heads, int64_t n_ff, int64_t n_vocab, int64_t n_ctx) {
  return {name, architecture, n_layers, n_embd, n_heads, 8, 128, n_ff, n_vocab, n_ctx};
}

constexpr ModelPreset llama31(std::string_view name, int64_t n_layers, int64_t n_embd, int64_t n_heads,
                              int64_t n_ff) {
  ModelPreset preset = dense(name, "llama", n_layers, n_embd, n_heads, n_ff, 128256, 131072);
  preset.rope_factors = true;
  return preset;
}

constexpr ModelPreset mixtral(std::string_view name, int64_t n_layers, int64_t n_embd, int64_t n_heads,
                              int64_t n_ff, int64_t n_ctx) {
  ModelPreset preset = dense(name, "llama", n_layers, n_embd, n_heads, n_ff, 32000, n_ctx);
  preset.n_experts = 8;
  preset.n_experts_used = 2;
  return preset;
}

constexpr ModelPreset deepseek2(std::string_view name, int64_t n_layers, int64_t n_embd, int64_t n_heads,
                                int64_t n_ff, int64_t n_ff_dense, int64_t n_experts, int64_t q_rank) {
  ModelPreset preset = dense(name, "deepseek2", n_layers, n_embd, n_heads, n_ff, 102400, 163840);
  preset.n_kv_heads = n_heads;
  preset.n_experts = n_experts;
  preset.n_experts_used = 6;
  preset.n_ff_dense = n_ff_dense;
  preset.q_rank = q_rank;
  return preset;
}

constexpr std::array kPresets = {
    llama31("llama-3.1-8b", 32, 4096, 32, 14336),
    llama31("llama-3.1-70b", 80, 8192, 64, 28672),
    dense("llama-2-70b", "llama", 80, 8192, 64, 28672, 32000, 4096),
    dense("yi-34b", "llama", 60, 7168, 56, 20480, 64000, 4096),
    dense("codellama-34b", "llama", 48, 8192, 64, 22016, 32000, 16384),
    dense("qwen2.5-32b", "qwen2", 64, 5120, 40, 27648, 152064, 32768),
    dense("qwen2.5-72b", "qwen2", 80, 8192, 64, 29568, 152064, 32768),
    mixtral("mixtral-8x7b", 32, 4096, 32, 14336, 32768),
    mixtral("mixtral-8x22b", 56, 6144, 48, 16384, 65536),
    ModelPreset{"falcon-40b", "falcon", 60, 8192, 128, 8, 64, 32768, 65024, 2048},
    deepseek2("deepseek-v2", 60, 5120, 128, 1536, 12288, 160, 1536),
    deepseek2("deepseek-v2-lite", 27, 2048, 16, 1408, 10944, 64, 0),
};

/// Collects the tensors of a file in their order.
class Directory {
 public:
  Directory(const ModelPreset& preset, const QuantMix& mix)
      : mix_(mix), model_{preset.architecture, preset.n_layers,  preset.n_heads,
                          preset.n_kv_heads,   preset.n_experts, false} {}

  void add(const std::string& name, std::vector<int64_t> shape) {
    GgufTensor tensor;
    tensor.name = name;
    tensor.type = mixed_type(model_, mix_, name, shape);
    tensor.shape = std::move(shape);
    tensors_.push_back(std::move(tensor));
  }
  std::vector<GgufTensor> take() { return std::move(tensors_); }

 private:
  const QuantMix& mix_;
  MixedModel model_;
  std::vector<GgufTensor> tensors_;
};

void add_llama_attention(Directory& out, const ModelPreset& p, const std::string& at) {
  const int64_t n_q = p.n_heads * p.head_dim;
  const int64_t n_kv = p.n_kv_heads * p.head_dim;
  out.add(at + "attn_q.weight", {p.n_embd, n_q});
  out.add(at + "attn_k.weight", {p.n_embd, n_kv});
  out.add(at + "attn_v.weight", {p.n_embd, n_kv});
  out.add(at + "attn_output.weight", {n_q, p.n_embd});
  if (p.architecture != "qwen2") return;
  out.add(at + "attn_q.bias", {n_q});
  out.add(at + "attn_k.bias", {n_kv});
  out.add(at + "attn_v.bias", {n_kv});
}

/// Keys and values are made from a row of 512 and a rotated one of 64 that all heads share.
void add_deepseek_attention(Directory& out, const ModelPreset& p, const std::string& at) {
  constexpr int64_t kKvRank = 512;
  constexpr int64_t kRotated = 64;
  const int64_t n_q = p.n_heads * (p.head_dim + kRotated);
  if (p.q_rank > 0) {
    out.add(at + "attn_q_a.weight", {p.n_embd, p.q_rank});
    out.add(at + "attn_q_a_norm.weight", {p.q_rank});
    out.add(at + "attn_q_b.weight", {p.q_rank, n_q});
  } else {
    out.add(at + "attn_q.weight", {p.n_embd, n_q});
  }
  out.add(at + "attn_kv_a_mqa.weight", {p.n_embd, kKvRank + kRotated});
  out.add(at + "attn_kv_a_norm.weight", {kKvRank});
  out.add(at + "attn_kv_b.weight", {kKvRank, 2 * p.n_heads * p.head_dim});
  out.add(at + "attn_output.weight", {p.n_heads * p.head_dim, p.n_embd});
}

void add_ffn(Directory& out, const ModelPreset& p, const std::string& at, int64_t layer) {
  const auto gated = [&](const std::string& suffix, int64_t n_ff, int64_t n_experts) {
    const auto shape = [&](int64_t cols, int64_t rows) {
      return n_experts > 0 ? std::vector{cols, rows, n_experts} : std::vector{cols, rows};
    };
    out.add(at + "ffn_gate" + suffix + ".weight", shape(p.n_embd, n_ff));
    out.add(at + "ffn_up" + suffix + ".weight", shape(p.n_embd, n_ff));
    out.add(at + "ffn_down" + suffix + ".weight", shape(n_ff, p.n_embd));
  };
  if (p.n_experts == 0) return gated("", p.n_ff, 0);
  if (p.n_ff_dense > 0 && layer == 0) return gated("", p.n_ff_dense, 0);
  out.add(at + "ffn_gate_inp.weight", {p.n_embd, p.n_experts});
  gated("_exps", p.n_ff, p.n_experts);
  if (p.architecture == "deepseek2") gated("_shexp", 2 * p.n_ff, 0);  // two experts that every token uses
}

void add_falcon_layer(Directory& out, const ModelPreset& p, const std::string& at) {
  for (const char* name : {"attn_norm.weight", "attn_norm.bias", "attn_norm_2.weight", "attn_norm_2.bias"})
    out.add(at + name, {p.n_embd});
  out.add(at + "attn_qkv.weight", {p.n_embd, (p.n_heads + 2 * p.n_kv_heads) * p.head_dim});
  out.add(at + "attn_output.weight", {p.n_heads * p.head_dim, p.n_embd});
  out.add(at + "ffn_up.weight", {p.n_embd, p.n_ff});
  out.add(at + "ffn_down.weight", {p.n_ff, p.n_embd});
}

GgufMetadata keys_of(const ModelPreset& p, const QuantMix& mix) {
  GgufMetadata keys;
  const auto text = [&](const std::string& key, std::string value) {
    keys[key] = {GgufType::string, std::move(value)};
  };
  const auto count = [&](const std::string& key, int64_t value) {
    keys[fmt::format("{}.{}", p.architecture, key)] = {GgufType::u32, static_cast<uint64_t>(value)};
  };
  text("general.architecture", std::string(p.architecture));
  text("general.name", fmt::format("{} {}", p.name, mix.name));
  count("block_count", p.n_layers);
  count("context_length", p.n_ctx);
  count("embedding_length", p.n_embd);
  count("feed_forward_length", p.n_ff);
  count("attention.head_count", p.n_heads);
  count("attention.head_count_kv", p.n_kv_heads);
  count("attention.key_length", p.head_dim);
  count("attention.value_length", p.head_dim);
  if (p.n_experts > 0) {
    count("expert_count", p.n_experts);
    count("expert_used_count", p.n_experts_used);
  }
  return keys;
}

}  // namespace

std::span<const ModelPreset> model_presets() {
  return kPresets;
}

const ModelPreset* find_preset(std::string_view name) {
  const auto found =
      std::find_if(kPresets.begin(), kPresets.end(), [&](const ModelPreset& p) { return p.name == name; });
  return found == kPresets.end() ? nullptr : &*found;
}

bool can_run(const ModelPreset& preset) {
  return is_known_architecture(preset.architecture);
}

GgufFile preset_file(const ModelPreset& preset, const QuantMix& mix) {
  Directory out(preset, mix);
  out.add("token_embd.weight", {preset.n_embd, preset.n_vocab});
  if (preset.rope_factors) out.add("rope_freqs.weight", {preset.head_dim / 2});
  for (int64_t i = 0; i < preset.n_layers; ++i) {
    const std::string at = fmt::format("blk.{}.", i);
    if (preset.architecture == "falcon") {
      add_falcon_layer(out, preset, at);
      continue;
    }
    out.add(at + "attn_norm.weight", {preset.n_embd});
    if (preset.architecture == "deepseek2") {
      add_deepseek_attention(out, preset, at);
    } else {
      add_llama_attention(out, preset, at);
    }
    out.add(at + "ffn_norm.weight", {preset.n_embd});
    add_ffn(out, preset, at, i);
  }
  out.add("output_norm.weight", {preset.n_embd});
  out.add("output.weight", {preset.n_embd, preset.n_vocab});
  return GgufFile::from_directory(fmt::format("{} {}", preset.name, mix.name), keys_of(preset, mix),
                                  out.take());
}

}  // namespace tandem
