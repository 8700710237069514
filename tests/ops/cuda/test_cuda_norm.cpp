// ops/cuda/norm on a GPU against ops/ref in double: residual, norm, post-norm, and the forms that are
// written.
#include "ops/cuda/norm.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <thread>

#include "ops/ref/matmul.h"
#include "ops/ref/rows.h"
#include "tests/ops/cuda/gpu_support.h"

namespace tandem::cuda {
namespace {

std::vector<float> normals(int64_t n, uint32_t seed, float size = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.1F, 1.0F);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& a : x) a = normal(random) * size;
  return x;
}

std::vector<double> widened(const float* x, int64_t n) {
  return {x, x + n};
}

struct Case {
  int64_t n_cols;
  int n_slots;
  bool post;
  int64_t n_tokens;
  float size;
};

struct Outcome {
  std::vector<float> residual;
  std::vector<float> normed;     // through the f32 form, whole segments
  std::vector<float> quantised;  // through q15
  uint32_t not_finite = 0;
};

struct Rows {
  explicit Rows(const Case& c)
      : residual(normals(c.n_tokens * c.n_cols, 1, c.size)),
        weight(normals(c.n_cols, 2)),
        post(normals(c.n_cols, 3)) {
    for (int slot = 0; slot < c.n_slots; ++slot)
      slots.push_back(normals(c.n_tokens * c.n_cols, 10 + static_cast<uint32_t>(slot), c.size));
  }
  std::vector<float> residual;
  std::vector<float> weight;
  std::vector<float> post;
  std::vector<std::vector<float>> slots;
};

Outcome run(const Case& c, const Rows& rows) {
  const auto residual = to_device(rows.residual);
  const auto weight = to_device(rows.weight);
  const auto post = to_device(rows.post);
  const auto flag = to_device(std::vector<uint32_t>{0});
  std::vector<DeviceBuffer<float>> slots;
  CudaActivations floats(c.n_tokens, {0, c.n_cols}, ActForm::f32);
  CudaActivations q15(c.n_tokens, {0, c.n_cols}, ActForm::q15);
  AddNorm what;
  what.n_cols = c.n_cols;
  what.n_slots = c.n_slots;
  for (const auto& slot : rows.slots) {
    slots.push_back(to_device(slot));
    what.slots[slots.size() - 1] = slots.back().data();
  }
  what.post_weight = c.post ? post.data() : nullptr;
  what.residual = residual.data();
  what.weight = weight.data();
  what.eps = 1e-5F;
  what.out[0] = &floats;
  what.out[1] = &q15;
  what.not_finite = flag.data();
  const Stream stream;
  add_norm(what, c.n_tokens, true, stream.get());
  stream.synchronize();
  return {to_host(residual.data(), residual.size()), decode_all(floats, c.n_tokens),
          decode_all(q15, c.n_tokens), to_host(flag.data(), 1)[0]};
}

double nmse_of(const float* a, const std::vector<double>& b) {
  return ref::nmse(a, b.data(), b.size());
}

class CudaNorm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(CudaNorm, AgreesWithTheReference) {
  for (const Case& c :
       {Case{8192, 1, false, 1, 1.0F}, Case{576, 2, false, 3, 1.0F}, Case{640, 1, true, 2, 1.0F},
        Case{4, 0, false, 1, 1.0F}, Case{16384, 8, true, 2, 1.0F}, Case{32768, 2, false, 1, 1.0F},
        Case{8192, 2, false, 2, 1e6F}, Case{3072, 0, false, 5, 1e-3F}}) {
    const Rows rows(c);
    const Outcome got = run(c, rows);
    const int64_t width = segments_of({0, c.n_cols}).size() * kSegmentCols;
    EXPECT_EQ(got.not_finite, 0U);
    for (int64_t t = 0; t < c.n_tokens; ++t) {
      std::vector<double> sum(static_cast<size_t>(c.n_cols));
      for (const auto& slot : rows.slots) {
        for (size_t i = 0; i < sum.size(); ++i)
          sum[i] += static_cast<double>(slot[static_cast<size_t>(t * c.n_cols) + i]);
      }
      if (c.post) sum = ref::rms_norm(sum, rows.post, 1e-5);
      std::vector<double> residual = widened(rows.residual.data() + t * c.n_cols, c.n_cols);
      for (size_t i = 0; i < sum.size(); ++i) residual[i] += sum[i];
      const std::vector<double> normed = ref::rms_norm(residual, rows.weight, 1e-5);
      EXPECT_LT(nmse_of(got.residual.data() + t * c.n_cols, residual), 1e-12) << c.n_cols;
      EXPECT_LT(nmse_of(got.normed.data() + t * width, normed), 1e-12) << c.n_cols;
      EXPECT_LT(nmse_of(got.quantised.data() + t * width, normed), 1e-7) << c.n_cols;
      for (int64_t i = c.n_cols; i < width; ++i)
        EXPECT_EQ(got.normed[static_cast<size_t>(t * width + i)], 0.0F);
    }
  }
}

/// Slots that are filled while the kernel waits: more tokens than have room on a GPU at once, in pieces.
TEST_F(CudaNorm, AwaitsSlotsPieceByPiece) {
  const Case c{1024, 2, false, 700, 1.0F};
  constexpr int64_t kStep = 192;
  const Rows rows(c);
  const Outcome expected = run(c, rows);
  const auto residual = to_device(rows.residual);
  const auto weight = to_device(rows.weight);
  const auto mine = to_device(rows.slots[0]);
  const auto theirs = to_device(std::vector<float>(rows.slots[1].size(), NAN));
  const auto flag = to_device(std::vector<uint32_t>{kArrivalNumbers - 2});
  CudaActivations out(c.n_tokens, {0, c.n_cols}, ActForm::q15);
  AddNorm what;
  what.n_cols = c.n_cols;
  what.n_slots = 2;
  what.slots[0] = mine.data();
  what.slots[1] = theirs.data();
  what.arrivals = {flag.data(), kArrivalNumbers - 1, kStep};  // the second piece's flag is 0
  what.residual = residual.data();
  what.weight = weight.data();
  what.eps = 1e-5F;
  what.out[0] = &out;
  const Stream stream;
  const Stream copying;
  PinnedBuffer<float> late(rows.slots[1].size());
  std::copy(rows.slots[1].begin(), rows.slots[1].end(), late.data());
  PinnedBuffer<uint32_t> numbers(4);
  add_norm(what, c.n_tokens, false, stream.get());
  for (int64_t t = 0, i = 0; t < c.n_tokens; t += kStep, ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    EXPECT_EQ(cudaStreamQuery(stream.get()), cudaErrorNotReady) << "piece " << i;
    const int64_t n = std::min(kStep, c.n_tokens - t) * c.n_cols;
    check(cudaMemcpyAsync(theirs.data() + t * c.n_cols, late.data() + t * c.n_cols,
                          static_cast<size_t>(n) * sizeof(float), cudaMemcpyHostToDevice, copying.get()));
    numbers.data()[i] = static_cast<uint32_t>(kArrivalNumbers - 1 + i) % kArrivalNumbers;
    check(cudaMemcpyAsync(flag.data(), numbers.data() + i, sizeof(uint32_t), cudaMemcpyHostToDevice,
                          copying.get()));
  }
  stream.synchronize();
  EXPECT_EQ(to_host(residual.data(), residual.size()), expected.residual);
  EXPECT_EQ(decode_all(out, c.n_tokens), expected.quantised);
}

TEST_F(CudaNorm, TheComparerRejectsAWrongAnswer) {
  const Case c{512, 1, false, 1, 1.0F};
  Rows rows(c);
  const Outcome got = run(c, rows);
  rows.slots[0][300] += 0.01F;
  const Outcome other = run(c, rows);
  const std::vector<double> truth = widened(got.normed.data(), 512);
  EXPECT_EQ(nmse_of(got.normed.data(), truth), 0.0);
  EXPECT_GT(nmse_of(other.normed.data(), truth), 1e-9);
  EXPECT_NE(other.residual, got.residual);
}

TEST_F(CudaNorm, ValuesThatAreNotFiniteAreTold) {
  const Case c{640, 1, false, 2, 1.0F};
  for (const float bad : {NAN, HUGE_VALF}) {
    Rows rows(c);
    rows.slots[0][1279] = bad;
    EXPECT_EQ(run(c, rows).not_finite, 1U);
  }
}

}  // namespace
}  // namespace tandem::cuda
