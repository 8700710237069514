// Well-known models by name: their shapes, and what their files hold at a given quant mix, so that a plan can
// be made before anything was downloaded. The shapes are those of scripts/synth/shapes.py, held against them
// by tests/scripts/test_plan_presets.py. Called by launch/plan.
#pragma once

#include <span>
#include <string_view>

#include "runtime/gguf/gguf.h"
#include "runtime/model/quant_mix.h"

namespace tandem {

struct ModelPreset {
  std::string_view name;
  std::string_view architecture;
  int64_t n_layers = 0;
  int64_t n_embd = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t n_ff = 0;  ///< of one expert where there are experts
  int64_t n_vocab = 0;
  int64_t n_ctx = 0;
  int64_t n_experts = 0;
  int64_t n_experts_used = 0;
  bool rope_factors = false;  ///< has a rope_freqs tensor
  // DeepSeek's compressed attention; tandem has no such architecture, only its size is known here
  int64_t n_ff_dense = 0;  ///< of the first layer, which has no experts
  int64_t q_rank = 0;      ///< 0: queries are not compressed
};

std::span<const ModelPreset> model_presets();
/// Null where there is none of this name.
const ModelPreset* find_preset(std::string_view name);
/// Whether tandem can run such a model; of the others only the file's size is known.
bool can_run(const ModelPreset& preset);

/// The directory of the preset's file at this mix (GgufFile::from_directory): its size is exact but for the
/// vocabulary, and ModelConfig::from_gguf() reads it where can_run().
GgufFile preset_file(const ModelPreset& preset, const QuantMix& mix);

}  // namespace tandem
