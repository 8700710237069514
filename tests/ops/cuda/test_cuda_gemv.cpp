// ops/cuda on a GPU: activations to the bit, and products of every format, form, shape, number of tokens,
// shard and epilogue against ops/ref on the same quantised activations.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "ops/core/error.h"
#include "ops/cuda/gemv.h"
#include "tests/ops/cuda/gpu_support.h"
#include "tests/support/random_matrix.h"

namespace tandem::cuda {
namespace {

using testing::random_matrix;
using testing::RandomMatrix;

constexpr double kTolerance = 1e-10;  // NMSE of float sums against double ones

class Gpu : public ::testing::TestWithParam<TensorType> {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device";
  }
};

/// Columns `cols` of values that depend on (token, stored column) alone.
std::vector<float> floats_of(int64_t n_tokens, Range cols, float size = 1.0F) {
  std::vector<float> x;
  for (int64_t t = 0; t < n_tokens; ++t) {
    std::mt19937 random(static_cast<uint32_t>(1000 + t));
    std::normal_distribution<float> normal(0.2F, 1.0F);
    for (int64_t c = 0; c < cols.end; ++c) {
      const float value = normal(random) * size;
      if (c >= cols.begin) x.push_back(value);
    }
  }
  return x;
}

struct Input {
  CudaActivations device;
  std::vector<float> meaning;  // (n_tokens, cols): what the form stands for
  int64_t n_tokens = 0;
  bool padding_is_zero = true;
};

Input make_input(int64_t n_tokens, Range cols, ActForm form, float size = 1.0F) {
  Input input{CudaActivations(n_tokens, cols, form), {}, n_tokens, true};
  const DeviceBuffer<float> x = to_device(floats_of(n_tokens, cols, size));
  const DeviceBuffer<uint32_t> flag = to_device(std::vector<uint32_t>{0});
  const Stream stream;
  input.device.fill(x.data(), cols.size(), n_tokens, flag.data(), stream.get());
  stream.synchronize();
  EXPECT_EQ(to_host(flag.data(), 1)[0], 0U);
  const Decoded decoded = decode_own(input.device, n_tokens);
  input.meaning = decoded.meaning;
  input.padding_is_zero = decoded.padding_is_zero;
  return input;
}

CudaMatrix upload(const RandomMatrix& m, Range cols) {
  CudaMatrix matrix(m.stored.type, m.stored.n_rows, cols);
  matrix.put_rows(0, m.stored.n_rows, m.bytes.data(), m.row_stride);
  return matrix;
}

/// (n_tokens, n_rows) of each part, poisoned before.
std::vector<std::vector<float>> products(const std::vector<const CudaMatrix*>& weights, const Input& x,
                                         Epilogue epilogue, const std::vector<float>& bias = {},
                                         bool early = false) {
  const DeviceBuffer<float> device_bias = to_device(bias);
  std::vector<DeviceBuffer<float>> outs;
  std::vector<GemvOperand> parts;
  for (const CudaMatrix* weight : weights) {
    const auto n = static_cast<size_t>(x.n_tokens * weight->n_rows());
    outs.push_back(to_device(std::vector<float>(n, NAN)));
    parts.push_back(
        {weight, bias.empty() ? nullptr : device_bias.data(), outs.back().data(), weight->n_rows()});
  }
  const Stream stream;
  gemv(parts, x.device, x.n_tokens, {epilogue, early}, stream.get());
  stream.synchronize();
  std::vector<std::vector<float>> results;
  for (const DeviceBuffer<float>& out : outs) results.push_back(to_host(out.data(), out.size()));
  return results;
}

std::vector<float> product(const CudaMatrix& weight, const Input& x) {
  return products({&weight}, x, Epilogue::none)[0];
}

std::vector<double> truth_of(const RandomMatrix& m, Range cols, const Input& x) {
  return ref::matmul(m.stored, cols, x.meaning.data(), cols.size(), x.n_tokens);
}

double nmse(const std::vector<float>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  return ref::nmse(a.data(), b.data(), b.size());
}

std::vector<ActForm> forms_of(TensorType type) {
  if (type_info(type).block_elements == 1) return {ActForm::f32};
  return {ActForm::q8, ActForm::q15};
}

std::vector<int64_t> widths_of(TensorType type) {
  switch (type_info(type).block_elements) {
    case 1:
      return {1, 19, 300};
    case 32:
      return {32, 96, 544, 2304};
    default:
      return {256, 768, 2304};
  }
}

TEST_P(Gpu, AgreesWithTheReference) {
  const TensorType type = GetParam();
  for (const int64_t n_cols : widths_of(type)) {
    for (const int64_t n_rows : {int64_t{1}, int64_t{8}, int64_t{37}, int64_t{300}}) {
      for (const bool extreme : {false, true}) {
        if (extreme && n_rows == 1) continue;  // a single sum of extremes may cancel to nothing
        const RandomMatrix m = random_matrix(type, n_rows, n_cols, 5, extreme);
        const CudaMatrix weight = upload(m, {0, n_cols});
        for (const ActForm form : forms_of(type)) {
          for (const int64_t n_tokens : {1, 2, 3, 4, 8}) {
            const Input x = make_input(n_tokens, {0, n_cols}, form);
            EXPECT_LT(nmse(product(weight, x), truth_of(m, {0, n_cols}, x)), kTolerance)
                << n_rows << "x" << n_cols << " tokens " << n_tokens << " form " << static_cast<int>(form)
                << " extreme " << extreme;
          }
        }
      }
    }
  }
}

TEST_P(Gpu, ShardsMayBeCutAnywhereInASuperBlock) {
  const TensorType type = GetParam();
  const int64_t n_cols = 768;
  const RandomMatrix m = random_matrix(type, 21, n_cols, 8);
  for (int64_t begin = 0; begin < n_cols; begin += 96) {
    for (const int64_t end : {begin + 32, (begin + n_cols) / 2 / 32 * 32, n_cols}) {
      if (end <= begin) continue;
      const CudaMatrix weight = upload(m, {begin, end});
      for (const ActForm form : forms_of(type)) {
        const Input x = make_input(2, {begin, end}, form);
        EXPECT_TRUE(x.padding_is_zero);
        EXPECT_LT(nmse(product(weight, x), truth_of(m, {begin, end}, x)), kTolerance) << begin << " " << end;
      }
    }
  }
}

/// More segments than a block has warps: rounds, with a rest and without.
TEST_P(Gpu, RowsOfManySegments) {
  const TensorType type = GetParam();
  for (const int64_t n_segments : {16, 19, 40}) {
    const Range cols{0, n_segments * kSegmentCols};
    const RandomMatrix m = random_matrix(type, 37, cols.end, 6);
    const CudaMatrix weight = upload(m, cols);
    for (const ActForm form : forms_of(type)) {
      for (const int64_t n_tokens : {1, 2, 3, 4}) {
        const Input x = make_input(n_tokens, cols, form);
        EXPECT_LT(nmse(product(weight, x), truth_of(m, cols, x)), kTolerance)
            << n_segments << " segments, tokens " << n_tokens << " form " << static_cast<int>(form);
      }
    }
  }
}

/// Neither on the rows beside it nor on the grid, and so on how a block's warps share its units; nor on a
/// fourth token.
TEST_P(Gpu, ARowsBitsDependOnItsColumnsOnly) {
  const TensorType type = GetParam();
  const Range cols{0, 21 * kSegmentCols};
  RandomMatrix m = random_matrix(type, 9000, cols.end, 7);
  const CudaMatrix many = upload(m, cols);
  CudaMatrix few(type, 24, cols);
  few.put_rows(0, 24, m.bytes.data(), m.row_stride);
  for (const ActForm form : forms_of(type)) {
    for (const int64_t n_tokens : {1, 2, 4}) {
      const Input x = make_input(n_tokens, cols, form);
      const std::vector<float> expected = product(many, x);
      const std::vector<float> got = product(few, x);
      for (int64_t i = 0; i < n_tokens * 24; ++i) {
        ASSERT_EQ(got[static_cast<size_t>(i)], expected[static_cast<size_t>(i / 24 * 9000 + i % 24)])
            << i << " tokens " << n_tokens << " form " << static_cast<int>(form);
      }
    }
    const std::vector<float> four = product(few, make_input(4, cols, form));
    const std::vector<float> three = product(few, make_input(3, cols, form));
    EXPECT_TRUE(std::equal(three.begin(), three.end(), four.begin())) << static_cast<int>(form);
  }
}

TEST_P(Gpu, PartsShareALaunchAndHaveTheirOwnBias) {
  const TensorType type = GetParam();
  const int64_t n_cols = 512;
  const TensorType other = type == TensorType::q6_k ? TensorType::q4_k : TensorType::q6_k;
  const bool mixes = type_info(type).block_elements != 1;
  const RandomMatrix q = random_matrix(type, 77, n_cols, 1);
  const RandomMatrix k = random_matrix(type, 24, n_cols, 2);
  const RandomMatrix v = random_matrix(mixes ? other : type, 9, n_cols, 3);
  const CudaMatrix wq = upload(q, {0, n_cols});
  const CudaMatrix wk = upload(k, {0, n_cols});
  const CudaMatrix wv = upload(v, {0, n_cols});
  std::vector<float> bias(77);
  for (size_t i = 0; i < bias.size(); ++i) bias[i] = 0.5F + 0.25F * static_cast<float>(i);
  for (const int64_t n_tokens : {1, 3}) {
    for (const bool early : {false, true}) {
      const Input x = make_input(n_tokens, {0, n_cols}, forms_of(type)[0]);
      const auto got = products({&wq, &wk, &wv}, x, Epilogue::none, bias, early);
      const RandomMatrix* stored[] = {&q, &k, &v};
      for (size_t part = 0; part < 3; ++part) {
        std::vector<double> truth = truth_of(*stored[part], {0, n_cols}, x);
        const auto n_rows = static_cast<size_t>(stored[part]->stored.n_rows);
        for (size_t i = 0; i < truth.size(); ++i) truth[i] += static_cast<double>(bias[i % n_rows]);
        EXPECT_LT(nmse(got[part], truth), kTolerance) << part << " tokens " << n_tokens;
      }
    }
  }
}

TEST_P(Gpu, GatesMeetTheirUps) {
  const TensorType type = GetParam();
  const int64_t n_cols = 1024;
  for (const int64_t n_rows : {int64_t{5}, int64_t{136}}) {
    const RandomMatrix gate = random_matrix(type, n_rows, n_cols, 11);
    const RandomMatrix up = random_matrix(type, n_rows, n_cols, 12);
    const CudaMatrix wg = upload(gate, {0, n_cols});
    const CudaMatrix wu = upload(up, {0, n_cols});
    for (const int64_t n_tokens : {1, 4}) {
      const Input x = make_input(n_tokens, {0, n_cols}, forms_of(type)[0], 0.1F);
      const std::vector<double> g = truth_of(gate, {0, n_cols}, x);
      const std::vector<double> u = truth_of(up, {0, n_cols}, x);
      std::vector<double> swiglu;
      std::vector<double> geglu;
      for (size_t i = 0; i < g.size(); ++i) {
        swiglu.push_back(g[i] / (1.0 + std::exp(-g[i])) * u[i]);
        geglu.push_back(0.5 * g[i] *
                        (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (g[i] + 0.044715 * g[i] * g[i] * g[i]))) *
                        u[i]);
      }
      EXPECT_LT(nmse(products({&wg, &wu}, x, Epilogue::swiglu)[0], swiglu), kTolerance);
      EXPECT_LT(nmse(products({&wg, &wu}, x, Epilogue::geglu)[0], geglu), kTolerance);
      EXPECT_GT(nmse(products({&wg, &wu}, x, Epilogue::geglu)[0], swiglu), 100 * kTolerance);
    }
  }
}

TEST_P(Gpu, GatesWriteRecordsToTheBitsThatFillingWrites) {
  const TensorType type = GetParam();
  if (type_info(type).block_elements == 1) GTEST_SKIP() << "floats are not quantised";
  const int64_t n_cols = 512;
  for (const Range hidden_cols : {Range{0, 32}, Range{96, 96 + 1088}, Range{256, 256 + 9024}}) {
    const CudaMatrix wg = upload(random_matrix(type, hidden_cols.size(), n_cols, 11), {0, n_cols});
    const CudaMatrix wu = upload(random_matrix(type, hidden_cols.size(), n_cols, 12), {0, n_cols});
    for (const int64_t n_tokens : {1, 2, 6}) {
      const Input x = make_input(n_tokens, {0, n_cols}, forms_of(type)[0], 0.1F);
      const std::vector<float> floats = products({&wg, &wu}, x, Epilogue::swiglu)[0];
      const DeviceBuffer<float> device_floats = to_device(floats);
      for (const ActForm form : {ActForm::q8, ActForm::q15}) {
        CudaActivations expected(n_tokens, hidden_cols, form);
        CudaActivations got(n_tokens, hidden_cols, form);
        const DeviceBuffer<uint32_t> flag = to_device(std::vector<uint32_t>{0});
        const Stream stream;
        expected.fill(device_floats.data(), hidden_cols.size(), n_tokens, nullptr, stream.get());
        ASSERT_TRUE(writes_records(type, hidden_cols.size(), got));
        GemvOptions options{Epilogue::swiglu};
        options.records = &got;
        options.not_finite = flag.data();
        const GemvOperand gate{&wg, nullptr, nullptr, hidden_cols.size()};
        const GemvOperand up{&wu, nullptr, nullptr, hidden_cols.size()};
        gemv(std::vector<GemvOperand>{gate, up}, x.device, n_tokens, options, stream.get());
        stream.synchronize();
        const auto n_bytes = static_cast<size_t>(n_tokens * got.token_bytes());
        EXPECT_EQ(to_host(got.data(), n_bytes), to_host(expected.data(), n_bytes))
            << hidden_cols.size() << " tokens " << n_tokens << " form " << static_cast<int>(form);
        EXPECT_EQ(to_host(flag.data(), 1)[0], 0U);
      }
    }
  }
}

TEST_P(Gpu, RowsMayBePutInAnyPieces) {
  const TensorType type = GetParam();
  const RandomMatrix m = random_matrix(type, 37, 512, 9);
  const CudaMatrix whole = upload(m, {0, 512});
  CudaMatrix pieces(type, 37, {0, 512});
  for (const Range rows : {Range{30, 37}, Range{0, 5}, Range{5, 30}, Range{12, 12}}) {
    pieces.put_rows(rows.begin, rows.size(), m.bytes.data() + rows.begin * static_cast<int64_t>(m.row_stride),
                    m.row_stride);
  }
  EXPECT_EQ(to_host(pieces.tiles(), pieces.bytes()), to_host(whole.tiles(), whole.bytes()));
}

TEST_P(Gpu, TheComparerRejectsAWrongAnswer) {
  const TensorType type = GetParam();
  RandomMatrix m = random_matrix(type, 16, 512, 10);
  const Input x = make_input(1, {0, 512}, forms_of(type)[0]);
  const std::vector<double> truth = truth_of(m, {0, 512}, x);
  std::vector<float> got = product(upload(m, {0, 512}), x);
  ASSERT_LT(nmse(got, truth), kTolerance);
  ASSERT_NE(got[3], got[4]);
  const std::vector<float> right = got;
  got[5] *= 1.001F;
  EXPECT_GT(nmse(got, truth), kTolerance);
  got[5] = NAN;
  EXPECT_FALSE(nmse(got, truth) < kTolerance);
  for (size_t i = m.row_stride / 2; i < m.bytes.size(); i += m.row_stride) m.bytes[i] ^= std::byte{0x11};
  EXPECT_NE(product(upload(m, {0, 512}), x), right);
}

TEST_P(Gpu, LargeAndSmallActivations) {
  const RandomMatrix m = random_matrix(GetParam(), 16, 256, 12);
  const CudaMatrix weight = upload(m, {0, 256});
  for (const float size : {1e6F, 1e-30F}) {
    for (const ActForm form : forms_of(GetParam())) {
      const Input x = make_input(2, {0, 256}, form, size);
      EXPECT_LT(nmse(product(weight, x), truth_of(m, {0, 256}, x)), kTolerance) << size;
    }
  }
}

std::string type_name(const ::testing::TestParamInfo<TensorType>& info) {
  return std::string(type_info(info.param).name);
}

INSTANTIATE_TEST_SUITE_P(All, Gpu, ::testing::ValuesIn(testing::computable_types()), type_name);

class GpuOnce : public Gpu {};
INSTANTIATE_TEST_SUITE_P(One, GpuOnce, ::testing::Values(TensorType::q4_k), type_name);

TEST_P(GpuOnce, ManyRowsAndLongRows) {
  const RandomMatrix tall = random_matrix(TensorType::q4_k, 20000, 256, 20);
  const RandomMatrix wide = random_matrix(TensorType::q4_k, 19, 29696, 21);
  for (const RandomMatrix* m : {&tall, &wide}) {
    const Range cols{0, m->stored.n_cols};
    const CudaMatrix weight = upload(*m, cols);
    for (const ActForm form : {ActForm::q8, ActForm::q15}) {
      const Input x = make_input(3, cols, form);
      EXPECT_LT(nmse(product(weight, x), truth_of(*m, cols, x)), kTolerance);
    }
  }
}

TEST_P(GpuOnce, PairsOfFormatsShareALaunch) {
  const std::vector<TensorType> types = {TensorType::q2_k, TensorType::q3_k, TensorType::q4_k,
                                         TensorType::q5_k, TensorType::q6_k};
  const Range cols{256, 256 + 1536};
  for (const TensorType a : types) {
    for (const TensorType b : types) {
      const RandomMatrix first = random_matrix(a, 700, cols.end, 41);
      const RandomMatrix middle = random_matrix(b, 33, cols.end, 42);
      const RandomMatrix last = random_matrix(a, 50, cols.end, 43);
      const CudaMatrix w0 = upload(first, cols);
      const CudaMatrix w1 = upload(middle, cols);
      const CudaMatrix w2 = upload(last, cols);
      for (const int64_t n_tokens : {1, 2, 7}) {
        const Input x = make_input(n_tokens, cols, ActForm::q8);
        const auto got = products({&w0, &w1, &w2}, x, Epilogue::none);
        EXPECT_LT(nmse(got[0], truth_of(first, cols, x)), kTolerance)
            << type_info(a).name << " " << type_info(b).name;
        EXPECT_LT(nmse(got[1], truth_of(middle, cols, x)), kTolerance)
            << type_info(a).name << " " << type_info(b).name;
        EXPECT_LT(nmse(got[2], truth_of(last, cols, x)), kTolerance)
            << type_info(a).name << " " << type_info(b).name;
      }
    }
  }
}

TEST_P(GpuOnce, ActivationsAreQuantisedToTheBit) {
  const Range cols{96, 1000};
  const std::vector<float> x = floats_of(3, cols);
  for (const ActForm form : {ActForm::q8, ActForm::q15}) {
    const float steps = form == ActForm::q8 ? 127.0F : 16319.0F;
    const Input input = make_input(3, cols, form);
    for (size_t t = 0; t < 3; ++t) {
      for (int64_t group = cols.begin; group < cols.end; group += 32) {
        const auto begin = static_cast<size_t>(group - cols.begin);
        const size_t n = std::min<size_t>(32, static_cast<size_t>(cols.end - group));
        const float* values = x.data() + t * static_cast<size_t>(cols.size()) + begin;
        float amax = 0;
        for (size_t i = 0; i < n; ++i) amax = std::max(amax, std::fabs(values[i]));
        for (size_t i = 0; i < n; ++i) {
          const float expected = std::nearbyint(values[i] * (steps / amax)) * (amax / steps);
          ASSERT_EQ(input.meaning[t * static_cast<size_t>(cols.size()) + begin + i], expected)
              << group << " " << i;
        }
      }
    }
  }
}

TEST_P(GpuOnce, ValuesThatAreNotFiniteAreTold) {
  for (const float bad : {NAN, HUGE_VALF, -HUGE_VALF}) {
    for (const size_t place : {size_t{0}, size_t{299}}) {
      std::vector<float> values = floats_of(1, {0, 300});
      values[place] = bad;
      const DeviceBuffer<float> x = to_device(values);
      const DeviceBuffer<uint32_t> flag = to_device(std::vector<uint32_t>{0});
      const Stream stream;
      CudaActivations out(1, {0, 300}, ActForm::q8);
      out.fill(x.data(), 300, 1, flag.data(), stream.get());
      stream.synchronize();
      EXPECT_EQ(to_host(flag.data(), 1)[0], 1U);
    }
  }
}

TEST_P(GpuOnce, EmptyShardsGiveZeros) {
  const CudaMatrix no_cols(TensorType::q4_k, 3, {256, 256});
  EXPECT_EQ(no_cols.bytes(), 0U);
  const Input x = make_input(2, {256, 256}, ActForm::q8);
  EXPECT_EQ(product(no_cols, x), std::vector<float>(6, 0.0F));
  const CudaMatrix no_rows(TensorType::q4_k, 0, {0, 256});
  const Input y = make_input(2, {0, 256}, ActForm::q8);
  EXPECT_TRUE(product(no_rows, y).empty());
}

TEST_P(GpuOnce, RunsInAGraphToTheSameBits) {
  const RandomMatrix m = random_matrix(TensorType::q6_k, 333, 1024, 30);
  const CudaMatrix weight = upload(m, {0, 1024});
  const Input x = make_input(1, {0, 1024}, ActForm::q8);
  const std::vector<float> once = product(weight, x);
  const DeviceBuffer<float> out = to_device(std::vector<float>(333, NAN));
  const Stream stream;
  const GemvOperand part{&weight, nullptr, out.data(), 333};
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < 3; ++i) gemv({&part, 1}, x.device, 1, {Epilogue::none, true}, stream.get());
  check(cudaStreamEndCapture(stream.get(), &graph));
  check(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 3; ++i) check(cudaGraphLaunch(exec, stream.get()));
  stream.synchronize();
  EXPECT_EQ(to_host(out.data(), 333), once);
  check(cudaGraphExecDestroy(exec));
  check(cudaGraphDestroy(graph));
}

TEST(CudaStatus, AFailureNamesItsPlace) {
  try {
    check(cudaErrorMemoryAllocation);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::unavailable);
    EXPECT_NE(std::string(error.what()).find("test_cuda_gemv.cpp"), std::string::npos) << error.what();
    EXPECT_FALSE(error.hint().empty());
  }
  check(cudaSuccess);
}

}  // namespace
}  // namespace tandem::cuda
