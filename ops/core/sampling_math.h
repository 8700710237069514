// The arithmetic of sampling, one value at a time: what ops/cpu/kernels/sampling_impl.h computes in lanes,
// with the same bits. For device code, and for tests that hold both against each other. `Math` has fma, mul,
// add and div of floats, each rounded once and never contracted with its neighbour.
#pragma once

#include <bit>
#include <cstdint>

namespace tandem::sampling {

/// Floats as integers in the same order; both zeros are one.
constexpr uint32_t ordered_bits(float x) {
  const uint32_t bits = x == 0.0F ? 0U : std::bit_cast<uint32_t>(x);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
constexpr float from_ordered_bits(uint32_t ordered) {
  return std::bit_cast<float>((ordered & 0x80000000U) != 0 ? ordered & 0x7fffffffU : ~ordered);
}

/// A token and its score in one number: the order of Candidates (ops/cpu/sampling.h), greater is better.
/// No two tokens have the same key, and none has key 0.
using Key = uint64_t;
inline constexpr Key kNoKey = 0;

constexpr Key key_of(float score, int32_t id) {
  return Key{ordered_bits(score)} << 32 | (0xffffffffU - static_cast<uint32_t>(id));
}
constexpr float score_of(Key key) {
  return from_ordered_bits(static_cast<uint32_t>(key >> 32));
}
constexpr int32_t id_of(Key key) {
  return static_cast<int32_t>(0xffffffffU - static_cast<uint32_t>(key));
}

constexpr bool is_chosen_from(float logit) {
  return logit > -__builtin_inff();
}

/// e^x, as F32x16's (ops/cpu/simd.h).
template <class Math>
constexpr float exp_of(float x) {
  const float above = -104.0F > x ? -104.0F : x;
  const float clamped = 89.0F < above ? 89.0F : above;
  constexpr float kMagic = 12582912.0F;
  const float shifted = Math::fma(clamped, 1.44269504F, kMagic);
  const float n = Math::add(shifted, -kMagic);
  float r = Math::fma(n, -0.693359375F, clamped);
  r = Math::fma(n, 2.12194440e-4F, r);
  float p = 1.38145417e-3F;
  p = Math::fma(p, r, 8.36874545e-3F);
  p = Math::fma(p, r, 4.1668389e-2F);
  p = Math::fma(p, r, 1.66665211e-1F);
  p = Math::fma(p, r, 4.9999994e-1F);
  p = Math::fma(p, r, 1.0F);
  p = Math::fma(p, r, 1.0F);
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - 0x4b400000;
  const int32_t half = exponent >> 1;
  const auto power = [](int32_t e) { return std::bit_cast<float>(static_cast<uint32_t>(e + 127) << 23); };
  return Math::mul(Math::mul(p, power(half)), power(exponent - half));
}

/// exp(logit - max) in units of 2^-40, rounded to an integer: exp_fixed(logit, max, 1).
template <class Math>
constexpr int64_t weight_of(float logit, float max) {
  constexpr double kRound = 0x1.8p52;
  const double units = static_cast<double>(exp_of<Math>(Math::add(logit, -max))) * 0x1p40;  // exact
  return std::bit_cast<int64_t>(units + kRound) - std::bit_cast<int64_t>(kRound);
}

/// ln(x) for positive normal x, as ops/cpu/kernels/vector_math.h.
template <class Math>
constexpr float log_of(float x) {
  const int32_t above = std::bit_cast<int32_t>(x) - 0x3f3504f3;
  const auto n = static_cast<float>(above >> 23);
  const float m = std::bit_cast<float>((above & 0x007fffff) + 0x3f3504f3);
  const float f = Math::add(m, -1.0F);
  float p = -7.63442986e-2F;
  p = Math::fma(p, f, 1.27615503e-1F);
  p = Math::fma(p, f, -1.31601951e-1F);
  p = Math::fma(p, f, 1.42017625e-1F);
  p = Math::fma(p, f, -1.66233565e-1F);
  p = Math::fma(p, f, 2.00012267e-1F);
  p = Math::fma(p, f, -2.50008211e-1F);
  p = Math::fma(p, f, 3.33333317e-1F);
  const float square = Math::mul(f, f);
  float tail = Math::fma(Math::mul(p, f), square, Math::mul(-0.5F, square));
  tail = Math::fma(n, -2.12194440e-4F, tail);
  return Math::fma(n, 0.693359375F, Math::add(f, tail));
}

/// Word id % 4 of Philox4x32-10 with the seed as key and the counter (id / 4, position, 0).
constexpr uint32_t philox_word(uint64_t seed, uint64_t position, int32_t id) {
  uint32_t a = static_cast<uint32_t>(id) / 4;
  auto b = static_cast<uint32_t>(position);
  auto c = static_cast<uint32_t>(position >> 32);
  uint32_t d = 0;
  auto k0 = static_cast<uint32_t>(seed);
  auto k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53U} * a;
    const uint64_t p1 = uint64_t{0xCD9E8D57U} * c;
    a = static_cast<uint32_t>(p1 >> 32) ^ b ^ k0;
    b = static_cast<uint32_t>(p1);
    c = static_cast<uint32_t>(p0 >> 32) ^ d ^ k1;
    d = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  const int word = id % 4;
  return word == 0 ? a : word == 1 ? b : word == 2 ? c : d;
}

/// gumbel_noise(seed, position, id).
template <class Math>
constexpr float noise_of(uint64_t seed, uint64_t position, int32_t id) {
  const uint32_t word = philox_word(seed, position, id);
  const auto v = static_cast<float>((static_cast<double>(word) + 0.5) * 0x1p-32);
  const auto w = static_cast<float>((static_cast<double>(~word) + 0.5) * 0x1p-32);
  const float lost = v < 0.5F ? Math::add(Math::add(1.0F, -w), -v) : 0.0F;
  const float inner = Math::add(log_of<Math>(w), Math::div(lost, w));
  return Math::add(0.0F, -log_of<Math>(Math::add(0.0F, -inner)));
}

}  // namespace tandem::sampling
