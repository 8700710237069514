// ops/cuda/products on a GPU: the roads of many tokens (tensor cores straight from tiles, cuBLASLt) for every
// format, number of tokens, shard and epilogue against ops/ref; halves of activations; experts' order.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "ops/cuda/experts.h"
#include "ops/cuda/format_kernels.h"
#include "ops/cuda/products.h"
#include "ops/cuda/road_timer.h"
#include "ops/cuda/rows.h"
#include "tests/ops/cuda/gpu_support.h"
#include "tests/support/random_matrix.h"

namespace tandem::cuda {
namespace {

using testing::random_matrix;
using testing::RandomMatrix;

constexpr double kTolerance = 1e-6;  // NMSE: weights are rounded to 11 bits twice
constexpr double kFloatTolerance = 1e-10;

bool is_float(TensorType type) {
  return type_info(type).block_elements == 1;
}

/// Values that depend on (token, stored column) alone.
std::vector<float> floats_of(int64_t n_tokens, Range cols, float size) {
  std::vector<float> x;
  for (int64_t t = 0; t < n_tokens; ++t) {
    std::mt19937 random(static_cast<uint32_t>(1000 + t));
    std::normal_distribution<float> normal(0.2F, 1.0F);
    for (int64_t c = 0; c < cols.end; ++c) {
      const float value = normal(random) * size * (t % 3 == 1 ? 1e-3F : 1.0F);
      if (c >= cols.begin) x.push_back(value);
    }
  }
  return x;
}

struct Input {
  CudaActivations device;
  std::vector<float> given;    // (n_tokens, cols)
  std::vector<float> meaning;  // (n_tokens, cols): what the form stands for
  int64_t n_tokens = 0;
  bool padding_is_zero = true;
};

Input make_input(int64_t n_tokens, Range cols, ActForm form, float size = 1.0F) {
  Input input{CudaActivations(n_tokens, cols, form), floats_of(n_tokens, cols, size), {}, n_tokens};
  const DeviceBuffer<float> x = to_device(input.given);
  const Stream stream;
  input.device.fill(x.data(), cols.size(), n_tokens, nullptr, stream.get());
  stream.synchronize();
  const std::vector<float> values = decode_all(input.device, n_tokens);
  const Range segments = segments_of(cols);
  const int64_t width = segments.size() * kSegmentCols;
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t col = segments.begin * kSegmentCols + static_cast<int64_t>(i) % width;
    if (cols.contains(col)) {
      input.meaning.push_back(values[i]);
    } else {
      input.padding_is_zero &= values[i] == 0.0F;
    }
  }
  return input;
}

CudaMatrix upload(const RandomMatrix& m, Range cols) {
  CudaMatrix matrix(m.stored.type, m.stored.n_rows, cols);
  matrix.put_rows(0, m.stored.n_rows, m.bytes.data(), m.row_stride);
  return matrix;
}

double nmse(const std::vector<float>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  return ref::nmse(a.data(), b.data(), b.size());
}

/// (n_tokens, n_rows) of each part, poisoned before.
std::vector<std::vector<float>> multiply(Products& products, const std::vector<const CudaMatrix*>& weights,
                                         const Input& x, GemvOptions options = {},
                                         const std::vector<float>& bias = {}) {
  const DeviceBuffer<float> device_bias = to_device(bias);
  std::vector<DeviceBuffer<float>> outs;
  std::vector<GemvOperand> parts;
  for (const CudaMatrix* weight : weights) {
    outs.push_back(to_device(std::vector<float>(static_cast<size_t>(x.n_tokens * weight->n_rows()), NAN)));
    parts.push_back(
        {weight, bias.empty() ? nullptr : device_bias.data(), outs.back().data(), weight->n_rows()});
  }
  const Stream stream;
  products.multiply(parts, x.device, x.n_tokens, options, stream.get());
  stream.synchronize();
  std::vector<std::vector<float>> results;
  for (const DeviceBuffer<float>& out : outs) results.push_back(to_host(out.data(), out.size()));
  return results;
}

class ManyTokens : public ::testing::TestWithParam<std::tuple<TensorType, bool>> {
 protected:
  static TensorType type() { return std::get<0>(GetParam()); }
  /// By the kernels of before Hopper.
  static bool by_warps() { return std::get<1>(GetParam()); }
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device";
    if (by_warps() && batch_code(type()) != BatchCode::warpgroups) GTEST_SKIP() << "no other kernels here";
    std::string why_not;
    has_blas_ = Blas::open(why_not) != nullptr;
    has_batch_ = has_batch_kernel(type());
    if (form() == ActForm::f16 && !has_blas_ && !has_batch_)
      GTEST_SKIP() << "neither tensor cores nor cuBLASLt for it: " << why_not;
  }
  /// Products knows weights by their address: one for each test's matrices.
  Products& fresh() {
    products_ = std::make_unique<Products>(int64_t{1} << 22);
    return *products_;
  }
  static GemvOptions options(Epilogue epilogue = Epilogue::none) {
    GemvOptions out{epilogue, false};
    out.by_warps = by_warps();
    return out;
  }
  ActForm form() const { return unpacked_bytes(type()) == 4 ? ActForm::f32 : ActForm::f16; }
  double tolerance() const { return is_float(type()) ? kFloatTolerance : kTolerance; }
  /// Numbers of tokens that some road takes.
  std::vector<int64_t> token_counts() const {
    std::vector<int64_t> counts;
    for (const int64_t n : {1, 5, 8, 9, 16, 31, 64}) {
      if (has_batch_ || has_blas_) counts.push_back(n);
    }
    for (const int64_t n : {65, 130}) {
      if (has_blas_ || has_batch_) counts.push_back(n);
    }
    return counts;
  }

  std::unique_ptr<Products> products_;
  bool has_blas_ = false;
  bool has_batch_ = false;
};

TEST_P(ManyTokens, AgreeWithTheReference) {
  // The last: blocks with a part of a group, a whole one and another part (warpgroup_kernel.cuh).
  constexpr std::pair<int64_t, int64_t> kShapes[] = {{5, 256},    {129, 256},  {300, 256}, {5, 2304},
                                                     {129, 2304}, {300, 2304}, {1210, 768}};
  for (const auto& [n_rows, n_cols] : kShapes) {
    const RandomMatrix m = random_matrix(type(), n_rows, n_cols, 5);
    const CudaMatrix weight = upload(m, {0, n_cols});
    for (const int64_t n_tokens : token_counts()) {
      const Input x = make_input(n_tokens, {0, n_cols}, form());
      const auto truth = ref::matmul(m.stored, {0, n_cols}, x.meaning.data(), n_cols, n_tokens);
      EXPECT_LT(nmse(multiply(fresh(), {&weight}, x, options())[0], truth), tolerance())
          << n_rows << "x" << n_cols << " tokens " << n_tokens;
    }
  }
}

TEST_P(ManyTokens, ShardsMayBeCutAnywhereInASuperBlock) {
  const int64_t n_cols = 768;
  const RandomMatrix m = random_matrix(type(), 40, n_cols, 8);
  for (const Range cols : {Range{32, 64}, Range{96, 640}, Range{480, 768}, Range{0, 288}}) {
    const CudaMatrix weight = upload(m, cols);
    for (const int64_t n_tokens : {int64_t{20}, int64_t{70}}) {
      const Input x = make_input(n_tokens, cols, form());
      EXPECT_TRUE(x.padding_is_zero);
      const auto truth = ref::matmul(m.stored, cols, x.meaning.data(), cols.size(), n_tokens);
      EXPECT_LT(nmse(multiply(fresh(), {&weight}, x, options())[0], truth), tolerance())
          << cols.begin << " " << n_tokens;
    }
  }
}

TEST_P(ManyTokens, PartsHaveTheirOwnShapeAndBias) {
  const int64_t n_cols = 512;
  const TensorType other = is_float(type())             ? type()
                           : type() == TensorType::q6_k ? TensorType::q4_k
                                                        : TensorType::q6_k;
  std::vector<RandomMatrix> stored;  // moved in: a copy's view would be of the original's bytes
  stored.push_back(random_matrix(type(), 277, n_cols, 1));
  stored.push_back(random_matrix(type(), 24, n_cols, 2));
  stored.push_back(random_matrix(other, 9, n_cols, 3));
  std::vector<CudaMatrix> weights;
  for (const RandomMatrix& m : stored) weights.push_back(upload(m, {0, n_cols}));
  std::vector<float> bias(277);
  for (size_t i = 0; i < bias.size(); ++i) bias[i] = 0.5F + 0.25F * static_cast<float>(i);
  for (const int64_t n_tokens : {int64_t{12}, int64_t{90}}) {
    const Input x = make_input(n_tokens, {0, n_cols}, form());
    const auto got = multiply(fresh(), {&weights[0], &weights[1], &weights[2]}, x, options(), bias);
    for (size_t part = 0; part < 3; ++part) {
      auto truth = ref::matmul(stored[part].stored, {0, n_cols}, x.meaning.data(), n_cols, n_tokens);
      const auto n_rows = static_cast<size_t>(stored[part].stored.n_rows);
      for (size_t i = 0; i < truth.size(); ++i) truth[i] += static_cast<double>(bias[i % n_rows]);
      EXPECT_LT(nmse(got[part], truth), tolerance()) << part << " tokens " << n_tokens;
    }
  }
}

TEST_P(ManyTokens, GatesMeetTheirUps) {
  const int64_t n_cols = 1024;
  for (const int64_t n_rows : {int64_t{5}, int64_t{200}}) {
    const RandomMatrix gate = random_matrix(type(), n_rows, n_cols, 11);
    const RandomMatrix up = random_matrix(type(), n_rows, n_cols, 12);
    const CudaMatrix wg = upload(gate, {0, n_cols});
    const CudaMatrix wu = upload(up, {0, n_cols});
    for (const int64_t n_tokens : {int64_t{6}, int64_t{40}, int64_t{100}}) {
      const Input x = make_input(n_tokens, {0, n_cols}, form(), 0.1F);
      const auto g = ref::matmul(gate.stored, {0, n_cols}, x.meaning.data(), n_cols, n_tokens);
      const auto u = ref::matmul(up.stored, {0, n_cols}, x.meaning.data(), n_cols, n_tokens);
      std::vector<double> swiglu;
      for (size_t i = 0; i < g.size(); ++i) swiglu.push_back(g[i] / (1.0 + std::exp(-g[i])) * u[i]);
      EXPECT_LT(nmse(multiply(fresh(), {&wg, &wu}, x, options(Epilogue::swiglu))[0], swiglu),
                10 * tolerance());
      EXPECT_GT(nmse(multiply(fresh(), {&wg, &wu}, x, options(Epilogue::geglu))[0], swiglu),
                100 * tolerance());
    }
  }
}

TEST_P(ManyTokens, LargeAndSmallActivationsDontOverflow) {
  const RandomMatrix m = random_matrix(type(), 24, 512, 12);
  const CudaMatrix weight = upload(m, {0, 512});
  for (const float size : {1e6F, 1e-20F}) {
    for (const int64_t n_tokens : {int64_t{7}, int64_t{80}}) {
      const Input x = make_input(n_tokens, {0, 512}, form(), size);
      const auto truth = ref::matmul(m.stored, {0, 512}, x.meaning.data(), 512, n_tokens);
      EXPECT_LT(nmse(multiply(fresh(), {&weight}, x, options())[0], truth), tolerance()) << size;
    }
  }
}

TEST_P(ManyTokens, TheComparerRejectsAWrongAnswer) {
  RandomMatrix m = random_matrix(type(), 16, 512, 10);
  const Input x = make_input(16, {0, 512}, form());
  const auto truth = ref::matmul(m.stored, {0, 512}, x.meaning.data(), 512, 16);
  const CudaMatrix weight = upload(m, {0, 512});
  std::vector<float> got = multiply(fresh(), {&weight}, x, options())[0];
  ASSERT_LT(nmse(got, truth), tolerance());
  got[5] *= 1.1F;
  EXPECT_GT(nmse(got, truth), tolerance());
}

/// The bits of a token's row don't depend on the other tokens while the road and its instance are the same.
TEST_P(ManyTokens, BitsDontDependOnTheOtherTokens) {
  if (!has_batch_) GTEST_SKIP() << "no tensor cores for it";
  const RandomMatrix m = random_matrix(type(), 300, 1024, 14);
  const CudaMatrix weight = upload(m, {0, 1024});
  const std::vector<float> many =
      multiply(fresh(), {&weight}, make_input(64, {0, 1024}, form()), options())[0];
  const std::vector<float> fewer =
      multiply(fresh(), {&weight}, make_input(40, {0, 1024}, form()), options())[0];
  EXPECT_TRUE(std::equal(fewer.begin(), fewer.end(), many.begin()));
}

/// Behind the kernel that writes their input, and beginning before it ends.
TEST_P(ManyTokens, LaunchedEarlyTheyAwaitTheirInput) {
  if (!has_batch_) GTEST_SKIP() << "no tensor cores for it";
  const Range cols{0, 2048};
  const RandomMatrix m = random_matrix(type(), 600, cols.size(), 17);
  const CudaMatrix weight = upload(m, cols);
  constexpr int kRuns = 8;
  for (const int64_t n_tokens : {int64_t{8}, int64_t{64}}) {
    const Input inputs[] = {make_input(n_tokens, cols, form()), make_input(n_tokens, cols, form(), 0.1F)};
    std::vector<float> expected[2];
    DeviceBuffer<float> given[2];
    for (size_t i = 0; i < 2; ++i) {
      expected[i] = multiply(fresh(), {&weight}, inputs[i], options())[0];
      given[i] = to_device(inputs[i].given);
    }
    ASSERT_NE(expected[0], expected[1]);
    CudaActivations x(n_tokens, cols, form());
    std::vector<DeviceBuffer<float>> outs;
    for (int run = 0; run < kRuns; ++run) outs.emplace_back(static_cast<size_t>(n_tokens * weight.n_rows()));
    GemvOptions early = options();
    early.early = true;
    Products& products = fresh();
    const Stream stream;
    for (size_t run = 0; run < outs.size(); ++run) {
      const GemvOperand part{&weight, nullptr, outs[run].data(), weight.n_rows()};
      x.fill(given[run % 2].data(), cols.size(), n_tokens, nullptr, stream.get(), true);
      products.multiply({&part, 1}, x, n_tokens, early, stream.get());
    }
    stream.synchronize();
    for (size_t run = 0; run < outs.size(); ++run)
      EXPECT_EQ(to_host(outs[run].data(), outs[run].size()), expected[run % 2]) << n_tokens << " " << run;
  }
}

/// Whatever the roads' ends, the sums are the same but for roundings, and the road is what is said.
TEST_P(ManyTokens, GoByTheRoadsOfTheMatrix) {
  const RandomMatrix m = random_matrix(type(), 129, 512, 15);
  CudaMatrix weight = upload(m, {0, 512});
  for (const int64_t n_tokens : {int64_t{2}, int64_t{60}, int64_t{100}}) {
    const Input x = make_input(n_tokens, {0, 512}, form());
    const auto truth = ref::matmul(m.stored, {0, 512}, x.meaning.data(), 512, n_tokens);
    for (const Roads& roads : {Roads{0, 64}, Roads{0, 256}, Roads{0, 0}, Roads{64, 64}}) {
      weight.set_roads(roads);
      const GemvOperand part{&weight};
      const Road road = fresh().road_of({&part, 1}, form(), n_tokens);
      if (has_batch_ && has_blas_) {
        EXPECT_EQ(road, n_tokens <= roads.batch ? Road::batch : Road::blas);
      }
      if (form() == ActForm::f32 && has_blas_) {
        EXPECT_EQ(road, n_tokens <= roads.gemv ? Road::gemv : Road::blas);
      }
      EXPECT_LT(nmse(multiply(fresh(), {&weight}, x, options())[0], truth), tolerance())
          << roads.gemv << " " << roads.batch << " tokens " << n_tokens;
    }
  }
}

TEST_P(ManyTokens, RoadsAreMeasured) {
  const RandomMatrix m = random_matrix(type(), 256, 512, 16);
  std::vector<CudaMatrix> weights;
  for (int i = 0; i < 4; ++i) weights.push_back(upload(m, {0, 512}));
  const Roads before = weights[0].roads();
  const bool is_wide[] = {false, true};
  for (const bool wide : is_wide) {
    const ActForm few = activation_form(type(), wide);
    RoadTimer timer(fresh(), {{&weights[0], &weights[1]}, {&weights[2], &weights[3]}}, few, true);
    const Roads roads = timer.measure(false, wide);
    EXPECT_TRUE(roads.gemv >= 1 && roads.gemv <= Roads::kMostGemv) << roads.gemv;
    EXPECT_TRUE(roads.batch >= Roads::kLeastBatch && roads.batch <= Roads::kMostBatch) << roads.batch;
    EXPECT_EQ(timer.measure(true).gemv, before.gemv);
    EXPECT_EQ(weights[3].roads(), before);
  }
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<TensorType, bool>>& info) {
  return std::string(type_info(std::get<0>(info.param)).name) + (std::get<1>(info.param) ? "_by_warps" : "");
}
INSTANTIATE_TEST_SUITE_P(All, ManyTokens,
                         ::testing::Combine(::testing::ValuesIn(testing::computable_types()),
                                            ::testing::Bool()),
                         case_name);

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
  std::string why_not;
  if (Blas::open(why_not) == nullptr) GTEST_SKIP() << why_not;
  const RandomMatrix m = random_matrix(TensorType::q4_k, 520, 1024, 31);
  const CudaMatrix weight = upload(m, {0, 1024});
  const Input x = make_input(80, {0, 1024}, ActForm::f16);
  Products whole(int64_t{1} << 22);
  Products panels(int64_t{1} << 17);  // 128 rows at a time
  const auto truth = ref::matmul(m.stored, {0, 1024}, x.meaning.data(), 1024, 80);
  EXPECT_LT(nmse(multiply(whole, {&weight}, x)[0], truth), kTolerance);
  EXPECT_LT(nmse(multiply(panels, {&weight}, x)[0], truth), kTolerance);
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
  ASSERT_EQ(products.road_of(parts, ActForm::f16, kTokens), Road::blas);
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
