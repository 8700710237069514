// Products of halves by our own kernel: against double, with scales, biases and gates, and to the same bits
// whatever the number of tokens.
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>

#include "ops/core/range.h"
#include "ops/cuda/gemm.h"
#include "tests/ops/cuda/gpu_support.h"

namespace tandem::cuda {
namespace {

constexpr int64_t kTailHalves = 64;  // behind a token's, as activations have it: a scale first
constexpr int64_t kGap = 3;          // floats between outputs' rows
constexpr float kNotWritten = -77.0F;
constexpr float kPower = 0.25F;
constexpr double kTolerance = 1e-10;  // NMSE

struct Shape {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
};

enum class What : uint8_t { sums, finished, swiglu, geglu };

struct Halves {
  DeviceBuffer<__half> device;
  std::vector<double> values;  // (rows, cols)
  std::vector<double> scales;  // (rows), which stand behind each row's halves
};

/// Halves of about 1 in rows `stride` apart; between them is nothing but a scale, where there is room.
Halves random_halves(int64_t rows, int64_t cols, int64_t stride, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.1F, 1.0F);
  std::vector<__half> halves(static_cast<size_t>(rows * stride), __float2half(NAN));
  Halves out;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      const __half x = __float2half(normal(random));
      halves[static_cast<size_t>(row * stride + col)] = x;
      out.values.push_back(static_cast<double>(__half2float(x)));
    }
    if (stride == cols) continue;
    const float scale = std::ldexp(1.0F, static_cast<int>(random() % 8) - 7);
    std::memcpy(static_cast<void*>(&halves[static_cast<size_t>(row * stride + cols)]), &scale, sizeof scale);
    out.scales.push_back(static_cast<double>(scale));
  }
  out.device = to_device(halves);
  return out;
}

class Case {
 public:
  Case(const Shape& s, What what)
      : shape_(s),
        what_(what),
        w_(random_halves(s.m, s.k, s.k, 1)),
        up_(random_halves(s.m, s.k, s.k, 2)),
        x_(random_halves(s.n, s.k, s.k + kTailHalves, 3)),
        bias_(static_cast<size_t>(s.m)) {
    for (size_t i = 0; i < bias_.size(); ++i) bias_[i] = 3.0F + 0.125F * static_cast<float>(i % 50);
    device_bias_ = to_device(bias_);
  }
  int64_t stride() const { return shape_.m + kGap; }

  /// Of the tokens: (tokens, stride).
  std::vector<float> multiply(Gemm& gemm, Range tokens) const {
    const DeviceBuffer<float> out =
        to_device(std::vector<float>(static_cast<size_t>(tokens.size() * stride()), kNotWritten));
    GemmPart parts[2];
    parts[0] = {w_.device.data(), shape_.m, out.data(), stride()};
    parts[1] = {up_.device.data(), shape_.m};
    GemmProduct p;
    p.parts = {parts, size_t{is_gated() ? 2U : 1U}};
    p.x = x_.device.data() + tokens.begin * (shape_.k + kTailHalves);
    p.n = tokens.size();
    p.k = shape_.k;
    p.x_stride = shape_.k + kTailHalves;
    if (what_ != What::sums) {
      p.scales = reinterpret_cast<const float*>(static_cast<const __half*>(p.x) + shape_.k);
      p.scale_stride = p.x_stride * 2;
      parts[0].power = parts[1].power = kPower;
    }
    if (what_ == What::finished) parts[0].bias = device_bias_.data();
    if (is_gated()) p.gate = what_ == What::swiglu ? Epilogue::swiglu : Epilogue::geglu;
    const Stream stream;
    gemm.multiply(p, stream.get());
    stream.synchronize();
    return to_host(out.data(), out.size());
  }
  std::vector<float> multiply(Gemm& gemm) const { return multiply(gemm, {0, shape_.n}); }

  /// NMSE of all tokens' outputs; what lies between rows must be untouched.
  double nmse(const std::vector<float>& got) const {
    double error = 0;
    double size = 0;
    for (int64_t token = 0; token < shape_.n; ++token) {
      for (int64_t row = 0; row < shape_.m; ++row) {
        const double want = truth(token, row);
        const double is = static_cast<double>(got[static_cast<size_t>(token * stride() + row)]);
        error += (is - want) * (is - want);
        size += want * want;
      }
      for (int64_t i = 0; i < kGap; ++i)
        EXPECT_EQ(got[static_cast<size_t>(token * stride() + shape_.m + i)], kNotWritten) << token;
    }
    return error / size;
  }

 private:
  bool is_gated() const { return what_ == What::swiglu || what_ == What::geglu; }
  double sum(const Halves& w, int64_t token, int64_t row) const {
    double sum = 0;
    for (int64_t col = 0; col < shape_.k; ++col)
      sum += w.values[static_cast<size_t>(row * shape_.k + col)] *
             x_.values[static_cast<size_t>(token * shape_.k + col)];
    if (what_ == What::sums) return sum;
    return sum * static_cast<double>(kPower) * x_.scales[static_cast<size_t>(token)];
  }
  double truth(int64_t token, int64_t row) const {
    const double x = sum(w_, token, row);
    if (what_ == What::sums) return x;
    if (what_ == What::finished) return x + static_cast<double>(bias_[static_cast<size_t>(row)]);
    const double up = sum(up_, token, row);
    if (what_ == What::swiglu) return x / (1 + std::exp(-x)) * up;
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) * up;
  }

  Shape shape_;
  What what_;
  Halves w_;
  Halves up_;
  Halves x_;
  std::vector<float> bias_;
  DeviceBuffer<float> device_bias_;
};

class CudaGemm : public ::testing::TestWithParam<What> {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device";
    gemm_ = Gemm::open();
    if (!gemm_) GTEST_SKIP() << "not a Hopper GPU, or no code for it in this build";
  }
  std::unique_ptr<Gemm> gemm_;
};

TEST_P(CudaGemm, AgreesWithDouble) {
  for (const Shape& shape : {Shape{8, 1, 256}, Shape{128, 64, 256}, Shape{136, 65, 512},
                             Shape{1000, 130, 768}, Shape{264, 300, 2048}, Shape{2056, 520, 256}}) {
    const Case c(shape, GetParam());
    EXPECT_LT(c.nmse(c.multiply(*gemm_)), kTolerance) << shape.m << " x " << shape.n << " x " << shape.k;
  }
}

TEST_P(CudaGemm, ATokensBitsDontDependOnTheOthers) {
  for (const int64_t m : {136, 4096}) {
    const Case c({m, 1024, 512}, GetParam());  // by tiles of 256 tokens, where there are so many rows
    const std::vector<float> all = c.multiply(*gemm_);
    EXPECT_EQ(all, c.multiply(*gemm_)) << "repeated";
    for (const Range tokens : {Range{0, 1}, Range{0, 64}, Range{0, 65}, Range{3, 131}, Range{77, 333},
                               Range{5, 505}, Range{300, 1000}, Range{1023, 1024}}) {
      const auto at = all.begin() + tokens.begin * c.stride();
      EXPECT_EQ(c.multiply(*gemm_, tokens), std::vector<float>(at, at + tokens.size() * c.stride()))
          << tokens.begin << " " << tokens.end;
    }
  }
}

TEST_P(CudaGemm, TheComparerRejectsAWrongAnswer) {
  const Case c({136, 65, 512}, GetParam());
  std::vector<float> got = c.multiply(*gemm_);
  for (size_t i = 5; i < got.size(); i += static_cast<size_t>(c.stride()))
    got[i] *= 1.01F;  // a row of weights
  EXPECT_GT(c.nmse(got), kTolerance);
}

TEST_P(CudaGemm, FillsADeviceWithWholeTiles) {
  EXPECT_FALSE(gemm_->fills(128, 256));
  EXPECT_TRUE(gemm_->fills(int64_t{1} << 20, 256));
}

TEST_P(CudaGemm, NothingOfNothing) {
  const Case c({128, 1, 256}, GetParam());
  EXPECT_TRUE(c.multiply(*gemm_, {0, 0}).empty());
}

std::string name_of(const ::testing::TestParamInfo<What>& what) {
  constexpr const char* kNames[] = {"sums", "finished", "swiglu", "geglu"};
  return kNames[static_cast<size_t>(what.param)];
}

INSTANTIATE_TEST_SUITE_P(Whats, CudaGemm,
                         ::testing::Values(What::sums, What::finished, What::swiglu, What::geglu), name_of);

}  // namespace
}  // namespace tandem::cuda
