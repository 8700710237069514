// The law of the CPU backend: a sequence's logits are the same bits at every rank count and split, alone or
// among others, at any prompt chunking, on any pages, after a preemption, behind a prefix that another one
// computed, for every format, family and type of the cache. Ranks are threads of this process.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <map>
#include <thread>

#include "ops/core/error.h"
#include "ops/core/head_mix.h"
#include "ops/cpu/backend.h"
#include "runtime/engine/engine.h"
#include "tests/support/tiny_model.h"

namespace tandem::test {
namespace {

/// A way to run a model.
struct Way {
  int n_ranks = 1;
  int64_t batch_tokens = 64;
  std::vector<double> split = {};  // empty: equal
  int n_threads = 1;
  int64_t n_pages = 16;
  CacheType cache_type = CacheType::f16;
  int lookahead = 0;
  bool share_prefixes = true;
};

/// Loads the model on way.n_ranks threads and lets `lead` drive rank 0's engine.
void with_engine(const std::string& path, const Way& way, const std::function<void(Engine&)>& lead) {
  const GgufFile file = GgufFile::open(path);
  const ModelConfig config = ModelConfig::from_gguf(file);
  auto communicators = make_thread_communicators(way.n_ranks);
  const auto rank_main = [&](int rank) {
    const SplitWeights split = way.split.empty() ? SplitWeights(way.n_ranks) : SplitWeights(way.split);
    CpuBackendOptions cpu;
    cpu.n_threads = way.n_threads;
    cpu.spin_us = 0;
    ModelCapacity capacity;
    capacity.n_pages = way.n_pages;
    capacity.cache_type = way.cache_type;
    Communicator& communicator = *communicators[static_cast<size_t>(rank)];
    Model model(file, config, split, capacity, make_cpu_backend(cpu, communicator), communicator);
    EngineOptions options;
    options.batch_tokens = way.batch_tokens;
    options.context_tokens = 512;
    options.lookahead = way.lookahead;
    options.share_prefixes = way.share_prefixes ? PrefixSharing::where_exact : PrefixSharing::off;
    Engine engine(model, options);
    if (rank != 0) {
      engine.follow();
      return;
    }
    lead(engine);
    engine.shutdown(0);
  };
  std::vector<std::thread> others;
  for (int rank = 1; rank < way.n_ranks; ++rank) others.emplace_back(rank_main, rank);
  rank_main(0);
  for (std::thread& thread : others) thread.join();
}

std::vector<int32_t> some_tokens(int64_t n, int64_t n_vocab, uint64_t seed) {
  TestRandom random(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i)
    tokens.push_back(static_cast<int32_t>(random.next() % static_cast<uint64_t>(n_vocab)));
  return tokens;
}

using Logits = std::vector<float>;

void evaluate(Engine& engine, const std::vector<int32_t>& tokens, Logits& out) {
  engine.submit(EvaluationRequest{
      tokens,
      0,
      [&out](int64_t, std::span<const float> row) { out.insert(out.end(), row.begin(), row.end()); },
      {}});
}

Logits logits_of(const std::string& path, const Way& way, const std::vector<int32_t>& tokens) {
  Logits out;
  with_engine(path, way, [&](Engine& engine) {
    evaluate(engine, tokens, out);
    while (engine.step()) {
    }
  });
  return out;
}

/// Where two runs first differ in a bit, or −1.
int64_t first_difference(const Logits& a, const Logits& b) {
  if (a.size() != b.size()) return static_cast<int64_t>(std::min(a.size(), b.size()));
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) return static_cast<int64_t>(i);
  }
  return -1;
}

void expect_natural(const Logits& logits) {
  const auto [low, high] = std::minmax_element(logits.begin(), logits.end());
  EXPECT_LT(*low, -0.5f);
  EXPECT_GT(*high, 0.5f);
  EXPECT_LT(*high, 100.0f);
}

class SameBits : public ::testing::Test {
 protected:
  std::string write(const TinyModel& model) {
    const std::string path = folder_.file("model.gguf");
    model.write(path);
    return path;
  }
  /// Compares many ways to run `model` with the plainest one.
  void expect_same(const TinyModel& model, CacheType cache_type = CacheType::f16, int64_t n_tokens = 70) {
    const std::string path = write(model);
    const std::vector<int32_t> tokens = some_tokens(n_tokens, model.n_vocab, 5);
    const Logits truth = logits_of(path, {.cache_type = cache_type}, tokens);
    ASSERT_EQ(truth.size(), tokens.size() * static_cast<size_t>(model.n_vocab));
    expect_natural(truth);
    std::map<std::string, Way> ways = {
        {"2 ranks", {.n_ranks = 2}},
        {"3 ranks", {.n_ranks = 3}},
        {"4 ranks", {.n_ranks = 4}},
        {"2,1", {.n_ranks = 2, .split = {2, 1}}},
        {"0,1,5", {.n_ranks = 3, .batch_tokens = 7, .split = {0, 1, 5}}},
        {"7 ranks", {.n_ranks = 7}},
        {"one token a step", {.batch_tokens = 1}},
        {"chunks of 13, 3 threads", {.batch_tokens = 13, .n_threads = 3}},
    };
    for (auto& [name, way] : ways) {
      way.cache_type = cache_type;
      EXPECT_EQ(first_difference(truth, logits_of(path, way, tokens)), -1) << name;
    }
  }
  TemporaryFolder folder_;
};

class SameBitsFormat : public SameBits, public ::testing::WithParamInterface<TensorType> {};

TEST_P(SameBitsFormat, AtEveryRankCountSplitAndChunking) {
  expect_same(TinyModel::for_type(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Formats, SameBitsFormat,
                         ::testing::Values(TensorType::f32, TensorType::f16, TensorType::bf16,
                                           TensorType::q4_0, TensorType::q4_1, TensorType::q5_0,
                                           TensorType::q5_1, TensorType::q8_0, TensorType::q2_k,
                                           TensorType::q3_k, TensorType::q4_k, TensorType::q5_k,
                                           TensorType::q6_k, TensorType::iq4_nl, TensorType::iq4_xs),
                         [](const auto& param) { return std::string(type_info(param.param).name); });

class SameBitsCache : public SameBits, public ::testing::WithParamInterface<CacheType> {};
INSTANTIATE_TEST_SUITE_P(CacheTypes, SameBitsCache,
                         ::testing::Values(CacheType::f16, CacheType::f32, CacheType::q8_0, CacheType::q4_0),
                         [](const auto& param) { return std::string(cache_type_name(param.param)); });

TEST_F(SameBits, Qwen2WithBiases) {
  TinyModel model = TinyModel::for_type(TensorType::q4_1);
  model.architecture = "qwen2";
  model.tied_head = false;
  expect_same(model);
}

TEST_F(SameBits, Gemma3WithWindow) {
  TinyModel model = TinyModel::for_type(TensorType::q8_0);
  model.architecture = "gemma3";
  model.n_layers = 7;  // the sixth sees everything
  model.window = 16;
  model.n_heads = 4;
  model.n_kv_heads = 1;
  expect_same(model);
}

TEST_F(SameBits, Experts) {
  TinyModel model = TinyModel::for_type(TensorType::q6_k);
  model.n_experts = 4;
  expect_same(model);
}

/// Keys beyond what a type holds end the job, with the type's name.
TEST_F(SameBits, WhatACacheCannotHold) {
  struct Limit {
    CacheType type;
    float largest;
  };
  for (const Limit& limit : {Limit{CacheType::f16, 65504.0f}, Limit{CacheType::q4_0, 8 * 65504.0f},
                             Limit{CacheType::q8_0, 127 * 65504.0f}}) {
    TinyModel model;
    model.architecture = "qwen2";
    const auto tokens = some_tokens(5, model.n_vocab, 5);
    // mixing adds up what is alike: all of a run of elements that have the same bias
    const int width = limit.type == CacheType::f16 ? 1 : mix_width(model.head_dim);
    model.key_bias = limit.largest / 2 / (cached_mix(width) * static_cast<float>(width));
    EXPECT_FALSE(logits_of(write(model), {.cache_type = limit.type}, tokens).empty());
    model.key_bias = limit.largest * 2;
    const std::string path = write(model);
    EXPECT_FALSE(logits_of(path, {.cache_type = CacheType::f32}, tokens).empty());
    try {
      logits_of(path, {.cache_type = limit.type}, tokens);
      ADD_FAILURE() << cache_type_name(limit.type);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::bad_data);
      const std::string said = std::string("the ") + std::string(cache_type_name(limit.type)) + " cache";
      EXPECT_NE(std::string(error.what()).find(said), std::string::npos) << error.what();
    }
  }
}

TEST_F(SameBits, OddShapesInFloat) {
  TinyModel model;
  model.n_embd = 50;
  model.n_heads = 5;
  model.n_kv_heads = 5;
  model.head_dim = 6;
  model.n_ff = 70;
  model.n_vocab = 37;
  expect_same(model);
}

/// Heads of 48: a block and a half.
TEST_P(SameBitsCache, AtEveryRankCountSplitAndChunking) {
  expect_same(TinyModel::for_type(TensorType::q4_1), GetParam());
  TinyModel model;
  model.head_dim = 48;
  expect_same(model, GetParam());
}

TEST_P(SameBitsCache, TheTypeShows) {
  if (GetParam() == CacheType::f32) return;
  const TinyModel model = TinyModel::for_type(TensorType::q4_1);
  const std::string path = write(model);
  const auto tokens = some_tokens(70, model.n_vocab, 5);
  const Logits rounded = logits_of(path, {.cache_type = GetParam()}, tokens);
  EXPECT_NE(first_difference(rounded, logits_of(path, {.cache_type = CacheType::f32}, tokens)), -1);
}

TEST_P(SameBitsCache, AmongOtherSequencesAndOnOtherPages) {
  const TinyModel model = TinyModel::for_type(TensorType::q5_k);
  const std::string path = write(model);
  const auto mine = some_tokens(150, model.n_vocab, 5);
  const Logits truth = logits_of(path, {.cache_type = GetParam()}, mine);
  for (const int n_ranks : {1, 2, 4}) {
    Logits before;
    Logits among;
    Logits other;
    const Way way = {.n_ranks = n_ranks, .batch_tokens = 48, .cache_type = GetParam()};
    with_engine(path, way, [&](Engine& engine) {
      evaluate(engine, some_tokens(90, model.n_vocab, 6), other);  // takes pages first
      evaluate(engine, mine, among);
      evaluate(engine, some_tokens(33, model.n_vocab, 7), other);
      while (engine.step()) {
      }
      evaluate(engine, mine, before);  // on pages that others have used
      while (engine.step()) {
      }
    });
    EXPECT_EQ(first_difference(truth, among), -1);
    EXPECT_EQ(first_difference(truth, before), -1);
  }
}

TEST_F(SameBits, GenerationAgreesWithEvaluation) {
  const TinyModel model = TinyModel::for_type(TensorType::q4_k);
  const std::string path = write(model);
  const auto prompt = some_tokens(40, model.n_vocab, 9);
  std::vector<std::vector<int32_t>> texts;
  for (const int n_ranks : {1, 2, 3}) {
    for (const float temperature : {0.0f, 1.5f}) {
      std::vector<int32_t> text;
      with_engine(path, {.n_ranks = n_ranks}, [&](Engine& engine) {
        GenerationRequest request;
        request.prompt = prompt;
        request.sampling.temperature = temperature;
        request.sampling.seed = 7;
        request.max_new_tokens = 50;
        request.on_token = [&](int32_t token) {
          text.push_back(token);
          return true;
        };
        engine.submit(std::move(request));
        while (engine.step()) {
        }
      });
      EXPECT_EQ(text.size(), 50u);
      texts.push_back(text);
    }
  }
  EXPECT_EQ(texts[0], texts[2]);
  EXPECT_EQ(texts[0], texts[4]);
  EXPECT_EQ(texts[1], texts[3]);
  EXPECT_EQ(texts[1], texts[5]);
  EXPECT_NE(texts[0], texts[1]);
  // The greedy text is what the logits of prompt and text say.
  std::vector<int32_t> all = prompt;
  all.insert(all.end(), texts[0].begin(), texts[0].end());
  const Logits logits = logits_of(path, {}, all);
  for (size_t i = 0; i < texts[0].size(); ++i) {
    const auto row =
        logits.begin() + static_cast<int64_t>((prompt.size() + i - 1) * static_cast<size_t>(model.n_vocab));
    EXPECT_EQ(std::max_element(row, row + model.n_vocab) - row, texts[0][i]) << i;
  }
}

/// A sampled text: every bit of the logits decides about it.
void generate(Engine& engine, const std::vector<int32_t>& prompt, int64_t n, std::vector<int32_t>& text) {
  GenerationRequest request;
  request.prompt = prompt;
  request.sampling.temperature = 1.5f;
  request.sampling.repeat_penalty = 1.1f;
  request.sampling.seed = 7;
  request.max_new_tokens = n;
  request.on_token = [&text](int32_t token) {
    text.push_back(token);
    return true;
  };
  engine.submit(std::move(request));
}

void run(Engine& engine) {
  while (engine.step()) {
  }
}

TEST_F(SameBits, AfterAPreemption) {
  const TinyModel model = TinyModel::for_type(TensorType::q5_k);
  const std::string path = write(model);
  const auto mine = some_tokens(150, model.n_vocab, 5);
  const auto others = some_tokens(60, model.n_vocab, 6);
  const Logits truth = logits_of(path, {}, mine);
  std::vector<int32_t> true_text;
  with_engine(path, {}, [&](Engine& engine) {
    generate(engine, others, 200, true_text);
    run(engine);
  });
  ASSERT_EQ(true_text.size(), 200u);
  for (const bool share : {false, true}) {
    for (const int lookahead : {0, 1}) {
      Logits logits;
      std::vector<int32_t> text;
      std::vector<int32_t> younger_text;
      // The older one needs five pages in the end; the younger ones must give theirs back in the middle.
      with_engine(
          path,
          {.n_ranks = 2, .batch_tokens = 2, .n_pages = 6, .lookahead = lookahead, .share_prefixes = share},
          [&](Engine& engine) {
            generate(engine, others, 200, text);
            evaluate(engine, mine, logits);
            generate(engine, others, 200, younger_text);
            run(engine);
            EXPECT_GE(engine.stats().n_preemptions, 1);
            EXPECT_EQ(engine.stats().n_pages_used, 0);
          });
      EXPECT_EQ(first_difference(truth, logits), -1) << share << lookahead;
      EXPECT_EQ(text, true_text) << share << lookahead;
      EXPECT_EQ(younger_text, true_text) << share << lookahead;
    }
  }
}

/// What queries' norms take away keys' may have more of: scores are the same, and what caches keep, too, or
/// as good.
TEST_F(SameBits, WhicheverNormMakesAnElementLarge) {
  TinyModel model = TinyModel::for_type(TensorType::f32);
  model.architecture = "gemma3";
  const auto tokens = some_tokens(70, model.n_vocab, 5);
  for (const CacheType type : {CacheType::f32, CacheType::f16, CacheType::q8_0, CacheType::q4_0}) {
    const auto logits = [&](bool unlike) {
      model.unlike_norms = unlike;
      return logits_of(write(model), {.cache_type = type}, tokens);
    };
    const Logits truth = logits(false);
    expect_natural(truth);
    EXPECT_EQ(first_difference(truth, logits(true)), -1) << cache_type_name(type);
  }
}

TEST_F(SameBits, BehindASharedPrefix) {
  TinyModel model = TinyModel::for_type(TensorType::q8_0);
  model.architecture = "gemma3";
  model.n_layers = 7;
  model.window = 16;
  const std::string path = write(model);
  const auto mine = some_tokens(150, model.n_vocab, 5);
  const Logits truth = logits_of(path, {.share_prefixes = false}, mine);
  std::vector<int32_t> true_text;
  with_engine(path, {.share_prefixes = false}, [&](Engine& engine) {
    generate(engine, mine, 40, true_text);
    run(engine);
    EXPECT_EQ(engine.stats().n_spared_tokens, 0);
  });
  for (const int n_ranks : {1, 3}) {
    Logits whole;
    Logits end;
    std::vector<std::vector<int32_t>> texts(3);
    with_engine(path, {.n_ranks = n_ranks, .batch_tokens = 48}, [&](Engine& engine) {
      evaluate(engine, mine, whole);
      for (auto& text : texts) generate(engine, mine, 40, text);  // while the first one computes the prefix
      run(engine);
      EXPECT_EQ(engine.stats().n_spared_tokens, 3 * 128);
      engine.submit(EvaluationRequest{
          mine,
          140,
          [&](int64_t, std::span<const float> row) { end.insert(end.end(), row.begin(), row.end()); },
          {}});
      run(engine);
      EXPECT_EQ(engine.stats().n_spared_tokens, 4 * 128);
    });
    EXPECT_EQ(first_difference(truth, whole), -1);
    EXPECT_EQ(first_difference({truth.begin() + 140 * model.n_vocab, truth.end()}, end), -1);
    for (const auto& text : texts) EXPECT_EQ(text, true_text);
  }
}

TEST_F(SameBits, WithStepsPlannedAhead) {
  const TinyModel model = TinyModel::for_type(TensorType::q4_1);
  const std::string path = write(model);
  std::vector<std::vector<std::vector<int32_t>>> texts;
  for (const int lookahead : {0, 1, 2}) {
    auto& mine = texts.emplace_back(4);
    with_engine(path, {.n_ranks = 2, .batch_tokens = 16, .lookahead = lookahead}, [&](Engine& engine) {
      for (size_t i = 0; i < mine.size(); ++i) {
        generate(engine, some_tokens(30 + static_cast<int64_t>(i), model.n_vocab, i),
                 20 + static_cast<int64_t>(i), mine[i]);
      }
      run(engine);
    });
    for (size_t i = 0; i < mine.size(); ++i) EXPECT_EQ(mine[i].size(), 20 + i);
  }
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_EQ(texts[0], texts[2]);
}

TEST_F(SameBits, TheComparisonNoticesOneBit) {
  Logits a = {1.0f, 2.0f, 3.0f};
  Logits b = a;
  EXPECT_EQ(first_difference(a, b), -1);
  b[1] = std::nextafter(b[1], 3.0f);
  EXPECT_EQ(first_difference(a, b), 1);
  b = {1.0f, 2.0f};
  EXPECT_EQ(first_difference(a, b), 2);
}

}  // namespace
}  // namespace tandem::test
