// ops/cpu/activations: quantised forms against their definition, bit equality between instruction sets, hard
// values.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "ops/cpu/activations.h"

namespace tandem {
namespace {

constexpr ActForms kAllForms = ActForms{}.with(ActForm::f32).with(ActForm::q8).with(ActForm::q15);

Activations make(int64_t n_tokens, int64_t n_cols, float size, uint32_t seed) {
  Activations x;
  x.reshape(n_tokens, n_cols, kAllForms);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, size);
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int64_t c = 0; c < x.padded_cols(); ++c) x.f32_row(t)[c] = c < n_cols ? normal(random) : 0.0F;
  }
  return x;
}

int64_t integer(const Activations& x, ActForm form, int64_t t, int64_t c) {
  const int64_t high = x.high_row(form, t)[c];
  return form == ActForm::q8 ? high : 128 * high + x.low_row(t)[c];
}

TEST(Quantize, ValuesAreNearestSumsAreRight) {
  for (const float size : {1.0F, 1e6F, 1e-30F}) {
    Activations x = make(3, 100, size, 7);
    ASSERT_TRUE(quantize(x, {0, 3}));
    for (const ActForm form : {ActForm::q8, ActForm::q15}) {
      const float steps = form == ActForm::q8 ? 127.0F : 16319.0F;
      for (int64_t t = 0; t < 3; ++t) {
        for (int64_t g = 0; g < x.n_groups(); ++g) {
          float amax = 0;
          int64_t sums[2] = {0, 0};
          for (int64_t c = 32 * g; c < 32 * g + 32; ++c) {
            amax = std::max(amax, std::fabs(x.f32_row(t)[c]));
            sums[c % 32 / 16] += integer(x, form, t, c);
          }
          const float scale = x.scales(form, t)[g];
          EXPECT_EQ(scale, amax / steps);
          EXPECT_EQ(x.first_sums(form, t)[g], sums[0]);
          EXPECT_EQ(x.sums(form, t)[g], sums[0] + sums[1]);
          for (int64_t c = 32 * g; c < 32 * g + 32; ++c) {
            const double error =
                static_cast<double>(scale) * static_cast<double>(integer(x, form, t, c)) - x.f32_row(t)[c];
            EXPECT_LE(std::fabs(error), 0.501 * scale);
            EXPECT_LE(std::abs(integer(x, form, t, c)), static_cast<int64_t>(steps));
          }
        }
      }
    }
  }
}

TEST(Quantize, TiesGoToEven) {
  Activations x = make(1, 32, 0.0F, 1);
  const float values[] = {127.0F, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F};
  const int expected[] = {127, 0, 2, 2, 0, -2};
  for (int i = 0; i < 6; ++i) x.f32_row(0)[i] = values[i];
  for (const Isa isa : supported_isas()) {
    ASSERT_TRUE(quantize(x, {0, 1}, isa));
    for (int i = 0; i < 6; ++i) EXPECT_EQ(x.high_row(ActForm::q8, 0)[i], expected[i]);
  }
}

TEST(Quantize, SameBitsOnEveryInstructionSet) {
  Activations expected = make(40, 352, 3.0F, 11);
  ASSERT_TRUE(quantize(expected, {0, 40}, Isa::generic));
  for (const Isa isa : supported_isas()) {
    Activations got = make(40, 352, 3.0F, 11);
    ASSERT_TRUE(quantize(got, {0, 40}, isa));
    for (int64_t t = 0; t < 40; ++t) {
      EXPECT_EQ(std::memcmp(got.low_row(t), expected.low_row(t), 352), 0);
      for (const ActForm form : {ActForm::q8, ActForm::q15}) {
        EXPECT_EQ(std::memcmp(got.high_row(form, t), expected.high_row(form, t), 352), 0);
        EXPECT_EQ(std::memcmp(got.scales(form, t), expected.scales(form, t), 11 * sizeof(float)), 0);
        EXPECT_EQ(std::memcmp(got.sums(form, t), expected.sums(form, t), 11 * sizeof(int32_t)), 0);
        EXPECT_EQ(std::memcmp(got.first_sums(form, t), expected.first_sums(form, t), 11 * sizeof(int32_t)),
                  0);
      }
    }
  }
}

TEST(Quantize, HardValues) {
  for (const Isa isa : supported_isas()) {
    Activations x = make(1, 64, 0.0F, 1);
    ASSERT_TRUE(quantize(x, {0, 1}, isa));
    EXPECT_EQ(x.scales(ActForm::q8, 0)[0], 0.0F);
    EXPECT_EQ(x.high_row(ActForm::q15, 0)[5], 0);
    for (const float tiny : {1e-40F, 1e-45F, 9e-37F}) {
      x.f32_row(0)[3] = tiny;
      ASSERT_TRUE(quantize(x, {0, 1}, isa));
      EXPECT_EQ(x.scales(ActForm::q15, 0)[0], 0.0F);
      EXPECT_EQ(x.high_row(ActForm::q8, 0)[3], 0);
    }
    x.f32_row(0)[3] = -std::numeric_limits<float>::max();
    ASSERT_TRUE(quantize(x, {0, 1}, isa));
    EXPECT_EQ(x.high_row(ActForm::q8, 0)[3], -127);
    EXPECT_EQ(integer(x, ActForm::q15, 0, 3), -16319);
    for (const float bad : {NAN, HUGE_VALF, -HUGE_VALF}) {
      for (const int64_t place : {0, 17, 63}) {
        Activations y = make(2, 64, 1.0F, 1);
        y.f32_row(1)[place] = bad;
        EXPECT_TRUE(quantize(y, {0, 1}, isa));
        EXPECT_FALSE(quantize(y, {0, 2}, isa));
      }
    }
  }
}

TEST(Activations, ReshapeKeepsItsMemory) {
  Activations x;
  x.reshape(8, 100, kAllForms);
  const size_t capacity = x.capacity_bytes();
  const float* memory = x.f32_row(0);
  x.reshape(3, 64, kAllForms);
  EXPECT_EQ(x.capacity_bytes(), capacity);
  EXPECT_EQ(x.f32_row(0), memory);
  EXPECT_EQ(x.padded_cols(), 64);
  x.reshape(16, 100, kAllForms);
  EXPECT_GT(x.capacity_bytes(), capacity);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(x.f32_row(1)) % 64, 0U);
  x.reshape(0, 100, kAllForms);
  EXPECT_TRUE(quantize(x, {0, 0}));
}

}  // namespace
}  // namespace tandem
