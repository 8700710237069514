// ops/cpu/simd.h: every instruction set gives the bits of the generic one, and the generic one is right.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>

#include "ops/cpu/isa.h"
#include "tests/ops/cpu/simd_probe.h"

namespace tandem {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// Lanes of all magnitudes; with `special`, infinities, zeros, subnormals and NaN among them.
SimdProbeInput make_input(uint32_t seed, bool special) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> unit(-1.0F, 1.0F);
  std::uniform_int_distribution<int> exponent(-30, 30);
  std::uniform_int_distribution<int32_t> any(std::numeric_limits<int32_t>::min());
  const float specials[] = {kInf, -kInf,    0.0F,     -0.0F,   1e-41F,  -1e-45F,
                            NAN,  65519.9F, 65520.0F, 5.9e-8F, 2.9e-8F, 89.5F};
  SimdProbeInput in{};
  for (int i = 0; i < 16; ++i) {
    in.a[i] = special && i % 3 == 0 ? specials[random() % std::size(specials)] : unit(random) * 30.0F;
    in.b[i] = special && i % 5 == 0 ? specials[random() % std::size(specials)]
                                    : std::ldexp(unit(random), exponent(random));
    in.c[i] = std::ldexp(unit(random), exponent(random));
    in.i[i] = any(random);
    in.j[i] = any(random);
    in.half[i] = static_cast<uint16_t>(random());
    in.bytes[i] = static_cast<int8_t>(random());
  }
  in.n_partial = static_cast<int>(seed % 17);
  return in;
}

SimdProbeOutput run(Isa isa, const SimdProbeInput& in) {
  SimdProbeOutput out{};
  with_isa(isa, [&](auto tag) { simd_probe<decltype(tag)>(in, out); });
  return out;
}

/// All NaNs alike: which operand's payload survives is the one thing left open.
void canonicalise(SimdProbeOutput& out) {
  auto* floats = reinterpret_cast<float*>(&out);
  for (size_t i = 0; i < offsetof(SimdProbeOutput, int_add) / sizeof(float); ++i) {
    if (std::isnan(floats[i])) floats[i] = std::numeric_limits<float>::quiet_NaN();
  }
  for (uint16_t& h : out.to_half) {
    if ((h & 0x7fffU) > 0x7c00U) h = 0x7e00U;
  }
  if (std::isnan(out.total)) out.total = std::numeric_limits<float>::quiet_NaN();
}

TEST(Simd, EverySetGivesTheSameBits) {
  for (uint32_t seed = 0; seed < 400; ++seed) {
    const SimdProbeInput in = make_input(seed, seed % 2 == 1);
    SimdProbeOutput expected = run(Isa::generic, in);
    canonicalise(expected);
    for (const Isa isa : supported_isas()) {
      SimdProbeOutput got = run(isa, in);
      canonicalise(got);
      ASSERT_EQ(std::memcmp(&got, &expected, sizeof(got)), 0) << isa_name(isa) << " seed " << seed;
    }
  }
}

TEST(Simd, GenericIsRight) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const SimdProbeInput in = make_input(seed, false);
    const SimdProbeOutput out = run(Isa::generic, in);
    for (int i = 0; i < 16; ++i) {
      EXPECT_EQ(out.add[i], in.a[i] + in.b[i]);
      EXPECT_EQ(out.fused[i], std::fma(in.a[i], in.b[i], in.c[i]));
      EXPECT_EQ(out.selected[i], in.a[i] < in.b[i] ? in.c[i] : in.a[i]);
      EXPECT_EQ(out.rounded[i], static_cast<int32_t>(std::nearbyint(in.c[i])));
      EXPECT_EQ(out.int_mul[i],
                static_cast<int32_t>(static_cast<uint32_t>(in.i[i]) * static_cast<uint32_t>(in.j[i])));
      EXPECT_EQ(out.arithmetic[i], in.i[i] >> 5);
      EXPECT_EQ(out.narrowed[i], static_cast<int8_t>(in.i[i]));
      EXPECT_EQ(out.partial[i], i < in.n_partial ? in.a[i] : 0.0F);
      EXPECT_EQ(out.partial_stored[i], i < in.n_partial ? in.a[i] : 7.0F);
    }
  }
}

/// An independent reading of a half: sign, exponent, mantissa in double arithmetic.
double half_value(uint16_t h) {
  const double sign = (h & 0x8000U) != 0 ? -1.0 : 1.0;
  const int exponent = h >> 10 & 31;
  const int mantissa = h & 1023;
  if (exponent == 31) return mantissa != 0 ? NAN : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(Simd, HalfConversionsAreExactForAllHalves) {
  std::set<float> distinct;
  for (const Isa isa : supported_isas()) {
    for (uint32_t base = 0; base < 65536; base += 16) {
      SimdProbeInput in = make_input(1, false);
      for (uint32_t i = 0; i < 16; ++i) in.half[i] = static_cast<uint16_t>(base + i);
      const SimdProbeOutput out = run(isa, in);
      std::memcpy(in.a, out.from_half, sizeof(in.a));
      const SimdProbeOutput back = run(isa, in);
      for (int i = 0; i < 16; ++i) {
        const double expected = half_value(in.half[i]);
        if (std::isnan(expected)) {
          ASSERT_TRUE(std::isnan(out.from_half[i]));
          continue;
        }
        ASSERT_EQ(static_cast<double>(out.from_half[i]), expected);
        ASSERT_EQ(back.to_half[i], in.half[i]);
        distinct.insert(out.from_half[i]);
      }
    }
  }
  EXPECT_GT(distinct.size(), 60000U);
}

TEST(Simd, ExpIsNearTheTruthAndHasItsLimits) {
  SimdProbeInput in = make_input(1, false);
  for (int step = 0; step < 20000; ++step) {
    for (int i = 0; i < 16; ++i) in.a[i] = -87.0F + 175.5F * static_cast<float>(step * 16 + i) / 320000.0F;
    const SimdProbeOutput out = run(best_isa(), in);
    for (int i = 0; i < 16; ++i) {
      const double truth = std::exp(static_cast<double>(in.a[i]));
      ASSERT_NEAR(out.exponential[i] / truth, 1.0, 1.2e-7) << in.a[i];
    }
  }
  const float limits[][2] = {{-kInf, 0.0F}, {kInf, kInf},  {0.0F, 1.0F},
                             {-0.0F, 1.0F}, {89.0F, kInf}, {-104.0F, 0.0F}};
  for (const Isa isa : supported_isas()) {
    for (const auto& [x, expected] : limits) {
      in.a[3] = x;
      EXPECT_EQ(run(isa, in).exponential[3], expected) << x;
    }
    in.a[3] = -100.0F;  // a subnormal result
    EXPECT_NEAR(run(isa, in).exponential[3], std::exp(-100.0), 1.5e-45);
    in.a[3] = NAN;
    EXPECT_TRUE(std::isnan(run(isa, in).exponential[3]));
  }
}

}  // namespace
}  // namespace tandem
