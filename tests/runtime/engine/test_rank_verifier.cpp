// The comparison of the ranks' tokens: quiet while they agree, and a rank that differs in one token of one
// step is named on every rank, also through the engine's own loop.
#include "runtime/engine/rank_verifier.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ops/core/error.h"
#include "ops/cpu/backend.h"
#include "runtime/engine/engine.h"
#include "tests/support/tiny_model.h"

namespace tandem::test {
namespace {

/// What each rank threw, or "".
std::vector<std::string> on_ranks(int n_ranks, const std::function<void(Communicator&)>& work) {
  auto communicators = make_thread_communicators(n_ranks);
  std::vector<std::string> faults(static_cast<size_t>(n_ranks));
  std::vector<std::thread> threads;
  for (size_t r = 0; r < faults.size(); ++r) {
    threads.emplace_back([&, r] {
      try {
        work(*communicators[r]);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::internal);
        faults[r] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return faults;
}

int32_t token_of(uint64_t step, size_t sequence) {
  return static_cast<int32_t>((step * 7919 + sequence * 104729) % 50000);
}

/// 100 steps of three sequences; `faulty` differs in one token of `fault`.
std::vector<std::string> steps(int n_ranks, int64_t every, int faulty, uint64_t fault) {
  return on_ranks(n_ranks, [&](Communicator& communicator) {
    RankVerifier verifier(communicator, every);
    for (uint64_t step = 0; step < 100; ++step) {
      std::vector<int32_t> tokens;
      for (size_t s = 0; s < step % 4; ++s) tokens.push_back(token_of(step, s));  // some steps choose none
      if (communicator.rank() == faulty && step == fault) ++tokens.back();
      verifier.note(step, tokens);
    }
    verifier.finish();
    EXPECT_EQ(verifier.n_steps(), every == 0 ? 0 : 75);
    EXPECT_EQ(verifier.n_tokens(), every == 0 ? 0 : 150);
  });
}

TEST(RankVerifier, is_quiet_while_ranks_agree) {
  for (const int n_ranks : {1, 2, 3}) {
    for (const int64_t every : {0, 1, 7, 1000}) {
      for (const std::string& fault : steps(n_ranks, every, -1, 0)) EXPECT_EQ(fault, "");
    }
  }
}

TEST(RankVerifier, names_the_rank_and_the_step) {
  for (const int faulty : {1, 2}) {
    for (const std::string& fault : steps(3, 1, faulty, 42)) {
      const std::string rank = std::to_string(faulty);
      EXPECT_EQ(fault.rfind("rank " + rank + " chose other tokens than rank 0 in step 42: ", 0), 0U) << fault;
    }
  }
}

TEST(RankVerifier, sees_a_fault_of_earlier_steps_and_of_the_last_ones) {
  for (const std::string& fault : steps(2, 10, 1, 3)) {
    EXPECT_NE(fault.find("in step 13 or in the 9 steps before it"), std::string::npos) << fault;
  }
  for (const std::string& fault : steps(2, 1000, 1, 99)) EXPECT_NE(fault, "");
}

/// Hands everything on, but turns the best candidate that rank 0 offers in exchange `fault` into another
/// token on its way to this rank.
class FaultyCommunicator final : public Communicator {
 public:
  FaultyCommunicator(Communicator& inner, int fault) : inner_(inner), fault_(fault) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  int node_rank() const override { return inner_.node_rank(); }
  int node_size() const override { return inner_.node_size(); }
  int n_nodes() const override { return inner_.n_nodes(); }
  void broadcast(std::span<std::byte> bytes, int root) override { inner_.broadcast(bytes, root); }
  void barrier() override { inner_.barrier(); }
  bool all_agree(bool mine) override { return inner_.all_agree(mine); }
  std::unique_ptr<NodeBuffer> node_buffer(size_t n_bytes) override { return inner_.node_buffer(n_bytes); }
  void node_barrier() override { inner_.node_barrier(); }
  void set_threads_per_rank(int n_threads) override { inner_.set_threads_per_rank(n_threads); }
  std::byte* contribution(size_t n_bytes) override {
    n_bytes_ = n_bytes;
    return inner_.contribution(n_bytes);
  }
  std::span<const std::byte* const> publish() override;

 private:
  Communicator& inner_;
  int fault_;
  int n_choices_ = 0;
  size_t n_bytes_ = 0;
  std::vector<std::vector<std::byte>> copies_;
  std::vector<const std::byte*> slots_;
};

std::span<const std::byte* const> FaultyCommunicator::publish() {
  const auto slots = inner_.publish();
  // A greedy row's exchange: a count and one candidate {score, id} (runtime/engine/sampler.cpp).
  constexpr size_t kGreedyBytes = sizeof(int64_t) + sizeof(Candidate);
  if (n_bytes_ != kGreedyBytes || ++n_choices_ != fault_) return slots;
  copies_.clear();
  slots_.clear();
  for (const std::byte* slot : slots) {
    auto& copy = copies_.emplace_back(slot, slot + n_bytes_);
    reinterpret_cast<Candidate*>(copy.data() + sizeof(int64_t))->id ^= 1;
    slots_.push_back(copy.data());
  }
  return slots_;
}

/// Generates 20 tokens on two ranks, of which one sees another token than the other at its `fault`th choice.
std::vector<std::string> generate(const std::string& path, int64_t verify_every, int fault) {
  return on_ranks(2, [&](Communicator& inner) {
    FaultyCommunicator communicator(inner, inner.rank() == 1 ? fault : -1);
    const GgufFile file = GgufFile::open(path);
    const ModelConfig config = ModelConfig::from_gguf(file);
    CpuBackendOptions cpu;
    cpu.n_threads = 1;
    cpu.spin_us = 0;
    ModelCapacity capacity;
    capacity.n_pages = 4;
    Model model(file, config, SplitWeights(2), capacity, make_cpu_backend(cpu, communicator), communicator);
    EngineOptions options;
    options.context_tokens = 128;
    options.verify_every = verify_every;
    Engine engine(model, options);
    if (communicator.rank() != 0) {
      engine.follow();
      return;
    }
    GenerationRequest request;
    request.prompt = {1, 2, 3};
    request.sampling.temperature = 0;
    request.max_new_tokens = 20;
    engine.submit(std::move(request));
    while (engine.step()) {
    }
    engine.shutdown(0);
    EXPECT_EQ(engine.verifier().n_steps(), verify_every == 0 ? 0 : 20);
  });
}

TEST(RankVerifier, watches_the_engine) {
  TemporaryFolder folder;
  const std::string path = folder.file("model.gguf");
  TinyModel().write(path);
  for (const std::string& fault : generate(path, 1, -1)) EXPECT_EQ(fault, "");
  for (const std::string& fault : generate(path, 0, 5)) EXPECT_EQ(fault, "");  // what nobody sees without it
  for (const int64_t every : {1, 6}) {
    for (const std::string& fault : generate(path, every, 5))
      EXPECT_EQ(fault.rfind("rank 1 chose other tokens than rank 0 in step ", 0), 0U) << fault;
  }
}

}  // namespace
}  // namespace tandem::test
