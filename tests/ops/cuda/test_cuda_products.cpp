// ops/cuda/products on a GPU: the roads of many tokens (tensor cores straight from tiles, unpacked weights)
// for every format, number of tokens, shard and epilogue against ops/ref.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "ops/cuda/format_kernels.h"
#include "ops/cuda/road_timer.h"
#include "tests/ops/cuda/products_case.h"

namespace tandem::cuda {
namespace {

constexpr double kFloatTolerance = 1e-10;

bool is_float(TensorType type) {
  return type_info(type).block_elements == 1;
}

/// by_warps: by the kernels of before Hopper; prompts: as a deterministic one multiplies prompts' tokens.
enum class How : uint8_t { usual, by_warps, prompts };

class ManyTokens : public ::testing::TestWithParam<std::tuple<TensorType, How>> {
 protected:
  static TensorType type() { return std::get<0>(GetParam()); }
  static bool by_warps() { return std::get<1>(GetParam()) == How::by_warps; }
  static bool prompts() { return std::get<1>(GetParam()) == How::prompts; }
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device";
    if (by_warps() && batch_code(type()) != BatchCode::warpgroups) GTEST_SKIP() << "no other kernels here";
    std::string why_not;
    has_blas_ = Blas::open(why_not) != nullptr;
    has_batch_ = has_batch_kernel(type());
    if (prompts() && (!has_batch_ || !Gemm::open())) GTEST_SKIP() << "no kernel of ours for it here";
    if (form() == ActForm::f16 && !has_blas_ && !has_batch_)
      GTEST_SKIP() << "neither tensor cores nor cuBLASLt for it: " << why_not;
  }
  /// Products knows weights by their address: one for each test's matrices.
  Products& fresh() {
    products_ = std::make_unique<Products>(int64_t{1} << 22, prompts());
    return *products_;
  }
  static std::vector<std::vector<float>> multiply(Products& products,
                                                  const std::vector<const CudaMatrix*>& weights,
                                                  const Input& x, const GemvOptions& options,
                                                  const std::vector<float>& bias = {}) {
    return cuda::multiply(products, weights, x, options, bias, prompts());
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
      products.multiply({&part, 1}, x, n_tokens, early, stream.get(), prompts());
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
      const Road road = fresh().road_of({&part, 1}, form(), n_tokens, prompts());
      if (prompts()) {
        EXPECT_EQ(road, Road::unpacked);
      } else if (has_batch_ && has_blas_) {
        EXPECT_EQ(road, n_tokens <= roads.batch ? Road::batch : Road::unpacked);
      }
      if (form() == ActForm::f32 && has_blas_) {
        EXPECT_EQ(road, n_tokens <= roads.gemv ? Road::gemv : Road::unpacked);
      }
      EXPECT_LT(nmse(multiply(fresh(), {&weight}, x, options())[0], truth), tolerance())
          << roads.gemv << " " << roads.batch << " tokens " << n_tokens;
    }
  }
}

TEST_P(ManyTokens, RoadsAreMeasured) {
  if (prompts()) GTEST_SKIP() << "deterministic products have one road";
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

std::string case_name(const ::testing::TestParamInfo<std::tuple<TensorType, How>>& info) {
  constexpr const char* kHows[] = {"", "_by_warps", "_prompts"};
  return std::string(type_info(std::get<0>(info.param)).name) +
         kHows[static_cast<size_t>(std::get<1>(info.param))];
}
INSTANTIATE_TEST_SUITE_P(All, ManyTokens,
                         ::testing::Combine(::testing::ValuesIn(testing::computable_types()),
                                            ::testing::Values(How::usual, How::by_warps, How::prompts)),
                         case_name);

}  // namespace
}  // namespace tandem::cuda
