#include "tests/support/tiny_model.h"

#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>
#include <vector>

namespace tandem::test {
namespace {

/// Where a format's blocks keep their scale and their minimum (offset −1: none), the deviation of a block of
/// random bytes with scale 1, and the minimum that centres it, in scales.
struct BlockRecipe {
  TensorType type;
  int scale_offset;
  int min_offset;
  float unit_deviation;
  float centring_min;
};

constexpr BlockRecipe kRecipes[] = {
    {TensorType::q4_0, 0, -1, 4.6f, 0.0f},    {TensorType::q4_1, 0, 2, 4.6f, -7.5f},
    {TensorType::q5_0, 0, -1, 9.2f, 0.0f},    {TensorType::q5_1, 0, 2, 9.2f, -15.5f},
    {TensorType::q8_0, 0, -1, 73.9f, 0.0f},   {TensorType::q2_k, 80, 82, 9.8f, 1.5f},
    {TensorType::q3_k, 108, -1, 42.0f, 0.0f}, {TensorType::q4_k, 0, 2, 170.0f, 7.5f},
    {TensorType::q5_k, 0, 2, 340.0f, 15.5f},  {TensorType::q6_k, 208, -1, 1366.0f, 0.0f},
    {TensorType::iq4_nl, 0, -1, 70.0f, 0.0f}, {TensorType::iq4_xs, 0, -1, 1290.0f, 0.0f},
};

/// f16 of a small number, by way of its definition (rounds towards zero; tests need no more).
uint16_t half_bits(float value) {
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
  int exponent = 0;
  const float fraction = std::frexp(std::fabs(value), &exponent);  // [0.5, 1)
  if (fraction == 0.0f) return sign;
  if (exponent < -13) {  // subnormal
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::ldexp(fraction, exponent + 24)));
  }
  const auto mantissa = static_cast<uint16_t>(static_cast<int>(std::ldexp(fraction, 11)) & 0x3ff);
  return static_cast<uint16_t>(sign | ((exponent + 14) << 10) | mantissa);
}

void put_half(Bytes& bytes, size_t offset, float value) {
  patch(bytes, offset, half_bits(value));
}

Bytes random_floats(TensorType type, int64_t n, float deviation, float centre, TestRandom& random) {
  Bytes bytes;
  for (int64_t i = 0; i < n; ++i) {
    const float value = centre + deviation * random.normal();
    if (type == TensorType::f32) append_number(bytes, value);
    if (type == TensorType::f16) append_number(bytes, half_bits(value));
    if (type == TensorType::bf16) {
      uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof(bits));
      append_number(bytes, static_cast<uint16_t>(bits >> 16));
    }
  }
  return bytes;
}

}  // namespace

uint64_t TestRandom::next() {  // splitmix64
  state_ += 0x9e3779b97f4a7c15u;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

float TestRandom::normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * uniform()));
}

Bytes random_blocks(TensorType type, int64_t n_elements, float deviation, uint64_t seed) {
  TestRandom random(seed);
  const TensorTypeInfo& info = type_info(type);
  if (info.block_elements == 1) return random_floats(type, n_elements, deviation, 0.0f, random);
  const BlockRecipe* recipe = nullptr;
  for (const BlockRecipe& r : kRecipes) {
    if (r.type == type) recipe = &r;
  }
  if (recipe == nullptr) throw std::invalid_argument("no recipe for this format");
  Bytes bytes(static_cast<size_t>(n_elements / info.block_elements * info.block_bytes));
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) patch(bytes, i, random.next());
  for (size_t i = bytes.size() & ~size_t{7}; i < bytes.size(); ++i)
    bytes[i] = std::byte(random.next() & 0xff);
  for (size_t block = 0; block < bytes.size(); block += static_cast<size_t>(info.block_bytes)) {
    const float scale =
        deviation / recipe->unit_deviation * static_cast<float>(0.75 + 0.5 * random.uniform());
    put_half(bytes, block + static_cast<size_t>(recipe->scale_offset), scale);
    if (recipe->min_offset >= 0) {
      put_half(bytes, block + static_cast<size_t>(recipe->min_offset), scale * recipe->centring_min);
    }
  }
  return bytes;
}

TinyModel TinyModel::for_type(TensorType type) {
  TinyModel model;
  model.type = type;
  if (type_info(type).block_elements == 256) {
    model.n_embd = 256;
    model.n_heads = 8;
    model.n_kv_heads = 2;
    model.n_ff = 512;
  }
  return model;
}

void TinyModel::write(const std::string& path) const {
  GgufWriter out;
  const std::string prefix = architecture + ".";
  out.add("general.architecture", architecture);
  out.add("general.name", "tiny");
  out.add(prefix + "block_count", static_cast<uint32_t>(n_layers));
  out.add(prefix + "context_length", uint32_t{2048});
  out.add(prefix + "embedding_length", static_cast<uint32_t>(n_embd));
  out.add(prefix + "feed_forward_length", static_cast<uint32_t>(n_ff));
  out.add(prefix + "attention.head_count", static_cast<uint32_t>(n_heads));
  out.add(prefix + "attention.head_count_kv", static_cast<uint32_t>(n_kv_heads));
  out.add(prefix + "attention.key_length", static_cast<uint32_t>(head_dim));
  out.add(prefix + "attention.value_length", static_cast<uint32_t>(head_dim));
  out.add(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
  out.add(prefix + "rope.freq_base", 10000.0f);
  if (n_experts > 0) {
    out.add(prefix + "expert_count", static_cast<uint32_t>(n_experts));
    out.add(prefix + "expert_used_count", static_cast<uint32_t>(n_experts_used));
  }
  if (window > 0) out.add(prefix + "attention.sliding_window", static_cast<uint32_t>(window));
  uint64_t next_seed = seed * 1000;
  const auto matrix = [&](const std::string& name, std::vector<int64_t> shape) {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    const float deviation = 1.0f / std::sqrt(static_cast<float>(shape[0]));
    out.add_tensor(name, type, shape, random_blocks(type, n, deviation, ++next_seed));
  };
  const auto vector = [&](const std::string& name, int64_t n, float centre, float deviation) {
    TestRandom random(++next_seed);
    out.add_tensor(name, TensorType::f32, {n}, random_floats(TensorType::f32, n, deviation, centre, random));
  };
  const auto head_norm = [&](const std::string& name, int sign) {
    TestRandom random(++next_seed);
    Bytes bytes;
    for (int64_t i = 0; i < head_dim; ++i) {
      const auto pair = static_cast<int>(i % (head_dim / 2));
      append_number(bytes,
                    std::ldexp(1.0f + 0.1f * random.normal(), unlike_norms ? sign * (pair % 7 - 3) : 0));
    }
    out.add_tensor(name, TensorType::f32, {head_dim}, std::move(bytes));
  };
  const int64_t q_width = n_heads * head_dim;
  const int64_t kv_width = n_kv_heads * head_dim;
  matrix("token_embd.weight", {n_embd, n_vocab});
  for (int64_t l = 0; l < n_layers; ++l) {
    const std::string blk = "blk." + std::to_string(l) + ".";
    vector(blk + "attn_norm.weight", n_embd, 1.0f, 0.1f);
    matrix(blk + "attn_q.weight", {n_embd, q_width});
    matrix(blk + "attn_k.weight", {n_embd, kv_width});
    matrix(blk + "attn_v.weight", {n_embd, kv_width});
    if (architecture == "qwen2") {
      vector(blk + "attn_q.bias", q_width, 0.0f, 0.5f);
      vector(blk + "attn_k.bias", kv_width, key_bias, 0.5f);
      vector(blk + "attn_v.bias", kv_width, 0.0f, 0.5f);
    }
    matrix(blk + "attn_output.weight", {q_width, n_embd});
    if (architecture == "gemma3") {
      head_norm(blk + "attn_q_norm.weight", -1);
      head_norm(blk + "attn_k_norm.weight", 1);
      vector(blk + "post_attention_norm.weight", n_embd, 1.0f, 0.1f);
      vector(blk + "post_ffw_norm.weight", n_embd, 1.0f, 0.1f);
    }
    vector(blk + "ffn_norm.weight", n_embd, 1.0f, 0.1f);
    if (n_experts == 0) {
      matrix(blk + "ffn_gate.weight", {n_embd, n_ff});
      matrix(blk + "ffn_up.weight", {n_embd, n_ff});
      matrix(blk + "ffn_down.weight", {n_ff, n_embd});
    } else {
      TestRandom random(++next_seed);
      out.add_tensor(blk + "ffn_gate_inp.weight", TensorType::f32, {n_embd, n_experts},
                     random_floats(TensorType::f32, n_embd * n_experts, 0.2f, 0.0f, random));
      matrix(blk + "ffn_gate_exps.weight", {n_embd, n_ff, n_experts});
      matrix(blk + "ffn_up_exps.weight", {n_embd, n_ff, n_experts});
      matrix(blk + "ffn_down_exps.weight", {n_ff, n_embd, n_experts});
    }
  }
  vector("output_norm.weight", n_embd, 1.0f, 0.1f);
  if (!tied_head) matrix("output.weight", {n_embd, n_vocab});
  out.write(path);
}

}  // namespace tandem::test
