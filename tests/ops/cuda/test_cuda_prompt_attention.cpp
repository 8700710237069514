// Attention of many tokens of a sequence at once (ops/cuda/prompt_attention_kernel.cuh) on a GPU, against
// ops/ref in double: lengths, first positions, windows, groups, head sizes, cache types, several sequences on
// shuffled pages beside others with one token, values far apart, with NaN in every slot that was never
// written.
#include "ops/cuda/attention.h"
#include "ops/cuda/prompt_attention.h"
#include "ops/ref/matmul.h"
#include "tests/ops/cuda/attention_case.h"

namespace tandem::cuda {
namespace {

double nmse(const std::vector<float>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  return ref::nmse(a.data(), b.data(), std::min(a.size(), b.size()));
}

Case prompt(std::vector<Part> parts, int32_t head_dim = 64, CudaKvType type = CudaKvType::f16) {
  Case c;
  c.head_dim = head_dim;
  c.type = type;
  c.together = false;
  c.prompts = true;
  c.parts = std::move(parts);
  return c;
}

std::string name_of(const Case& c) {
  std::string text = "head " + std::to_string(c.head_dim) + " heads " + std::to_string(c.n_heads()) + "/" +
                     std::to_string(c.n_kv()) + " type " + std::to_string(static_cast<int>(c.type)) +
                     " window " + std::to_string(c.window) + " parts";
  for (const Part& p : c.parts) text += " " + std::to_string(p.first) + "+" + std::to_string(p.n);
  return text;
}

constexpr double kTolerance = 1e-6;  ///< queries and weights are halves

/// A key's code that is rounded otherwise is an eighth of its group's largest in q4_0.
double tolerance_of(const Case& c) {
  return c.type == CudaKvType::q4_0 ? 10 * kTolerance : kTolerance;
}

void expect_right(const Case& c, double tolerance) {
  const Host host = make_host(c);
  const Outcome got = run(c, host);
  EXPECT_LT(nmse(got.out, host.truth), tolerance) << name_of(c);
  EXPECT_TRUE(got.padding_is_zero) << name_of(c);
  EXPECT_TRUE(got.other_layers_untouched) << name_of(c);
  EXPECT_EQ(got.not_finite, 0U) << name_of(c);
}

void expect_right(const Case& c) {
  expect_right(c, tolerance_of(c));
}

std::vector<int32_t> groups(int32_t n_kv, int32_t group) {
  std::vector<int32_t> heads;
  for (int32_t i = 0; i < n_kv * group; ++i) heads.push_back(i / group);
  return heads;
}

const std::vector<int32_t> kUneven = {0, 0, 0, 1, 1};  // one of two ranks of 9 heads over 3

class CudaPromptAttention : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(CudaPromptAttention, EveryLength) {
  for (const int32_t n : {2, 3, 15, 16, 17, 63, 64, 65, 129, 300, 700}) {
    for (const int32_t first : {0, 1, 63, 64, 500}) {
      if (n > 100 && first == 1) continue;
      Case c = prompt({{first, n}});
      c.kv_of_head = groups(1, n % 2 == 0 ? 4 : 3);
      expect_right(c);
    }
  }
}

TEST_F(CudaPromptAttention, EveryHeadSizeAndCacheType) {
  for (const CudaKvType type : kHalvesAndCodes) {
    for (const int32_t dim : {64, 80, 96, 112, 128, 192, 256}) {
      for (const std::vector<Part>& parts : {std::vector<Part>{{0, 40}}, std::vector<Part>{{0, 210}},
                                             std::vector<Part>{{60, 10}, {0, 100}, {513, 2}}}) {
        Case c = prompt(parts, dim, type);
        c.kv_of_head = kUneven;
        expect_right(c);
        c.mixes = is_coded(type);
        if (c.mixes) expect_right(c);
      }
    }
  }
}

TEST_F(CudaPromptAttention, HeadSizesAndCachesThatGoTheTokensRoad) {
  for (const int32_t dim : {20, 32, 160}) expect_right(prompt({{30, 40}, {9, 1}}, dim));
  expect_right(prompt({{30, 40}, {9, 1}}, 128, CudaKvType::f32), 1e-9);
}

TEST_F(CudaPromptAttention, DevicesWithLessSharedMemory) {
  constexpr int kBytes = 99 * 1024;
  for (const CudaKvType type : kHalvesAndCodes) {
    for (const int32_t dim : {64, 80, 96, 112, 128}) {
      Case c = prompt({{60, 40}, {300, 3}}, dim, type);
      c.kv_of_head = kUneven;
      c.shared_bytes = kBytes;
      expect_right(c);
      const PromptKernel kernel = type == CudaKvType::f16    ? prompt_attention_f16(dim, kBytes)
                                  : type == CudaKvType::q8_0 ? prompt_attention_q8(dim, kBytes)
                                                             : prompt_attention_q4(dim, kBytes);
      EXPECT_NE(kernel.function, nullptr) << dim;
      EXPECT_LE(kernel.shared_bytes, kBytes) << dim;
    }
    expect_right(prompt({{60, 40}}, 256, type));
    Case c = prompt({{60, 40}}, 256, type);
    c.shared_bytes = kBytes;  // the tokens' road
    expect_right(c);
  }
}

TEST_F(CudaPromptAttention, EveryGroup) {
  for (const int32_t dim : {128, 256}) {
    for (const std::vector<int32_t>& heads :
         {groups(3, 1), groups(2, 3), groups(1, 7), groups(4, 8), groups(1, 9), groups(2, 12), groups(1, 16),
          kUneven, std::vector<int32_t>{0, 1, 1, 1}, std::vector<int32_t>{0, 2, 2}}) {
      Case c = prompt({{100, 37}}, dim);
      c.kv_of_head = heads;
      expect_right(c);
    }
  }
}

TEST_F(CudaPromptAttention, Windows) {
  for (const int64_t window : {1, 5, 63, 64, 65, 512, 1000}) {
    for (const int32_t dim : {64, 256}) {
      for (const CudaKvType type : kHalvesAndCodes) {
        Case c = prompt({{500, 40}, {3, 2}, {1300, 90}, {70, 1}}, dim, type);
        c.kv_of_head = groups(1, 2);
        c.window = window;
        expect_right(c);
      }
    }
  }
}

TEST_F(CudaPromptAttention, FewTokensDeepInAContext) {
  for (const CudaKvType type : kHalvesAndCodes) {
    for (const int32_t dim : {64, 80, 256}) {
      for (const int64_t window : {0, 3000}) {
        Case c = prompt({{4090, 5}, {7001, 12}, {10, 2}}, dim, type);
        c.kv_of_head = groups(2, 3);
        c.window = window;
        expect_right(c);
        c.mixes = is_coded(type);  // and whose sums are merged
        if (c.mixes) expect_right(c);
        c.fixed_cuts = true;
        expect_right(c);
      }
    }
  }
}

TEST_F(CudaPromptAttention, BesideSequencesOfOneToken) {
  for (const int32_t dim : {64, 112, 128}) {
    const std::vector<Part> parts = {{5, 1}, {1200, 1}, {0, 100}, {777, 1}, {64, 30}, {3, 1}};
    Case c = prompt(parts, dim);
    expect_right(c);
    c.fixed_cuts = true;
    expect_right(c);
    Case alone = prompt({{777, 1}}, dim);
    alone.fixed_cuts = true;
    const std::vector<float> one = run(alone, make_host(alone)).out;
    const std::vector<float> all = run(c, make_host(c)).out;
    const auto at = all.begin() + 102 * static_cast<std::ptrdiff_t>(one.size());
    EXPECT_EQ(one, std::vector<float>(at, at + static_cast<std::ptrdiff_t>(one.size())));
  }
}

TEST_F(CudaPromptAttention, MoreSequencesThanALaunchTakes) {
  std::vector<Part> parts;
  for (int32_t i = 0; i < kMaxPromptParts + 7; ++i) parts.push_back({3 * i, 2 + i % 3});
  Case c = prompt(parts);
  c.kv_of_head = groups(1, 2);
  expect_right(c);
}

TEST_F(CudaPromptAttention, NormsAndRotations) {
  for (const RopeStyle style : {RopeStyle::adjacent, RopeStyle::halves}) {
    for (const bool norm : {false, true}) {
      Case c = prompt({{100, 50}}, 128);
      c.style = style;
      c.n_rot = 64;
      c.norm = norm;
      expect_right(c);
    }
  }
}

TEST_F(CudaPromptAttention, ScoresFarApart) {
  for (const int32_t dim : {64, 192}) {
    for (const auto& [q, k] : {std::pair{8.0F, 1.0F}, std::pair{1e6F, 1e-5F}, std::pair{1e-6F, 1e4F}}) {
      Case c = prompt({{200, 70}}, dim);
      c.q_size = q;
      c.k_size = k;
      expect_right(c, 1e-5);  // a query's rounding counts as the score's size
    }
  }
}

TEST_F(CudaPromptAttention, CodesWhoseValuesAreNoHalves) {
  for (const int32_t dim : {64, 80, 256}) {
    for (const CudaKvType type : kCodes) {
      const float large = type == CudaKvType::q8_0 ? 1e6F : 1e5F;
      Case c = prompt({{130, 70}}, dim, type);
      c.v_size = large;
      expect_right(c);
      c.v_size = 1.0F;
      c.k_size = large;
      c.q_size = 1.0F / large;
      expect_right(c);
      c.v_size = large;
      expect_right(c);
    }
  }
}

TEST_F(CudaPromptAttention, FloatsAreWhatTheRecordsHold) {
  for (const std::vector<Part>& parts :
       {std::vector<Part>{{0, 70}, {200, 1}}, std::vector<Part>{{300, 1}, {200, 1}}}) {
    for (const int32_t dim : {64, 80}) {
      Case c = prompt(parts, dim);
      const Host host = make_host(c);
      const Outcome records = run(c, host);
      c.rows = true;
      const Outcome rows = run(c, host);
      EXPECT_EQ(records.out, rows.out) << name_of(c);
      EXPECT_TRUE(rows.padding_is_zero) << name_of(c);
      EXPECT_LT(nmse(rows.out, host.truth), kTolerance) << name_of(c);
    }
  }
}

TEST_F(CudaPromptAttention, RecordsAreWhatFillingMakes) {
  for (const ActForm form : {ActForm::q8, ActForm::q15}) {
    Case c = prompt({{70, 30}, {200, 1}}, 128);
    c.kv_of_head = kUneven;
    c.first_col = 384;
    const Host host = make_host(c);
    const Outcome floats = run(c, host);
    c.form = form;
    const Outcome got = run(c, host);
    CudaActivations filled(c.n_tokens(), c.cols(), form);
    const auto rows = to_device(floats.out);
    const Stream stream;
    filled.fill(rows.data(), c.cols().size(), c.n_tokens(), nullptr, stream.get());
    stream.synchronize();
    EXPECT_EQ(got.records, to_host(filled.data(), static_cast<size_t>(c.n_tokens() * filled.token_bytes())));
  }
}

TEST_F(CudaPromptAttention, ARowsBitsDependOnItsSequenceAlone) {
  for (const CudaKvType type : kHalvesAndCodes) {
    Case alone = prompt({{177, 90}}, 128, type);
    alone.fixed_cuts = true;
    const std::vector<float> first = run(alone, make_host(alone)).out;
    EXPECT_EQ(first, run(alone, make_host(alone)).out) << "repeated";
    Case among = alone;
    among.page_seed = 77;
    among.parts = {{5, 1}, {30, 200}, {177, 90}, {64, 33}};
    const std::vector<float> all = run(among, make_host(among)).out;
    const auto at = all.begin() + 201 * alone.n_heads() * alone.head_dim;
    EXPECT_EQ(first, std::vector<float>(at, at + static_cast<std::ptrdiff_t>(first.size())))
        << "among others";
  }
}

TEST_F(CudaPromptAttention, ARowsBitsDontDependOnHowItsPromptIsCut) {
  for (const CudaKvType type : kHalvesAndCodes) {
    for (const int32_t dim : {64, 128, 256}) {
      for (const int64_t window : {0, 100}) {
        Case whole = prompt({{177, 90}}, dim, type);
        whole.fixed_cuts = true;
        whole.window = window;
        const Host host = make_host(whole);
        const std::vector<float> first = run(whole, host).out;
        for (const std::vector<int32_t>& cuts :
             {std::vector<int32_t>{1, 89}, std::vector<int32_t>{64, 1, 1, 24}, std::vector<int32_t>(90, 1)}) {
          Case cut = whole;
          cut.cuts = cuts;
          EXPECT_EQ(first, run(cut, host).out) << name_of(cut) << " cut into " << cuts.size();
        }
      }
    }
  }
}

TEST_F(CudaPromptAttention, TheComparerRejectsAWrongAnswer) {
  Case c = prompt({{480, 40}}, 128);
  Host host = make_host(c);
  EXPECT_LT(nmse(run(c, host).out, host.truth), kTolerance);
  Case shorter = c;
  shorter.window = 500;  // some tokens see some positions less
  EXPECT_GT(nmse(run(shorter, host).out, host.truth), kTolerance);
  Case other = c;
  other.style = RopeStyle::halves;
  EXPECT_GT(nmse(run(other, host).out, host.truth), kTolerance);
  host.v[3] += 5.0F;
  EXPECT_GT(nmse(run(c, host).out, host.truth), kTolerance);
}

TEST_F(CudaPromptAttention, ValuesThatAreNotFiniteAreTold) {
  for (const CudaKvType type : kHalvesAndCodes) {
    for (const float bad : {NAN, HUGE_VALF}) {
      for (const int which : {0, 1, 2}) {
        const Case c = prompt({{100, 30}}, 64, type);
        Host host = make_host(c);
        (which == 0 ? host.q : which == 1 ? host.k : host.v)[17] = bad;
        EXPECT_EQ(run(c, host).not_finite, 1U) << bad << " in " << which << " " << name_of(c);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::cuda
