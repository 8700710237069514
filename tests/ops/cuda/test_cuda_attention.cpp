// ops/cuda/{kv_cache,attention} on a GPU against ops/ref in double: norm, rotation, append and attention over
// head sizes, groups, windows, contexts, cache types and several sequences on shuffled pages, with NaN in
// every slot that was never written.
#include "ops/cuda/attention.h"

#include "ops/core/error.h"
#include "ops/ref/matmul.h"
#include "tests/ops/cuda/attention_case.h"

namespace tandem::cuda {
namespace {

double nmse(const std::vector<float>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  return ref::nmse(a.data(), b.data(), std::min(a.size(), b.size()));
}

double tolerance(const Case& c) {
  if (c.type == CudaKvType::f32) return 1e-9;
  if (c.type == CudaKvType::q4_0) return 1e-5;  // that one's last bit is an eighth of its group's largest
  return 1e-6;  // weights of attention are halves; a key that is rounded otherwise is one half's last bit
}

std::string name_of(const Case& c) {
  std::string text = "head " + std::to_string(c.head_dim) + " heads " + std::to_string(c.n_heads()) + "/" +
                     std::to_string(c.n_kv()) + " type " + std::to_string(static_cast<int>(c.type)) +
                     " window " + std::to_string(c.window) + (c.together ? " together" : " apart") +
                     (c.mixes ? " mixed" : "") + " parts";
  for (const Part& p : c.parts) text += " " + std::to_string(p.first) + "+" + std::to_string(p.n);
  return text;
}

/// The rows that were appended, as they lie in the cache afterwards.
void expect_appended(const Case& c, const Host& host, const Outcome& got) {
  Host expected = host;
  KvView view;
  view.head_bytes = 2 * KvView::plane_bytes(c.type, c.head_dim);
  view.n_kv_heads = c.n_kv();
  view.data = expected.image.data();
  const int64_t row_bytes = kv_row_bytes(c.type, c.head_dim);
  for (int64_t token = 0; token < c.n_tokens(); ++token) {
    const int32_t p = host.positions[static_cast<size_t>(token)];
    const int64_t page = host.pages[static_cast<size_t>(
        host.sequences[static_cast<size_t>(token)] * host.pages_stride + p / kPageTokens)];
    for (int32_t kv = 0; kv < c.n_kv(); ++kv) {
      const int64_t at = (token * c.n_kv() + kv) * c.head_dim;
      const std::vector<double> value(host.appended_v.begin() + at,
                                      host.appended_v.begin() + at + c.head_dim);
      const std::byte* row = view.values(page, kv) + p % kPageTokens * row_bytes;
      const auto offset = row - expected.image.data();
      rounded(value, c.type, view.values(page, kv), p % kPageTokens);
      if (is_coded(c.type)) continue;  // rounding twice may move a scale; outputs are compared
      EXPECT_EQ(std::memcmp(row, got.image.data() + offset, static_cast<size_t>(row_bytes)), 0)
          << "value of token " << token << " " << name_of(c);
    }
  }
}

void expect_right(const Case& c) {
  const Host host = make_host(c);
  const Outcome got = run(c, host);
  EXPECT_LT(nmse(got.out, host.truth), tolerance(c)) << name_of(c);
  EXPECT_TRUE(got.padding_is_zero) << name_of(c);
  EXPECT_TRUE(got.other_layers_untouched) << name_of(c);
  EXPECT_EQ(got.not_finite, 0U) << name_of(c);
  expect_appended(c, host, got);
}

class CudaAttention : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device";
  }
};

const std::vector<int32_t> kUneven = {0, 0, 0, 1, 1};  // one of two ranks of 9 heads over 3

std::vector<int32_t> groups(int32_t n_kv, int32_t group) {
  std::vector<int32_t> heads;
  for (int32_t i = 0; i < n_kv * group; ++i) heads.push_back(i / group);
  return heads;
}

TEST_F(CudaAttention, EveryContextLength) {
  for (const int32_t length : {1, 2, 17, 63, 64, 65, 511, 512, 513, 4097}) {
    for (const int32_t dim : {64, 128}) {
      Case c;
      c.head_dim = dim;
      c.parts = {{length - 1, 1}};
      expect_right(c);
      c.together = false;
      expect_right(c);
    }
  }
}

TEST_F(CudaAttention, EveryHeadSize) {
  for (const int32_t dim : {8, 20, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256}) {
    for (const int32_t last : {0, 70, 700}) {
      Case c;
      c.head_dim = dim;
      c.kv_of_head = kUneven;
      c.parts = {{last, 1}, {last + 9, 1}};
      expect_right(c);
      c.together = false;
      expect_right(c);
    }
  }
}

TEST_F(CudaAttention, EveryGroup) {
  for (const int32_t dim : {64, 128, 256}) {
    for (const std::vector<int32_t>& heads :
         {groups(3, 1), groups(2, 3), groups(1, 7), groups(4, 8), groups(1, 9), groups(2, 12), groups(1, 16),
          kUneven, std::vector<int32_t>{0, 1, 1, 1}, std::vector<int32_t>{0, 2, 2}}) {
      Case c;
      c.head_dim = dim;
      c.kv_of_head = heads;
      c.parts = {{300, 1}};
      for (const CudaKvType type : kHalvesAndCodes) {
        c.type = type;
        expect_right(c);
      }
    }
  }
}

TEST_F(CudaAttention, PiecesOfManyPages) {
  for (const int32_t dim : {64, 80, 96, 128, 256}) {
    Case c;
    c.head_dim = dim;
    c.kv_of_head = groups(8, dim == 64 ? 10 : 2);
    c.parts = {{4096, 1}, {5555, 1}};
    for (const CudaKvType type : kHalvesAndCodes) {
      c.type = type;
      expect_right(c);
    }
  }
  Case one;
  one.kv_of_head = groups(1, 4);
  one.parts = {{9000, 1}};
  one.max_positions = 64;  // a single piece
  expect_right(one);
}

TEST_F(CudaAttention, EveryNumberOfSequences) {
  for (const bool fixed : {false, true}) {
    for (const int32_t n : {3, 8, 20, 64, 70}) {
      for (const int32_t dim : {64, 112}) {
        Case c;
        c.head_dim = dim;
        c.kv_of_head = groups(2, 2);
        c.fixed_cuts = fixed;
        c.parts.clear();
        for (int32_t i = 0; i < n; ++i) c.parts.push_back({i * i % 1500 + i, 1});
        expect_right(c);
      }
    }
  }
}

TEST_F(CudaAttention, EveryCacheType) {
  for (const CudaKvType type : {CudaKvType::f32, CudaKvType::f16, CudaKvType::q8_0, CudaKvType::q4_0}) {
    for (const int32_t dim : {20, 64, 80, 96, 112, 128, 256}) {
      for (const bool together : {false, true}) {
        Case c;
        c.head_dim = dim;
        c.type = type;
        c.together = together;
        c.parts = {{0, 1}, {64, 1}, {777, 1}};
        expect_right(c);
      }
    }
  }
}

TEST_F(CudaAttention, Windows) {
  for (const int64_t window : {1, 5, 63, 64, 65, 512, 1000}) {
    for (const int32_t dim : {48, 256}) {
      Case c;
      c.head_dim = dim;
      c.kv_of_head = groups(1, 4);
      c.window = window;
      c.parts = {{3, 1}, {64, 1}, {511, 1}, {1300, 1}};
      expect_right(c);
      c.together = false;
      c.parts = {{500, 40}};
      expect_right(c);
    }
  }
}

TEST_F(CudaAttention, NormsAndRotations) {
  for (const RopeStyle style : {RopeStyle::adjacent, RopeStyle::halves}) {
    for (const int32_t n_rot : {0, 16, 64, 40}) {
      for (const bool norm : {false, true}) {
        for (const int32_t dim : {128, 112}) {
          Case c;
          c.head_dim = dim;
          c.style = style;
          c.n_rot = n_rot;
          c.norm = norm;
          c.parts = {{100, 1}};
          expect_right(c);
          c.together = false;
          expect_right(c);
        }
      }
    }
  }
}

TEST_F(CudaAttention, Prompts) {
  for (const int32_t dim : {64, 112}) {
    Case c;
    c.head_dim = dim;
    c.kv_of_head = kUneven;
    c.together = false;
    for (const std::vector<Part>& parts : {std::vector<Part>{{0, 40}}, std::vector<Part>{{0, 130}},
                                           std::vector<Part>{{60, 10}, {0, 100}, {513, 1}}}) {
      c.parts = parts;
      expect_right(c);
    }
  }
}

TEST_F(CudaAttention, ScoresFarApart) {
  for (const int32_t dim : {64, 48}) {
    for (const auto& [q, k] : {std::pair{8.0F, 1.0F}, std::pair{1e6F, 1e-5F}, std::pair{1e-6F, 1e4F}}) {
      Case c;
      c.head_dim = dim;
      c.q_size = q;
      c.k_size = k;
      c.parts = {{400, 1}};
      expect_right(c);
    }
  }
}

TEST_F(CudaAttention, MixedHeads) {
  for (const CudaKvType type : kCodes) {
    for (const int32_t dim : {20, 48, 64, 80, 96, 128, 192, 256}) {
      for (const bool together : {true, false}) {
        Case c;
        c.head_dim = dim;
        c.type = type;
        c.kv_of_head = kUneven;
        c.parts = {{70, 1}, {0, 1}, {1000, 1}};
        c.together = together;
        c.mixes = true;
        expect_right(c);
      }
    }
  }
  Case c;
  c.type = CudaKvType::q8_0;
  c.mixes = true;
  const Host host = make_host(c);
  c.mixes = false;  // reads a mixed cache as if it weren't
  EXPECT_GT(nmse(run(c, host).out, host.truth), 1e-3);
}

TEST_F(CudaAttention, CodesWhoseValuesAreNoHalves) {
  for (const int32_t dim : {48, 64, 80, 96, 128, 256}) {
    for (const auto& [k, v] : {std::pair{1.0F, 1e6F}, std::pair{1e6F, 1.0F}, std::pair{1e6F, 1e6F}}) {
      Case c;
      c.head_dim = dim;
      c.type = CudaKvType::q8_0;
      c.q_size = 1.0F / k;
      c.k_size = k;
      c.v_size = v;
      c.parts = {{400, 1}, {9, 1}};
      expect_right(c);
      c.type = CudaKvType::q4_0;  // scales of both signs, some beyond what halves times 8 hold
      c.q_size = 10.0F / k;
      c.k_size = 0.1F * k;
      c.v_size = 0.1F * v;
      expect_right(c);
    }
  }
}

TEST_F(CudaAttention, FormsAreWhatFillingMakes) {
  for (const ActForm form : {ActForm::q8, ActForm::q15}) {
    for (const int32_t dim : {64, 80, 128}) {
      for (const int64_t first : {int64_t{0}, int64_t{3}, int64_t{9}}) {
        Case c;
        c.head_dim = dim;
        c.kv_of_head = kUneven;
        c.parts = {{70, 1}, {200, 1}};
        c.first_col = dim == 80 ? 0 : first * dim;
        const Host host = make_host(c);
        const Outcome floats = run(c, host);
        c.form = form;
        const Outcome got = run(c, host);
        CudaActivations filled(c.n_tokens(), c.cols(), form);
        const auto rows = to_device(floats.out);
        const Stream stream;
        check(cudaDeviceSynchronize());
        filled.fill(rows.data(), c.cols().size(), c.n_tokens(), nullptr, stream.get());
        stream.synchronize();
        EXPECT_LT(nmse(floats.out, host.truth), 1e-6);
        EXPECT_TRUE(got.padding_is_zero);
        EXPECT_EQ(got.records,
                  to_host(filled.data(), static_cast<size_t>(c.n_tokens() * filled.token_bytes())))
            << dim << " first column " << c.first_col;
      }
    }
  }
}

std::vector<float> rows_of(const Case& c, const Outcome& got, int64_t token) {
  const int64_t n = c.n_heads() * c.head_dim;
  return {got.out.begin() + token * n, got.out.begin() + (token + 1) * n};
}

TEST_F(CudaAttention, ARowsBitsDependOnItsSequenceAlone) {
  for (const auto& [dim, type] :
       {std::pair{64, CudaKvType::f16}, std::pair{112, CudaKvType::f16}, std::pair{128, CudaKvType::f16},
        std::pair{128, CudaKvType::q8_0}, std::pair{128, CudaKvType::q4_0}}) {
    Case alone;
    alone.head_dim = dim;
    alone.type = type;
    alone.fixed_cuts = true;
    alone.parts = {{777, 1}};
    const Outcome first = run(alone, make_host(alone));
    EXPECT_EQ(first.out, run(alone, make_host(alone)).out) << "repeated";
    Case apart = alone;
    apart.together = false;
    EXPECT_EQ(first.out, run(apart, make_host(apart)).out) << "in two launches";
    Case among = alone;
    among.page_seed = 77;
    among.parts = {{5, 1}, {1200, 1}, {777, 1}, {64, 1}};
    EXPECT_EQ(rows_of(alone, first, 0), rows_of(among, run(among, make_host(among)), 2)) << "among others";
    Case crowd = among;  // more tokens than are split
    for (int32_t i = 0; i < 70; ++i) crowd.parts.push_back({10 + i, 1});
    EXPECT_EQ(rows_of(alone, first, 0), rows_of(crowd, run(crowd, make_host(crowd)), 2)) << "in a crowd";
    crowd.together = false;
    EXPECT_EQ(rows_of(alone, first, 0), rows_of(crowd, run(crowd, make_host(crowd)), 2))
        << "in a crowd, apart";
  }
}

TEST_F(CudaAttention, AGraphSeesTheStepChange) {
  Case c;
  c.parts = {{63, 1}};
  const Host host = make_host(c);
  DeviceRun device(c, host);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaStreamBeginCapture(device.stream().get(), cudaStreamCaptureModeThreadLocal));
  device.launch();
  check(cudaStreamEndCapture(device.stream().get(), &graph));
  check(cudaGraphInstantiate(&exec, graph, 0));
  const auto replay = [&](int32_t position) {
    check(cudaMemcpy(device.positions(), &position, sizeof(position), cudaMemcpyHostToDevice));
    check(cudaDeviceSynchronize());
    check(cudaGraphLaunch(exec, device.stream().get()));
    return device.outcome().out;
  };
  const std::vector<float> first = replay(63);
  EXPECT_LT(nmse(first, host.truth), 1e-6);
  const std::vector<float> shorter = replay(9);
  EXPECT_GT(nmse(shorter, host.truth), 1e-3);
  EXPECT_TRUE(std::isfinite(shorter[0]));
  check(cudaGraphExecDestroy(exec));
  check(cudaGraphDestroy(graph));
}

TEST_F(CudaAttention, TheComparerRejectsAWrongAnswer) {
  Case c;
  c.parts = {{512, 1}};
  Host host = make_host(c);
  EXPECT_LT(nmse(run(c, host).out, host.truth), 1e-6);
  Case shorter = c;
  shorter.window = 512;  // one position less
  EXPECT_GT(nmse(run(shorter, host).out, host.truth), 1e-6);
  Case other = c;
  other.style = RopeStyle::halves;
  EXPECT_GT(nmse(run(other, host).out, host.truth), 1e-6);
  host.v[3] += 0.5F;
  EXPECT_GT(nmse(run(c, host).out, host.truth), 1e-8);
}

TEST_F(CudaAttention, ValuesThatAreNotFiniteAreTold) {
  for (const bool together : {false, true}) {
    for (const int32_t dim : {64, 48}) {
      Case c;
      c.head_dim = dim;
      c.parts = {{100, 1}};
      c.together = together;
      for (const float bad : {NAN, HUGE_VALF, 1e5F}) {
        for (const int which : {0, 1, 2}) {
          if (which == 0 && bad == 1e5F) continue;  // queries aren't cached
          Host host = make_host(c);
          (which == 0 ? host.q : which == 1 ? host.k : host.v)[17] = bad;
          EXPECT_EQ(run(c, host).not_finite, 1U) << bad << " in " << which << " " << name_of(c);
        }
      }
      for (const CudaKvType type : {CudaKvType::f32, CudaKvType::q8_0, CudaKvType::q4_0}) {
        c.type = type;
        Host host = make_host(c);
        host.v[17] = 1e5F;
        EXPECT_EQ(run(c, host).not_finite, 0U) << name_of(c);
        host.v[17] = -1e8F;  // above 127 · 65504
        EXPECT_EQ(run(c, host).not_finite, is_coded(type) ? 1U : 0U) << name_of(c);
      }
    }
  }
}

TEST_F(CudaAttention, ARankWithoutHeads) {
  const CudaKvCache cache(4, 0, 128, CudaKvType::f16, 100);
  EXPECT_EQ(cache.bytes(), 0U);
  const AttentionScratch scratch(AttentionShape{{}, 0, 128, 4, 1000});
  EXPECT_EQ(scratch.bytes(), 0U);
  CudaActivations out(4, {0, 0}, ActForm::q8);
  Attention what;
  what.cache = cache.layer(2);
  what.scratch = &scratch;
  what.out = &out;
  const Stream stream;
  append_attend(what, 3, true, stream.get());
  rope_append(what, 3, true, stream.get());
  attend(what, 3, true, stream.get());
  stream.synchronize();
}

TEST_F(CudaAttention, PagesAreCopiedInEveryLayer) {
  CudaKvCache cache(3, 2, 64, CudaKvType::q8_0, 5);
  std::vector<std::byte> image(cache.bytes());
  std::mt19937 random(3);
  for (std::byte& b : image) b = static_cast<std::byte>(random());
  check(cudaMemcpy(cache.raw(), image.data(), image.size(), cudaMemcpyHostToDevice));
  const Stream stream;
  check(cudaDeviceSynchronize());
  cache.copy_page(4, 1, stream.get());
  stream.synchronize();
  const auto page = static_cast<std::ptrdiff_t>(CudaKvCache::bytes_per_page(1, 2, 64, CudaKvType::q8_0));
  for (std::ptrdiff_t layer = 0; layer < 3; ++layer)
    std::copy_n(image.begin() + (layer * 5 + 4) * page, page, image.begin() + (layer * 5 + 1) * page);
  EXPECT_EQ(to_host(cache.raw(), cache.bytes()), image);
}

TEST_F(CudaAttention, MemoryThatIsNotThereIsToldWithNumbers) {
  try {
    const CudaKvCache cache(1000, 128, 256, CudaKvType::f32, 1000000);
    FAIL() << "more memory than any device has";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::unavailable);
    EXPECT_NE(std::string(error.what()).find("1000000 pages"), std::string::npos) << error.what();
  }
}

TEST(AttentionScratchBytes, StayModest) {
  for (const int n_kv : {1, 4, 8, 16}) {
    const std::vector<int32_t> heads = groups(n_kv, std::min(16, 128 / n_kv));
    const AttentionShape shape{heads, n_kv, n_kv == 16 ? 128 : 256, 1024, 1 << 20};
    EXPECT_LE(attention_scratch_bytes(shape, 132), size_t{256} << 20) << n_kv;
    EXPECT_GT(attention_scratch_bytes(shape, 132), size_t{1} << 20) << n_kv;
  }
  EXPECT_EQ(CudaKvCache::bytes_per_page(80, 4, 128, CudaKvType::f16), size_t{80 * 4 * 2 * 64 * 128 * 2});
  EXPECT_EQ(CudaKvCache::bytes_per_page(2, 3, 80, CudaKvType::q8_0), size_t{2 * 3 * 2 * 64 * (80 + 6)});
  EXPECT_EQ(CudaKvCache::bytes_per_page(2, 3, 80, CudaKvType::q4_0), size_t{2 * 3 * 2 * 64 * (40 + 6)});
}

}  // namespace
}  // namespace tandem::cuda
