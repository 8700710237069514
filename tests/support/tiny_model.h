// Tiny random models as GGUF files: every family's tensors at odd shapes, any format. Weights are seeded and
// centred, so that activations stay natural through a few layers. Never used outside tests/.
#pragma once

#include <cstdint>
#include <string>

#include "ops/quant/tensor_type.h"
#include "tests/support/gguf_writer.h"

namespace tandem::test {

struct TinyModel {
  std::string architecture = "llama";  ///< or qwen2, gemma3
  TensorType type = TensorType::f32;   ///< of every matrix
  int64_t n_layers = 2;
  int64_t n_embd = 96;
  int64_t n_heads = 9;
  int64_t n_kv_heads = 3;
  int64_t head_dim = 32;
  int64_t n_ff = 160;
  int64_t n_vocab = 135;
  int64_t n_experts = 0;
  int64_t n_experts_used = 2;
  int64_t window = 0;
  bool tied_head = true;
  bool unlike_norms = false;  ///< of gemma3: keys' pairs 1/8 to 8 times as large, queries' as much smaller
  float key_bias = 0.0f;      ///< mean of qwen2's attn_k.bias: how large keys are
  uint64_t seed = 1;

  /// Shapes that every format can fill: rows of 256 elements, cuts inside super-blocks.
  static TinyModel for_type(TensorType type);
  void write(const std::string& path) const;
};

/// `n_elements` random weights in `type`, about `deviation` around zero. Every block is valid and finite.
Bytes random_blocks(TensorType type, int64_t n_elements, float deviation, uint64_t seed);

/// The same value on every machine.
class TestRandom {
 public:
  explicit TestRandom(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t next();
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }  ///< [0, 1)
  float normal();

 private:
  uint64_t state_;
};

}  // namespace tandem::test
