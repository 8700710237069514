// The one engine: rank 0 plans steps for the sequences it was given, every rank executes the same plans.
// `run`, `chat`, `bench`, `perplexity` and `logits` are front ends of it; there is no other generation loop.
//
// Rank 0 calls submit()/evaluate() and step(); every other rank calls follow() once and returns from it at
// shutdown.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "runtime/engine/sampler.h"
#include "runtime/engine/step_plan.h"
#include "runtime/model/model.h"

namespace tandem {

/// Why a sequence ended.
enum class FinishReason : uint8_t { end_of_generation, length, stopped, context_full };

/// A prompt to continue.
struct GenerationRequest {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int64_t max_new_tokens = -1;  ///< −1: until the context is full
  /// Tokens that end the sequence (they are not handed out); empty: none does.
  std::function<bool(int32_t)> is_end;
  /// Called for every new token; false stops the sequence.
  std::function<bool(int32_t)> on_token;
  /// Called before on_token with the token's logprobs, where sampling.n_logprobs asks for them.
  std::function<void(const ChoiceLogprobs&)> on_logprobs;
  std::function<void(FinishReason)> on_finish;
  /// Called when the sequence begins, with how many of the prompt's tokens a kept cache spares.
  std::function<void(int64_t n_cached)> on_start;
  /// A number other than 0 keeps the sequence's cache when it ends, and continues one that was kept under
  /// this number: what the new prompt shares with it is not computed again.
  int64_t session = 0;
};

/// A text whose logits are wanted.
struct EvaluationRequest {
  std::vector<int32_t> tokens;
  int64_t first_position = 0;  ///< the first one whose logits are wanted
  /// Called for every wanted token in order with the logits (n_vocab) behind it.
  std::function<void(int64_t position, std::span<const float> logits)> on_logits;
};

struct EngineOptions {
  int64_t context_tokens = 4096;  ///< of one sequence
  int64_t batch_tokens = 512;     ///< most prompt tokens in a step
};

class Engine {
 public:
  Engine(Model& model, const EngineOptions& options);
  ~Engine();

  // --- rank 0
  /// Queues a sequence. Throws Error(usage) where its prompt is empty or exceeds the context.
  void submit(GenerationRequest request);
  void submit(EvaluationRequest request);
  bool busy() const { return !waiting_.empty() || !active_.empty(); }
  /// Plans and runs one step. Returns false where there was nothing to do.
  bool step();
  /// Ends sequences without their ends being reached (the answer was interrupted).
  void cancel_all();
  /// Tells the other ranks to return from follow() with this code. The engine is unusable afterwards.
  void shutdown(int exit_code);

  // --- the other ranks
  /// Executes rank 0's plans until shutdown; returns its exit code.
  int follow();

  const EngineOptions& options() const { return options_; }
  uint64_t n_steps() const { return next_step_; }

 private:
  struct Sequence;
  struct Kept {
    std::vector<int32_t> tokens;
    std::vector<int32_t> pages;
  };
  /// What every rank knows of a slot.
  struct Slot {
    SamplingParams sampling;
    std::vector<int32_t> history;  // all tokens so far
  };

  // rank 0: the scheduler
  void queue(std::unique_ptr<Sequence> sequence);
  void admit(StepPlan& plan);
  bool reserve_pages(Sequence& sequence);
  StepPlan make_plan();
  void take_results(const StepPlan& plan, std::span<const int32_t> sampled);
  void finish(Sequence& sequence, FinishReason reason);
  // every rank: the executor
  std::vector<int32_t> execute(const StepPlan& plan);
  void gather_logits(const StepPlan& plan);
  std::vector<int32_t> sample(const StepPlan& plan);

  Model& model_;
  Communicator& communicator_;
  EngineOptions options_;
  Sampler sampler_;
  int64_t largest_shard_ = 0;
  std::vector<Slot> slots_;
  uint64_t next_step_ = 0;
  std::vector<ChoiceLogprobs> latest_logprobs_;  // of the latest step's tokens; empty where none asks

  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> active_;
  std::vector<int32_t> free_pages_;
  std::vector<int32_t> free_slots_;
  std::map<int64_t, Kept> kept_;
};

}  // namespace tandem
