// ops/cpu/matmul: every format and form against ops/ref on the quantised activations, and equal bits whatever
// the tokens, panels, instruction set or split.
#include "ops/cpu/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "ops/core/fixed_point.h"
#include "tests/support/random_matrix.h"

namespace tandem {
namespace {

using testing::computable_types;
using testing::random_matrix;
using testing::RandomMatrix;

constexpr double kTolerance = 1e-11;  // NMSE of float sums against double ones

PackedMatrix pack(const RandomMatrix& m, Range cols) {
  PackedMatrix packed(m.stored.type, m.stored.n_rows, cols);
  packed.put_rows(0, m.stored.n_rows, m.bytes.data(), m.row_stride);
  return packed;
}

/// Columns `cols` of a token's values, which depend on (token, stored column) alone.
Activations make_input(int64_t n_tokens, Range cols, bool extreme = false, float size = 1.0F) {
  Activations x;
  x.reshape(n_tokens, cols.size(), ActForms{}.with(ActForm::f32).with(ActForm::q8).with(ActForm::q15));
  for (int64_t t = 0; t < n_tokens; ++t) {
    std::mt19937 random(static_cast<uint32_t>(1000 + t));
    std::normal_distribution<float> normal(0.2F, 1.0F);
    for (int64_t c = 0; c < cols.end; ++c) {
      float value = normal(random) * size;
      if (extreme) value = value > 0 ? size : -size;
      if (c >= cols.begin) x.f32_row(t)[c - cols.begin] = value;
    }
    for (int64_t c = cols.size(); c < x.padded_cols(); ++c) x.f32_row(t)[c] = 0;
  }
  EXPECT_TRUE(quantize(x, {0, n_tokens}));
  return x;
}

/// What the quantised forms stand for: (n_tokens, padded_cols).
std::vector<float> meaning(const Activations& x, ActForm form) {
  std::vector<float> values;
  for (int64_t t = 0; t < x.n_tokens(); ++t) {
    for (int64_t c = 0; c < x.padded_cols(); ++c) {
      if (form == ActForm::f32) {
        values.push_back(x.f32_row(t)[c]);
        continue;
      }
      const int high = x.high_row(form, t)[c];
      const int q = form == ActForm::q8 ? high : 128 * high + x.low_row(t)[c];
      values.push_back(static_cast<float>(q) * x.scales(form, t)[c / 32]);
    }
  }
  return values;
}

std::vector<float> product(const PackedMatrix& w, const Activations& x, ActForm form, Isa isa = best_isa()) {
  std::vector<float> out(static_cast<size_t>(x.n_tokens() * w.n_rows()), NAN);
  matmul(w, x, form, {0, w.n_panels()}, {0, x.n_tokens()}, out.data(), w.n_rows(), isa);
  return out;
}

std::vector<ActForm> forms_of(TensorType type) {
  if (activation_form(type, true) == ActForm::f32) return {ActForm::f32};
  return {ActForm::q8, ActForm::q15};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.empty() || a.size() != b.size()) return a.size() == b.size();
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Column counts of one or more blocks, some not multiples of 256 where the format allows it.
std::vector<int64_t> widths_of(TensorType type) {
  switch (type_info(type).block_elements) {
    case 1:
      return {1, 19, 300};
    case 32:
      return {32, 96, 544};
    default:
      return {256, 768};
  }
}

class MatmulFormats : public ::testing::TestWithParam<TensorType> {};

TEST_P(MatmulFormats, AgreesWithTheReferenceOnEverySet) {
  const TensorType type = GetParam();
  for (const int64_t n_cols : widths_of(type)) {
    for (const int64_t n_rows : {int64_t{1}, int64_t{16}, int64_t{37}}) {
      for (const bool extreme : {false, true}) {
        const RandomMatrix m = random_matrix(type, n_rows, n_cols, 5, extreme);
        const PackedMatrix packed = pack(m, {0, n_cols});
        const Activations x = make_input(5, {0, n_cols}, extreme);
        for (const ActForm form : forms_of(type)) {
          const std::vector<float> input = meaning(x, form);
          const std::vector<double> truth =
              ref::matmul(m.stored, {0, n_cols}, input.data(), x.padded_cols(), 5);
          const std::vector<float> expected = product(packed, x, form, Isa::generic);
          EXPECT_LT(ref::nmse(expected.data(), truth.data(), truth.size()), kTolerance)
              << n_rows << " " << n_cols;
          for (const Isa isa : supported_isas()) {
            EXPECT_TRUE(same_bits(product(packed, x, form, isa), expected))
                << isa_name(isa) << " rows " << n_rows << " cols " << n_cols << " extreme " << extreme;
          }
        }
      }
    }
  }
}

TEST_P(MatmulFormats, BitsDontDependOnTokensOrPanels) {
  const TensorType type = GetParam();
  const int64_t n_cols = 512;
  const RandomMatrix m = random_matrix(type, 53, n_cols, 6);
  const PackedMatrix packed = pack(m, {0, n_cols});
  const Activations x = make_input(37, {0, n_cols});
  for (const Isa isa : supported_isas()) {
    if (isa == Isa::generic) continue;  // too slow to be worth it: it has the same loops
    for (const ActForm form : forms_of(type)) {
      const std::vector<float> whole = product(packed, x, form, isa);
      for (int64_t n = 1; n < 37; ++n) {
        std::vector<float> out(whole.size(), NAN);
        for (int64_t begin = 0; begin < 37; begin += n) {
          const Range tokens{begin, std::min<int64_t>(37, begin + n)};
          matmul(packed, x, form, {2, 4}, tokens, out.data(), 53, isa);
          matmul(packed, x, form, {0, 2}, tokens, out.data(), 53, isa);
        }
        ASSERT_TRUE(same_bits(out, whole)) << isa_name(isa) << " tokens " << n;
      }
    }
  }
}

TEST_P(MatmulFormats, PartialSumsDontDependOnTheSplit) {
  const TensorType type = GetParam();
  const int64_t n_cols = 768;
  const int64_t n_rows = 21;
  const RandomMatrix m = random_matrix(type, n_rows, n_cols, 7);
  const int64_t n_tokens = 3;
  for (const int64_t chunk : {32, 64, 256}) {
    for (const ActForm form : forms_of(type)) {
      const auto add = [&](Range cols, Isa isa, std::vector<int64_t>& sums) {
        const PackedMatrix packed = pack(m, cols);
        const Activations x = make_input(n_tokens, cols);
        EXPECT_TRUE(matmul_partial(packed, x, form, chunk, {0, packed.n_panels()}, {0, n_tokens}, sums.data(),
                                   n_rows, isa));
      };
      std::vector<int64_t> whole(static_cast<size_t>(n_tokens * n_rows));
      add({0, n_cols}, Isa::generic, whole);
      for (int64_t cut = chunk; cut <= n_cols; cut += chunk) {
        for (const Isa isa : supported_isas()) {
          if (isa == Isa::generic && cut != chunk) continue;
          std::vector<int64_t> parts(whole.size());
          add({cut, n_cols}, isa, parts);
          add({0, cut / (2 * chunk) * chunk}, isa, parts);
          add({cut / (2 * chunk) * chunk, cut}, isa, parts);
          ASSERT_EQ(parts, whole) << isa_name(isa) << " chunk " << chunk << " cut " << cut;
        }
      }
      const Activations x = make_input(n_tokens, {0, n_cols});
      const std::vector<float> input = meaning(x, form);
      const std::vector<double> truth =
          ref::matmul(m.stored, {0, n_cols}, input.data(), x.padded_cols(), n_tokens);
      std::vector<float> floats;
      for (const int64_t sum : whole) floats.push_back(from_fixed_point(sum));
      EXPECT_LT(ref::nmse(floats.data(), truth.data(), truth.size()), kTolerance);
    }
  }
}

TEST_P(MatmulFormats, RowsComeBackExactlyFromAnyShard) {
  const TensorType type = GetParam();
  const int64_t n_cols = 768;
  const RandomMatrix m = random_matrix(type, 19, n_cols, 8);
  for (int64_t begin = 0; begin < n_cols; begin += 32) {
    for (const int64_t end : {begin + 32, (begin + n_cols) / 2 / 32 * 32, n_cols}) {
      const PackedMatrix packed = pack(m, {begin, end});
      for (const int64_t row : {0, 7, 18}) {
        std::vector<float> got(static_cast<size_t>(end - begin), NAN);
        packed.dequantize_row(row, got.data());
        const std::vector<float> whole = ref::dequantize_row(m.stored, row);
        ASSERT_TRUE(same_bits(got, {whole.begin() + begin, whole.begin() + end})) << begin << " " << end;
      }
    }
  }
}

TEST_P(MatmulFormats, RowsMayBePutInAnyPieces) {
  const TensorType type = GetParam();
  const RandomMatrix m = random_matrix(type, 37, 512, 9);
  const PackedMatrix whole = pack(m, {0, 512});
  PackedMatrix pieces(type, 37, {0, 512});
  for (const Range rows : {Range{30, 37}, Range{0, 5}, Range{5, 30}, Range{12, 12}}) {
    pieces.put_rows(rows.begin, rows.size(), m.bytes.data() + rows.begin * static_cast<int64_t>(m.row_stride),
                    m.row_stride);
  }
  ASSERT_EQ(pieces.bytes(), whole.bytes());
  EXPECT_EQ(std::memcmp(pieces.data(), whole.data(), whole.bytes()), 0);
}

TEST_P(MatmulFormats, PackedBytesStayNearTheFiles) {
  const TensorType type = GetParam();
  const PackedMatrix packed(type, 64, {0, 4096});
  const auto stored = static_cast<double>(64 * row_bytes(type, 4096));
  EXPECT_LE(static_cast<double>(packed.bytes()), stored * (type == TensorType::q3_k ? 1.06 : 1.03));
}

TEST_P(MatmulFormats, TheComparerRejectsAWrongAnswer) {
  const TensorType type = GetParam();
  RandomMatrix m = random_matrix(type, 16, 256, 10);
  const Activations x = make_input(1, {0, 256});
  const ActForm form = forms_of(type)[0];
  const std::vector<float> input = meaning(x, form);
  const std::vector<double> truth = ref::matmul(m.stored, {0, 256}, input.data(), 256, 1);
  std::vector<float> got = product(pack(m, {0, 256}), x, form);
  ASSERT_LT(ref::nmse(got.data(), truth.data(), truth.size()), kTolerance);
  ASSERT_NE(got[3], got[4]);
  const std::vector<float> right = got;
  got[5] *= 1.001F;
  EXPECT_GT(ref::nmse(got.data(), truth.data(), truth.size()), kTolerance);
  EXPECT_FALSE(same_bits(got, right));
  got[5] = NAN;
  EXPECT_FALSE(ref::nmse(got.data(), truth.data(), truth.size()) < kTolerance);
  for (size_t i = m.row_stride / 2; i < m.bytes.size(); i += m.row_stride) m.bytes[i] ^= std::byte{0x11};
  EXPECT_FALSE(same_bits(product(pack(m, {0, 256}), x, form), right));
}

TEST_P(MatmulFormats, LargeAndSmallActivations) {
  const TensorType type = GetParam();
  const RandomMatrix m = random_matrix(type, 16, 256, 12);
  const PackedMatrix packed = pack(m, {0, 256});
  for (const float size : {1e6F, 1e-30F}) {
    const Activations x = make_input(2, {0, 256}, false, size);
    for (const ActForm form : forms_of(type)) {
      const std::vector<float> input = meaning(x, form);
      const std::vector<double> truth = ref::matmul(m.stored, {0, 256}, input.data(), 256, 2);
      for (const Isa isa : supported_isas()) {
        const std::vector<float> got = product(packed, x, form, isa);
        EXPECT_LT(ref::nmse(got.data(), truth.data(), truth.size()), kTolerance) << size;
      }
    }
  }
}

std::string type_name(const ::testing::TestParamInfo<TensorType>& info) {
  return std::string(type_info(info.param).name);
}

INSTANTIATE_TEST_SUITE_P(All, MatmulFormats, ::testing::ValuesIn(computable_types()), type_name);

TEST(Matmul, EmptyShardsDoNothing) {
  const Activations x = make_input(2, {0, 0});
  std::vector<int64_t> fixed(6, 77);
  std::vector<float> out(6, 5.0F);
  PackedMatrix no_cols(TensorType::q4_k, 3, {256, 256});
  no_cols.put_rows(0, 3, nullptr, 0);
  EXPECT_TRUE(matmul_partial(no_cols, x, ActForm::q8, 256, {0, 1}, {0, 2}, fixed.data(), 3));
  EXPECT_EQ(fixed, std::vector<int64_t>(6, 77));
  matmul(no_cols, x, ActForm::q8, {0, 1}, {0, 2}, out.data(), 3);
  EXPECT_EQ(out, std::vector<float>(6, 0.0F));  // an empty sum
  const PackedMatrix no_rows(TensorType::q4_k, 0, {0, 256});
  EXPECT_EQ(no_rows.n_panels(), 0);
  EXPECT_EQ(no_rows.bytes(), 0U);
  const Activations y = make_input(2, {0, 256});
  matmul(no_rows, y, ActForm::q8, {0, 0}, {0, 2}, nullptr, 0);
  EXPECT_TRUE(matmul_partial(no_rows, y, ActForm::q8, 256, {0, 0}, {0, 2}, nullptr, 0));
}

TEST(Matmul, PartialSumsOutOfRangeAreTold) {
  for (const Isa isa : supported_isas()) {
    for (const float bad : {NAN, HUGE_VALF, 8388608.0F, -9e6F}) {
      for (const int64_t row : {0, 15, 16, 20}) {
        RandomMatrix m = random_matrix(TensorType::f32, 21, 64, 3);
        std::memcpy(m.bytes.data() + row * static_cast<int64_t>(m.row_stride) + 40 * sizeof(float), &bad,
                    sizeof(bad));
        Activations x = make_input(2, {0, 64});
        for (int64_t c = 0; c < 64; ++c) x.f32_row(1)[c] = c == 40 ? 1.0F : 0.0F;
        const PackedMatrix packed = pack(m, {0, 64});
        std::vector<int64_t> sums(2 * 21);
        EXPECT_FALSE(matmul_partial(packed, x, ActForm::f32, 32, {0, 2}, {1, 2}, sums.data(), 21, isa))
            << bad;
        const int64_t other = row < 16 ? 1 : 0;
        EXPECT_TRUE(
            matmul_partial(packed, x, ActForm::f32, 32, {other, other + 1}, {1, 2}, sums.data(), 21, isa));
      }
    }
  }
}

/// 16 rows of one weight each: their sums in fixed point are the weights.
void expect_exact_fixed_point(const float (&weights)[16]) {
  for (const Isa isa : supported_isas()) {
    RandomMatrix m = random_matrix(TensorType::f32, 16, 32, 3);
    std::memset(m.bytes.data(), 0, m.bytes.size());
    for (size_t row = 0; row < 16; ++row) std::memcpy(m.bytes.data() + row * m.row_stride, &weights[row], 4);
    Activations x = make_input(1, {0, 32});
    x.f32_row(0)[0] = 1.0F;
    std::vector<int64_t> sums(16, -5);
    EXPECT_TRUE(matmul_partial(pack(m, {0, 32}), x, ActForm::f32, 32, {0, 1}, {0, 1}, sums.data(), 16, isa));
    for (size_t row = 0; row < 16; ++row) {
      EXPECT_EQ(sums[row], std::llrint(static_cast<double>(weights[row]) * 0x1p30) - 5)
          << isa_name(isa) << row;
    }
  }
}

TEST(Matmul, FixedPointIsExactForLargeAndTinySums) {
  expect_exact_fixed_point({8388607.5F, -8388607.0F, 0x1p-31F, 0x3p-31F, -0x1p-31F, -0x3p-31F, 0x1.8p-30F,
                            1e-12F, 123456.789F, -0.1F, 0x1.fffffep-7F, 0x1.fffffep-8F, 3.0F, 0.0F, -0.0F,
                            1e-44F});
}

TEST(Matmul, FixedPointIsExactWhereNoSumIsLarge) {  // AVX2 has a way of its own for these
  expect_exact_fixed_point({0x1.fffffep19F, -0x1.fffffep19F, 0x1p-31F, 0x3p-31F, -0x1p-31F, -0x3p-31F,
                            0x1.8p-30F, 1e-12F, 123456.789F, -0.1F, 0x1.fffffep-7F, 0x1.fffffep-8F, -0x5p-31F,
                            0.0F, -0.0F, -1e-44F});
}

}  // namespace
}  // namespace tandem
