// Which format each tensor of a model gets in the mixes that llama-quantize makes (without an importance
// matrix), so that sizes are known before a file is there. The same rules as scripts/synth/mix.py, held
// against each other by tests/scripts/test_plan_presets.py. Called by runtime/model/preset.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "ops/quant/tensor_type.h"

namespace tandem {

/// A mix by llama-quantize's name, and the format that most of its tensors have.
struct QuantMix {
  std::string_view name;
  TensorType base;
};

std::span<const QuantMix> quant_mixes();
/// Null where there is none of this name.
const QuantMix* find_quant_mix(std::string_view name);

/// What the rules ask of a model.
struct MixedModel {
  std::string_view architecture;
  int64_t n_layers = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t n_experts = 0;
  bool tied_head = false;
};

/// The format of the tensor `name` of shape `shape` (fastest-varying first).
TensorType mixed_type(const MixedModel& model, const QuantMix& mix, std::string_view name,
                      const std::vector<int64_t>& shape);

}  // namespace tandem
