// A plan's bytes are those that the backends have after a step, to the byte, for every family, rank count and
// split; and presets have the sizes of real files. Ranks are threads of this process.
#include "runtime/model/memory_plan.h"

#include <gtest/gtest.h>

#include <mutex>
#include <numeric>
#include <thread>

#include "comm/exchange.h"
#include "ops/core/page.h"
#include "ops/cpu/backend.h"
#include "runtime/model/model.h"
#include "runtime/model/preset.h"
#include "tests/support/tiny_model.h"

namespace tandem::test {
namespace {

/// What a rank's backend says of itself after a full step.
struct Measured {
  int64_t weights = 0;
  int64_t cache = 0;
  int64_t workspace = 0;
};

void run_step(Model& model, int64_t n_tokens) {
  std::vector<int32_t> tokens(static_cast<size_t>(n_tokens));
  std::iota(tokens.begin(), tokens.end(), 1);
  std::vector<int32_t> pages(static_cast<size_t>(ceil_div(n_tokens, kPageTokens)));
  std::iota(pages.begin(), pages.end(), 0);
  const StepSequence sequence{0, n_tokens, 0, pages};
  model.forward({tokens, {&sequence, 1}});
  const int64_t last = n_tokens - 1;
  (void)model.logits({&last, 1});
}

std::vector<Measured> measure(const GgufFile& file, const SplitWeights& split, const PlanRequest& request) {
  const ModelConfig config = ModelConfig::from_gguf(file);
  auto communicators = make_thread_communicators(split.n_ranks());
  std::vector<Measured> measured(communicators.size());
  const auto rank_main = [&](size_t rank) {
    ModelCapacity capacity;
    capacity.max_tokens = request.batch_tokens;
    capacity.n_pages = request.n_sequences * ceil_div(request.context_tokens, kPageTokens);
    capacity.cache_type = request.cache_type;
    CpuBackendOptions cpu;
    cpu.n_threads = 1;
    cpu.spin_us = 0;
    Communicator& communicator = *communicators[rank];
    Model model(file, config, split, capacity, make_cpu_backend(cpu, communicator), communicator);
    run_step(model, request.batch_tokens);
    communicator.barrier();
    const Backend& backend = model.backend();
    measured[rank] = {static_cast<int64_t>(backend.weight_bytes()),
                      static_cast<int64_t>(backend.cache_bytes()),
                      static_cast<int64_t>(backend.workspace_bytes())};
  };
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < communicators.size(); ++rank) threads.emplace_back(rank_main, rank);
  for (std::thread& thread : threads) thread.join();
  return measured;
}

/// How many numbers of the plan aren't the measured ones.
int n_wrong(const MemoryPlan& plan, const PlanRequest& request, const std::vector<Measured>& measured) {
  int n = 0;
  for (int r = 0; r < plan.n_ranks(); ++r) {
    const RankMemory planned = plan.rank(r, request);
    const Measured& real = measured[static_cast<size_t>(r)];
    n += planned.weight_bytes != real.weights;
    n += planned.cache_bytes != real.cache;
    n += planned.workspace_bytes != real.workspace;
  }
  return n;
}

class Plan : public ::testing::Test {
 protected:
  GgufFile write(const TinyModel& model) {
    model.write(folder_.file("model.gguf"));
    return GgufFile::open(folder_.file("model.gguf"));
  }
  PlanRequest request_ = {.backend = PlanBackend::cpu, .context_tokens = 200, .batch_tokens = 50};

 private:
  TemporaryFolder folder_;
};

std::vector<SplitWeights> splits() {
  return {SplitWeights(1),
          SplitWeights(2),
          SplitWeights(3),
          SplitWeights(5),
          SplitWeights(std::vector<double>{3, 1}),
          SplitWeights(std::vector<double>{0, 1, 5})};
}

TEST_F(Plan, IsWhatTheBackendHas) {
  std::vector<TinyModel> models;
  for (const char* architecture : {"llama", "qwen2", "gemma3"}) {
    for (const TensorType type : {TensorType::f32, TensorType::bf16, TensorType::q4_0, TensorType::q8_0}) {
      TinyModel model;
      model.architecture = architecture;
      model.type = type;
      model.tied_head = type != TensorType::q4_0;
      if (model.architecture == "gemma3") model.window = 16;
      models.push_back(model);
    }
  }
  for (const TensorType type : {TensorType::q2_k, TensorType::q3_k, TensorType::q4_k, TensorType::q5_k,
                                TensorType::q6_k, TensorType::iq4_xs})
    models.push_back(TinyModel::for_type(type));
  for (const TinyModel& model : models) {
    const GgufFile file = write(model);
    for (const SplitWeights& split : splits()) {
      for (const CacheType cache : {CacheType::f16, CacheType::f32, CacheType::q8_0, CacheType::q4_0}) {
        request_.cache_type = cache;
        const MemoryPlan plan(file, ModelConfig::from_gguf(file), split);
        EXPECT_EQ(n_wrong(plan, request_, measure(file, split, request_)), 0)
            << model.architecture << " " << type_info(model.type).name << ", " << split.n_ranks() << " ranks";
      }
    }
  }
}

TEST_F(Plan, BoundsExperts) {
  TinyModel model;
  model.n_experts = 4;
  const GgufFile file = write(model);
  for (const SplitWeights& split : splits()) {
    const MemoryPlan plan(file, ModelConfig::from_gguf(file), split);
    const std::vector<Measured> measured = measure(file, split, request_);
    for (int r = 0; r < split.n_ranks(); ++r) {
      const RankMemory planned = plan.rank(r, request_);
      const Measured& real = measured[static_cast<size_t>(r)];
      EXPECT_EQ(planned.weight_bytes, real.weights);
      EXPECT_EQ(planned.cache_bytes, real.cache);
      EXPECT_GE(planned.workspace_bytes, real.workspace);
    }
  }
}

TEST_F(Plan, TheComparisonRejectsAWrongPlan) {
  const GgufFile file = write({});
  const MemoryPlan plan(file, ModelConfig::from_gguf(file), SplitWeights(2));
  const std::vector<Measured> measured = measure(file, SplitWeights(2), request_);
  EXPECT_EQ(n_wrong(plan, request_, measured), 0);
  PlanRequest other = request_;
  other.context_tokens += kPageTokens;
  EXPECT_EQ(n_wrong(plan, other, measured), 2);
  other = request_;
  other.batch_tokens += 1;
  EXPECT_EQ(n_wrong(plan, other, measured), 2);
  const MemoryPlan uneven(file, ModelConfig::from_gguf(file), SplitWeights(std::vector<double>{2, 1}));
  EXPECT_GE(n_wrong(uneven, request_, measured), 4);
}

TEST_F(Plan, LargestIsTheLastThatFits) {
  const GgufFile file = write({});
  for (const PlanBackend backend : {PlanBackend::cpu, PlanBackend::cuda}) {
    for (const SplitWeights& split : splits()) {
      const MemoryPlan plan(file, ModelConfig::from_gguf(file), split);
      request_.backend = backend;
      request_.n_sequences = 2;
      const int64_t usable = plan.largest_total(request_) + 1'000'000;
      PlanRequest at = request_;
      at.context_tokens = plan.largest_context(request_, usable);
      EXPECT_GT(at.context_tokens, 200);
      EXPECT_LE(plan.largest_total(at), usable);
      at.context_tokens += kPageTokens;
      EXPECT_GT(plan.largest_total(at), usable);
      at = request_;
      at.n_sequences = plan.largest_sequences(request_, usable);
      EXPECT_GT(at.n_sequences, 2);
      EXPECT_LE(plan.largest_total(at), usable);
      ++at.n_sequences;
      EXPECT_GT(plan.largest_total(at), usable);
      EXPECT_EQ(plan.largest_context(request_, 1000), 0);
      EXPECT_EQ(plan.largest_sequences(request_, 1000), 0);
    }
  }
}

TEST_F(Plan, ExchangeIsWhatItTakes) {
  size_t taken = 0;
  std::vector<std::byte> words(NodeChannel::memory_bytes(1) + 4096);
  const std::span<std::byte> aligned(
      reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(words.data()) + 4095) / 4096 * 4096),
      NodeChannel::memory_bytes(1));
  NodeChannel::construct(aligned, 1);
  NodeChannel channel(aligned, 0, 1);
  struct Heap final : NodeBuffer {
    explicit Heap(size_t n) : memory(n) {}
    std::span<std::byte> bytes() override { return memory; }
    std::vector<std::byte> memory;
  };
  for (const size_t n_bytes : {size_t{1}, size_t{300'000}, size_t{2} << 20}) {
    SlotExchange exchange(
        channel, 0, {0},
        [&](size_t n) {
          taken = n;
          return std::make_unique<Heap>(n);
        },
        nullptr);
    exchange.contribution(n_bytes);
    EXPECT_EQ(taken, SlotExchange::memory_bytes(n_bytes, 1));
  }
}

/// GPUs' windows: packets of 64 tokens and candidates from every rank, twice, and of two ranks the rows of a
/// step.
TEST_F(Plan, CountsTheWindowsOfGpus) {
  TinyModel model;
  model.n_embd = 1024;
  const GgufFile file = write(model);
  const auto windows = [&](int n_ranks, int64_t batch_tokens) {
    const MemoryPlan plan(file, ModelConfig::from_gguf(file), SplitWeights(n_ranks));
    return plan.rank(0, {.context_tokens = 200, .n_sequences = 3, .batch_tokens = batch_tokens})
        .exchange_bytes;
  };
  const auto small = [](int64_t n_ranks) { return 2 * n_ranks * (64 * 1024 * 8 + (128 << 10)); };
  EXPECT_EQ(windows(1, 500), 0);
  EXPECT_EQ(windows(3, 500), small(3));
  EXPECT_EQ(windows(2, 500), small(2) + 256 + 2 * 503 * 1024 * 4);
  EXPECT_EQ(windows(2, 61), small(2));  // no step has more than packets are for
}

TEST(Preset, HasTheSizesOfRealFiles) {
  struct Known {
    const char* preset;
    const char* mix;
    double low_gb, high_gb;
  };
  // sums of published files' tensors
  for (const Known& known :
       {Known{"llama-3.1-70b", "Q2_K", 26.3, 26.3}, Known{"llama-3.1-70b", "Q4_K_M", 42.5, 42.5},
        Known{"llama-3.1-70b", "Q5_K_M", 49.9, 49.9}, Known{"llama-3.1-70b", "Q6_K", 57.9, 57.9},
        Known{"llama-3.1-70b", "Q8_0", 75.0, 75.0}, Known{"llama-3.1-8b", "Q4_K_M", 4.91, 4.91},
        Known{"mixtral-8x7b", "Q6_K", 38.3, 38.3}, Known{"mixtral-8x22b", "Q3_K_M", 64.8, 67.8},
        Known{"qwen2.5-72b", "Q5_K_M", 54.4, 54.4}, Known{"deepseek-v2", "Q2_K", 86, 86},
        Known{"deepseek-v2", "Q5_K_M", 167, 167}, Known{"deepseek-v2-lite", "Q5_K_M", 11.9, 11.9}}) {
    const GgufFile file = preset_file(*find_preset(known.preset), *find_quant_mix(known.mix));
    const double gb = static_cast<double>(file.total_bytes()) / 1e9;
    EXPECT_GT(gb, 0.99 * known.low_gb) << known.preset << " " << known.mix;
    EXPECT_LT(gb, 1.01 * known.high_gb) << known.preset << " " << known.mix;
  }
}

TEST(Preset, CanBePlanned) {
  for (const ModelPreset& preset : model_presets()) {
    for (const QuantMix& mix : quant_mixes()) {
      const GgufFile file = preset_file(preset, mix);
      if (!can_run(preset)) continue;
      const ModelConfig config = ModelConfig::from_gguf(file);
      for (const int n_ranks : {1, 2, 3}) {
        const MemoryPlan plan(file, config, SplitWeights(n_ranks));
        int64_t sum = 0;
        for (int r = 0; r < n_ranks; ++r) sum += plan.rank(r, {}).weight_bytes;
        // tiles hold what the file holds, and a little: Q3_K takes 112 bytes for 110, and a cut within 256
        // columns is kept by both neighbours
        EXPECT_GT(static_cast<double>(sum), 0.999 * static_cast<double>(file.total_bytes()));
        EXPECT_LT(static_cast<double>(sum), 1.05 * static_cast<double>(file.total_bytes()))
            << preset.name << " " << mix.name << " " << n_ranks;
      }
    }
  }
}

}  // namespace
}  // namespace tandem::test
