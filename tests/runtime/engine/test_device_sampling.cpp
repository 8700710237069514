// The engine over a backend that samples itself and is asked one step ahead: the same texts as with the
// host's sampler step by step, whatever runs together, also where some requests must be sampled by the host.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <thread>

#include "runtime/engine/engine.h"
#include "tests/support/late_backend.h"
#include "tests/support/tiny_model.h"

namespace tandem::test {
namespace {

struct Way {
  bool late = false;
  int n_ranks = 1;
  int64_t n_pages = 64;
  Exactness exactness = Exactness::none;  // that the late backend shows
  PrefixSharing share_prefixes = PrefixSharing::where_exact;
};

struct Outcome {
  std::map<int, std::vector<int32_t>> texts;
  size_t most_in_flight = 0;
  int n_from_all = 0;
  uint64_t n_by_host = 0;
  int64_t n_prompt_tokens = 0;
};

std::vector<SamplingParams> some_params(bool with_host) {
  std::vector<SamplingParams> all(6);
  all[0].temperature = 0.0f;
  all[1].repeat_penalty = 1.5f;
  all[1].frequency_penalty = 0.3f;
  all[2].top_k = 0;  // needs all logits
  all[3].top_k = 0;
  all[3].top_p = 1.0f;
  all[3].min_p = 0.0f;
  all[4].temperature = 0.0f;  // the history decides
  all[4].presence_penalty = 0.5f;
  all[4].repeat_last_n = -1;
  all[5].bias = {{3, 2.0f}, {4, -5.0f}};
  for (size_t i = 0; i < all.size(); ++i) all[i].seed = 100 + i;
  if (with_host) {
    all[1].bias.resize(static_cast<size_t>(sampling::kMostBias) + 1, {7, 0.001f});
    all[4].bias.resize(static_cast<size_t>(sampling::kMostBias) + 1, {9, -0.001f});
  }
  return all;
}

/// Two waves of requests; one text is stopped by its reader, one is an evaluation.
void lead(Engine& engine, const std::vector<SamplingParams>& params, int64_t n_vocab, Outcome& out) {
  TestRandom random(3);
  for (int wave = 0; wave < 2; ++wave) {
    for (size_t i = 0; i < params.size(); ++i) {
      const int number = wave * 100 + static_cast<int>(i);
      GenerationRequest request;
      for (int64_t k = 0; k < 3 + 20 * static_cast<int64_t>(i); ++k)
        request.prompt.push_back(static_cast<int32_t>(random.next() % static_cast<uint64_t>(n_vocab)));
      request.sampling = params[i];
      request.max_new_tokens = 25 + static_cast<int64_t>(i);
      request.on_token = [&out, number, i](int32_t token) {
        std::vector<int32_t>& text = out.texts[number];
        text.push_back(token);
        return i != 3 || text.size() < 9;
      };
      engine.submit(std::move(request));
    }
    EvaluationRequest evaluation;
    evaluation.tokens = {1, 2, 3, 4, 5, 6, 7, 8};
    evaluation.on_logits = [&out](int64_t position, std::span<const float> logits) {
      out.texts[1000].push_back(static_cast<int32_t>(position + (logits[0] > logits[1] ? 1 : 0)));
    };
    engine.submit(std::move(evaluation));
    for (int i = 0; i < 7 && wave == 0; ++i) engine.step();
  }
  while (engine.step()) {
  }
}

/// Loads the model on way.n_ranks threads and lets `lead` drive rank 0's engine; its second argument is null
/// where the backend isn't late.
void with_engine(const std::string& path, const Way& way,
                 const std::function<void(Engine&, LateBackend*)>& lead) {
  const GgufFile file = GgufFile::open(path);
  const ModelConfig config = ModelConfig::from_gguf(file);
  auto communicators = make_thread_communicators(way.n_ranks);
  const auto rank_main = [&](int rank) {
    Communicator& communicator = *communicators[static_cast<size_t>(rank)];
    CpuBackendOptions cpu;
    cpu.n_threads = 1;
    cpu.spin_us = 0;
    std::unique_ptr<Backend> backend = make_cpu_backend(cpu, communicator);
    LateBackend* late = nullptr;
    if (way.late) {
      auto wrapped = std::make_unique<LateBackend>(std::move(backend), communicator);
      late = wrapped.get();
      late->shown_exactness = way.exactness;
      backend = std::move(wrapped);
    }
    ModelCapacity capacity;
    capacity.n_pages = way.n_pages;
    Model model(file, config, SplitWeights(way.n_ranks), capacity, std::move(backend), communicator);
    EngineOptions options;
    options.batch_tokens = 16;
    options.context_tokens = 512;
    options.share_prefixes = way.share_prefixes;
    Engine engine(model, options);
    if (rank != 0) {
      engine.follow();
      return;
    }
    lead(engine, late);
    engine.shutdown(0);
  };
  std::vector<std::thread> others;
  for (int rank = 1; rank < way.n_ranks; ++rank) others.emplace_back(rank_main, rank);
  rank_main(0);
  for (std::thread& thread : others) thread.join();
}

Outcome run(const std::string& path, const Way& way, bool with_host) {
  const int64_t n_vocab = ModelConfig::from_gguf(GgufFile::open(path)).n_vocab;
  Outcome out;
  with_engine(path, way, [&](Engine& engine, LateBackend* late) {
    lead(engine, some_params(with_host), n_vocab, out);
    out.n_by_host = engine.n_sampled_by_host();
    if (late == nullptr) return;
    out.most_in_flight = late->most_in_flight();
    out.n_from_all = late->n_from_all();
    out.n_prompt_tokens = late->n_prompt_tokens();
  });
  return out;
}

class DeviceSampling : public ::testing::Test {
 protected:
  DeviceSampling() : path_(folder_.file("model.gguf")) { TinyModel::for_type(TensorType::q8_0).write(path_); }
  TemporaryFolder folder_;
  std::string path_;
};

TEST_F(DeviceSampling, TextsAreTheHosts) {
  const Outcome truth = run(path_, {}, false);
  EXPECT_EQ(truth.texts.size(), 13U);
  EXPECT_EQ(truth.texts.at(3).size(), 9U);
  EXPECT_EQ(truth.texts.at(5).size(), 30U);
  for (const int n_ranks : {1, 2}) {
    const Outcome late = run(path_, {.late = true, .n_ranks = n_ranks}, false);
    EXPECT_EQ(late.texts, truth.texts) << n_ranks;
    EXPECT_EQ(late.most_in_flight, 2U);  // it did run ahead
    EXPECT_GT(late.n_from_all, 5);
    EXPECT_EQ(late.n_by_host, 0U);
    // Of each wave six prompts and an evaluation; nothing that was generated.
    EXPECT_EQ(late.n_prompt_tokens, 2 * (6 * 3 + 20 * (1 + 2 + 3 + 4 + 5) + 8));
  }
}

/// How many tokens are found by a request that goes on behind another one's answer: of 80 tokens and 120 new.
int64_t n_found(const std::string& path, const Way& way) {
  int64_t n = 0;
  with_engine(path, way, [&](Engine& engine, LateBackend*) {
    std::vector<int32_t> text;
    for (int32_t i = 0; i < 80; ++i) text.push_back(i);
    for (const int64_t max_new : {120, 1}) {
      GenerationRequest request;
      request.prompt = text;
      request.max_new_tokens = max_new;
      request.on_token = [&](int32_t token) {
        text.push_back(token);
        return true;
      };
      engine.submit(std::move(request));
      while (engine.step()) {
      }
    }
    n = engine.stats().n_spared_tokens;
  });
  return n;
}

TEST_F(DeviceSampling, PagesAreSharedAsFarAsTheBackendIsExact) {
  static_assert(kPageTokens == 64);
  const auto found = [&](Exactness exactness, PrefixSharing sharing) {
    return n_found(path_, {.late = true, .exactness = exactness, .share_prefixes = sharing});
  };
  EXPECT_EQ(found(Exactness::none, PrefixSharing::where_exact), 0);
  EXPECT_EQ(found(Exactness::prompts, PrefixSharing::where_exact), 64);
  EXPECT_EQ(found(Exactness::all, PrefixSharing::where_exact), 192);
  EXPECT_EQ(found(Exactness::prompts, PrefixSharing::on), 192);
  EXPECT_EQ(found(Exactness::all, PrefixSharing::off), 0);
  EXPECT_EQ(n_found(path_, {}), 192);  // the CPU's is exact
}

TEST_F(DeviceSampling, ScarcePagesChangeNothing) {
  EXPECT_EQ(run(path_, {.late = true, .n_pages = 9}, false).texts, run(path_, {}, false).texts);
}

TEST_F(DeviceSampling, WhatTheDeviceHasNoRoomForIsSampledByTheHost) {
  const Outcome truth = run(path_, {}, true);
  const Outcome late = run(path_, {.late = true, .n_ranks = 2}, true);
  EXPECT_EQ(late.texts, truth.texts);
  EXPECT_GT(late.n_by_host, 10U);
  EXPECT_NE(truth.texts, run(path_, {}, false).texts);  // the comparison sees what the biases change
}

}  // namespace
}  // namespace tandem::test
