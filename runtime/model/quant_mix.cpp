#include "runtime/model/quant_mix.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace tandem {
namespace {

using enum TensorType;

constexpr std::array kMixes = {
    QuantMix{"F32", f32},       QuantMix{"F16", f16},     QuantMix{"BF16", bf16},
    QuantMix{"Q4_0", q4_0},     QuantMix{"Q4_1", q4_1},   QuantMix{"Q5_0", q5_0},
    QuantMix{"Q5_1", q5_1},     QuantMix{"Q8_0", q8_0},   QuantMix{"Q2_K", q2_k},
    QuantMix{"Q3_K_S", q3_k},   QuantMix{"Q3_K_M", q3_k}, QuantMix{"Q3_K_L", q3_k},
    QuantMix{"Q4_K_S", q4_k},   QuantMix{"Q4_K_M", q4_k}, QuantMix{"Q5_K_S", q5_k},
    QuantMix{"Q5_K_M", q5_k},   QuantMix{"Q6_K", q6_k},   QuantMix{"IQ4_NL", iq4_nl},
    QuantMix{"IQ4_XS", iq4_xs},
};

/// "blk.7.attn_v.weight": layer 7, role "attn_v"; without a layer: -1, and the name without ".weight".
struct Role {
  int64_t layer = -1;
  std::string_view name;
};

Role role_of(std::string_view name) {
  Role role;
  if (name.starts_with("blk.")) {
    const size_t dot = name.find('.', 4);
    std::from_chars(name.data() + 4, name.data() + dot, role.layer);
    name.remove_prefix(dot + 1);
  }
  if (name.ends_with(".weight")) name.remove_suffix(7);
  role.name = name;
  return role;
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// The layers that the M mixes give more bits: an eighth at each end, and every third between.
bool more_bits(int64_t i, int64_t n) {
  return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

bool fits(TensorType type, int64_t n_cols) {
  return n_cols % type_info(type).block_elements == 0;
}

/// What is taken where rows are no multiple of 256.
TensorType fall_back(TensorType type, int64_t n_cols) {
  if (fits(type, n_cols)) return type;
  switch (type) {
    case q2_k:
    case q3_k:
      type = q4_0;
      break;
    case q4_k:
      type = q5_0;
      break;
    case q5_k:
      type = q5_1;
      break;
    case q6_k:
      type = q8_0;
      break;
    case iq4_xs:
      type = iq4_nl;
      break;
    default:
      break;
  }
  return fits(type, n_cols) ? type : f16;
}

TensorType attn_v(const MixedModel& model, const QuantMix& mix, int64_t layer) {
  if (model.n_experts == 8) return q8_0;
  const bool wide = model.n_heads / model.n_kv_heads >= 4;
  TensorType type = mix.base;
  if (mix.name == "Q2_K") {
    type = wide ? q4_k : q3_k;
  } else if (mix.name == "Q3_K_M") {
    type = layer < 2 ? q5_k : q4_k;
  } else if (mix.name == "Q3_K_L" || (is_one_of(mix.name, {"IQ4_NL", "IQ4_XS"}) && wide)) {
    type = q5_k;
  } else if (is_one_of(mix.name, {"Q4_K_M", "Q5_K_M"}) && more_bits(layer, model.n_layers)) {
    type = q6_k;
  } else if (mix.name == "Q4_K_S" && layer < 4) {
    type = q5_k;
  }
  // 80 layers with grouped heads: attn_v is an eighth of attn_q, so more bits cost little.
  const bool is_70b =
      model.n_layers == 80 && (model.architecture == "qwen2" || model.n_heads != model.n_kv_heads);
  return is_70b && (type == q3_k || type == q4_k) ? q5_k : type;
}

TensorType ffn_down(const MixedModel& model, const QuantMix& mix, int64_t layer) {
  const int64_t n = model.n_layers;
  if (mix.name == "Q2_K") return q3_k;
  if (mix.name == "Q3_K_M") return layer < n / 16 ? q5_k : q4_k;
  if (mix.name == "Q3_K_L") return q5_k;
  if (is_one_of(mix.name, {"Q4_K_M", "Q5_K_M"}) && more_bits(layer, n)) return q6_k;
  if (is_one_of(mix.name, {"Q4_K_S", "IQ4_NL", "IQ4_XS"}) && layer < n / 8) return q5_k;
  return mix.base;
}

TensorType attn_output(const MixedModel& model, const QuantMix& mix) {
  if (model.n_experts == 8) {
    const bool few_bits =
        is_one_of(mix.name, {"Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS"});
    return few_bits ? q5_k : mix.base;
  }
  if (mix.name == "Q2_K") return q3_k;
  if (mix.name == "Q3_K_M") return q4_k;
  if (mix.name == "Q3_K_L") return q5_k;
  return mix.base;
}

/// Falcon's fused query, key and value.
TensorType attn_qkv(const QuantMix& mix) {
  if (is_one_of(mix.name, {"Q3_K_M", "Q3_K_L"})) return q4_k;
  if (mix.name == "Q4_K_M") return q5_k;
  if (mix.name == "Q5_K_M") return q6_k;
  return mix.base;
}

TensorType head(const MixedModel& model, const QuantMix& mix, int64_t n_cols) {
  const bool wide = model.architecture == "falcon" || !fits(mix.base, n_cols) || mix.base == q8_0;
  return wide ? q8_0 : q6_k;
}

}  // namespace

std::span<const QuantMix> quant_mixes() {
  return kMixes;
}

const QuantMix* find_quant_mix(std::string_view name) {
  const auto found =
      std::find_if(kMixes.begin(), kMixes.end(), [&](const QuantMix& m) { return m.name == name; });
  return found == kMixes.end() ? nullptr : &*found;
}

TensorType mixed_type(const MixedModel& model, const QuantMix& mix, std::string_view name,
                      const std::vector<int64_t>& shape) {
  const Role role = role_of(name);
  if (shape.size() < 2 || role.name == "ffn_gate_inp") return f32;
  TensorType type = mix.base;
  if (type_info(mix.base).block_elements > 1) {
    if (role.name == "output" || (model.tied_head && role.name == "token_embd")) {
      type = head(model, mix, shape[0]);
    } else if (role.name == "attn_v") {
      type = attn_v(model, mix, role.layer);
    } else if (role.name == "attn_k" && model.n_experts == 8) {
      type = q8_0;
    } else if (role.name == "attn_qkv") {
      type = attn_qkv(mix);
    } else if (role.name == "attn_output") {
      type = attn_output(model, mix);
    } else if (role.name.starts_with("ffn_down")) {
      type = ffn_down(model, mix, role.layer);
    }
  }
  return fall_back(type, shape[0]);
}

}  // namespace tandem
