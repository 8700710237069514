// Halves of activations on a GPU: their rounding, products of them by cuBLASLt in panels and with gate and up
// in one pass, experts' order.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "ops/cuda/experts.h"
#include "ops/cuda/rows.h"
#include "tests/ops/cuda/products_case.h"

namespace tandem::cuda {
namespace {

class Halves : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(Halves, AreTheNearestOfScaledValues) {
  const Range cols{96, 1000};
  const Input x = make_input(4, cols, ActForm::f16);
  ASSERT_TRUE(x.padding_is_zero);
  ASSERT_EQ(x.meaning.size(), x.given.size());
  for (size_t i = 0; i < x.given.size(); ++i)
    ASSERT_NEAR(x.meaning[i], x.given[i], std::fabs(x.given[i]) * 0x1p-11F + 1e-12F) << i;
  std::vector<float> wrong = x.meaning;
  wrong[7] *= 1.01F;
  EXPECT_GT(std::fabs(wrong[7] - x.given[7]), std::fabs(x.given[7]) * 0x1p-11F);
}

TEST_F(Halves, PanelsGiveTheSameBits) {
  const RandomMatrix m = random_matrix(TensorType::q4_k, 520, 1024, 31);
  const RandomMatrix other = random_matrix(TensorType::q4_k, 520, 1024, 32);
  CudaMatrix weight = upload(m, {0, 1024});
  CudaMatrix up = upload(other, {0, 1024});
  for (CudaMatrix* matrix : {&weight, &up}) matrix->set_roads({0, Roads::kLeastBatch});
  const Input x = make_input(80, {0, 1024}, ActForm::f16);
  const auto truth = ref::matmul(m.stored, {0, 1024}, x.meaning.data(), 1024, 80);
  const GemvOperand part{&weight};
  int n_roads = 0;
  for (const bool prompts : {false, true}) {  // deterministic ones, by our own kernel
    Products whole(int64_t{1} << 22, prompts);
    Products panels(int64_t{1} << 17, prompts);  // 128 rows at a time
    if (whole.road_of({&part, 1}, ActForm::f16, 80, prompts) != Road::unpacked) continue;
    ++n_roads;
    const auto multiplied = [&](Products& products, const std::vector<const CudaMatrix*>& weights,
                                Epilogue epilogue) {
      return multiply(products, weights, x, GemvOptions{epilogue, false}, {}, prompts)[0];
    };
    const std::vector<float> got = multiplied(whole, {&weight}, Epilogue::none);
    EXPECT_LT(nmse(got, truth), kTolerance);
    EXPECT_LT(nmse(multiplied(panels, {&weight}, Epilogue::none), truth), kTolerance);
    const std::vector<float> gated = multiplied(whole, {&weight, &up}, Epilogue::swiglu);
    const std::vector<float> gated_in_panels = multiplied(panels, {&weight, &up}, Epilogue::swiglu);
    EXPECT_LT(nmse(gated_in_panels, {gated.begin(), gated.end()}), kTolerance);
    if (prompts) {
      EXPECT_EQ(multiplied(panels, {&weight}, Epilogue::none), got);
    }
  }
  if (n_roads == 0) GTEST_SKIP() << "no road through unpacked weights here";
}

/// Sums of gate and up as cuBLASLt leaves them, (n_tokens, n_rows) each, and the scales they lack.
struct RawPair {
  RawPair(int64_t n_tokens, int64_t n_rows)
      : gate(to_device(floats_of(n_tokens, {0, n_rows}, 40.0F))),
        up(to_device(floats_of(n_tokens, {7, 7 + n_rows}, 300.0F))) {
    std::vector<float> values;
    for (int64_t t = 0; t < n_tokens; ++t) values.push_back(std::ldexp(1.0F, static_cast<int>(t % 5) - 3));
    scales = to_device(values);
    for (RawRows* rows : {&raw_gate, &raw_up}) {
      *rows = {nullptr, n_rows, n_rows, n_tokens, scales.data(), sizeof(float), 0.25F};
    }
    raw_gate.data = gate.data();
    raw_up.data = up.data();
  }
  DeviceBuffer<float> gate;
  DeviceBuffer<float> up;
  DeviceBuffer<float> scales;
  RawRows raw_gate;
  RawRows raw_up;
};

std::vector<std::byte> bytes_of(const CudaActivations& x) {
  return to_host(x.data(), static_cast<size_t>(x.max_tokens() * x.token_bytes()));
}

TEST_F(Halves, GatesGoStraightToThem) {
  constexpr int64_t kTokens = 9;
  const auto flag = to_device(std::vector<uint32_t>{0});
  const Stream stream;
  for (const Range cols : {Range{0, 4}, Range{96, 1000}, Range{256, 3000}, Range{0, 11008}}) {
    RawPair pair(kTokens, cols.size());
    const CudaActivations straight(kTokens + 2, cols, ActForm::f16);
    CudaActivations filled(kTokens + 2, cols, ActForm::f16);
    ASSERT_TRUE(writes_halves(cols.size(), straight));
    for (const Epilogue kind : {Epilogue::geglu, Epilogue::swiglu}) {
      gate_halves(kind, pair.raw_gate, pair.raw_up, straight, 0, flag.data(), stream.get());
      stream.synchronize();
      RawPair again(kTokens, cols.size());
      gate_rows(kind, again.raw_gate, again.raw_up, stream.get());
      filled.fill(again.gate.data(), cols.size(), kTokens, nullptr, stream.get());
      stream.synchronize();
      EXPECT_EQ(bytes_of(straight), bytes_of(filled)) << cols.size();
    }
    EXPECT_EQ(to_host(flag.data(), 1)[0], 0U);
    gate_halves(Epilogue::swiglu, pair.raw_gate, pair.raw_up, straight, 2, nullptr, stream.get());
    stream.synchronize();
    const std::vector<std::byte> behind = bytes_of(straight);  // the same tokens, two places behind
    const std::vector<std::byte> before = bytes_of(filled);
    EXPECT_TRUE(std::equal(before.begin(), before.end() - 2 * filled.token_bytes(),
                           behind.begin() + 2 * filled.token_bytes()));
    EXPECT_NE(behind, before);
  }
  RawPair bad(kTokens, 904);
  check(cudaMemset(bad.up.data() + 5000, 0xff, sizeof(float)));  // a NaN
  check(cudaDeviceSynchronize());
  const CudaActivations out(kTokens, {96, 1000}, ActForm::f16);
  gate_halves(Epilogue::swiglu, bad.raw_gate, bad.raw_up, out, 0, flag.data(), stream.get());
  stream.synchronize();
  EXPECT_EQ(to_host(flag.data(), 1)[0], 1U);
}

TEST_F(Halves, TakeGatesWhereTheyHaveRoom) {
  EXPECT_FALSE(writes_halves(904, CudaActivations(1, {96, 1000}, ActForm::q8)));
  EXPECT_FALSE(writes_halves(900, CudaActivations(1, {96, 1000}, ActForm::f16)));
  EXPECT_FALSE(writes_halves(6, CudaActivations(1, {0, 6}, ActForm::f16)));
  EXPECT_FALSE(writes_halves(904, CudaActivations(1, {95, 999}, ActForm::f16)));
  EXPECT_FALSE(writes_halves(1 << 20, CudaActivations(1, {0, 1 << 20}, ActForm::f16)));
  EXPECT_TRUE(writes_halves(904, CudaActivations(1, {96, 1000}, ActForm::f16)));
}

/// Through the road of cuBLASLt.
TEST_F(Halves, OfGatedProductsAgreeWithTheReference) {
  std::string why_not;
  if (Blas::open(why_not) == nullptr) GTEST_SKIP() << why_not;
  constexpr int64_t kTokens = 100;
  const Range cols{64, 264};
  const RandomMatrix gate = random_matrix(TensorType::q4_k, cols.size(), 1024, 21);
  const RandomMatrix up = random_matrix(TensorType::q4_k, cols.size(), 1024, 22);
  CudaMatrix weights[] = {upload(gate, {0, 1024}), upload(up, {0, 1024})};
  for (CudaMatrix& weight : weights) weight.set_roads({0, Roads::kLeastBatch});
  const Input x = make_input(kTokens, {0, 1024}, ActForm::f16, 0.1F);
  const DeviceBuffer<float> rows(static_cast<size_t>(2 * kTokens * cols.size()));
  const GemvOperand parts[] = {
      {&weights[0], nullptr, rows.data(), cols.size()},
      {&weights[1], nullptr, rows.data() + kTokens * cols.size(), cols.size()},
  };
  CudaActivations hidden(kTokens, cols, ActForm::f16);
  Products products(int64_t{1} << 22);
  ASSERT_EQ(products.road_of(parts, ActForm::f16, kTokens), Road::unpacked);
  ASSERT_TRUE(products.writes_records(parts, ActForm::f16, kTokens, hidden));
  EXPECT_FALSE(products.writes_records(parts, ActForm::f16, 16, hidden));  // straight from tiles
  GemvOptions options{Epilogue::swiglu, false};
  options.records = &hidden;
  const Stream stream;
  products.multiply(parts, x.device, kTokens, options, stream.get());
  stream.synchronize();
  const auto g = ref::matmul(gate.stored, {0, 1024}, x.meaning.data(), 1024, kTokens);
  const auto u = ref::matmul(up.stored, {0, 1024}, x.meaning.data(), 1024, kTokens);
  const std::vector<float> got = decode_all(hidden, kTokens);
  const int64_t width = segments_of(cols).size() * kSegmentCols;
  std::vector<float> values;
  std::vector<double> truth;
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t c = 0; c < cols.size(); ++c) {
      const auto i = static_cast<size_t>(t * cols.size() + c);
      values.push_back(got[static_cast<size_t>(t * width + cols.begin + c)]);
      truth.push_back(g[i] / (1.0 + std::exp(-g[i])) * u[i]);
    }
  }
  EXPECT_LT(nmse(values, truth), 10 * kTolerance);
  for (float& value : values) value *= 1.01F;
  EXPECT_GT(nmse(values, truth), 10 * kTolerance);
}

TEST_F(Halves, ExpertsAreSortedGatheredAndCombined) {
  constexpr int64_t kTokens = 77;
  constexpr int64_t kUsed = 2;
  constexpr int32_t kExperts = 8;
  std::mt19937 random(5);
  std::vector<int32_t> chosen;
  std::vector<float> weights;
  for (int64_t t = 0; t < kTokens; ++t) {
    const auto first = static_cast<int32_t>(random() % 7);
    chosen.push_back(first);
    chosen.push_back(first < 3 ? 6 : first - 1);
    weights.push_back(0.75F);
    weights.push_back(0.25F);
  }
  const DeviceBuffer<int32_t> device_chosen = to_device(chosen);
  const DeviceBuffer<float> device_weights = to_device(weights);
  const Stream stream;
  ExpertOrder order(kTokens * kUsed);
  order.sort(device_chosen.data(), kTokens * kUsed, kExperts, stream.get());
  const Input x = make_input(kTokens, {0, 512}, ActForm::f16);
  CudaActivations sorted(kTokens * kUsed, {0, 512}, ActForm::f16);
  order.gather(x.device, sorted, kUsed, stream.get());
  stream.synchronize();
  const std::vector<float> rows = decode_all(sorted, kTokens * kUsed);
  EXPECT_EQ(order.begin(0), 0);
  EXPECT_EQ(order.begin(kExperts), kTokens * kUsed);
  EXPECT_EQ(order.begin(7), order.begin(8));  // nobody chose the last
  std::vector<int64_t> next(kExperts);
  for (int64_t e = 0; e < kExperts; ++e) next[static_cast<size_t>(e)] = order.begin(e);
  std::vector<float> truth(kTokens * 512);
  for (int64_t entry = 0; entry < kTokens * kUsed; ++entry) {
    const int64_t place = next[static_cast<size_t>(chosen[static_cast<size_t>(entry)])]++;
    for (int64_t c = 0; c < 512; ++c) {
      const float value = x.meaning[static_cast<size_t>(entry / kUsed * 512 + c)];
      ASSERT_EQ(rows[static_cast<size_t>(place * 512 + c)], value) << entry;
      truth[static_cast<size_t>(entry / kUsed * 512 + c)] +=
          weights[static_cast<size_t>(entry)] * rows[static_cast<size_t>(place * 512 + c)];
    }
  }
  const DeviceBuffer<float> device_rows = to_device(rows);
  const DeviceBuffer<float> out = to_device(std::vector<float>(kTokens * 512, NAN));
  order.combine(device_rows.data(), device_weights.data(), kUsed, 512, out.data(), stream.get());
  stream.synchronize();
  EXPECT_EQ(to_host(out.data(), out.size()), truth);
}

}  // namespace
}  // namespace tandem::cuda
