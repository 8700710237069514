// The one engine: rank 0 plans steps for the sequences it was given (runtime/engine/scheduler.h), every rank
// executes the same plans (runtime/engine/executor.h). `run`, `chat`, `batch`, `bench`, `perplexity` and
// `logits` are front ends of it; there is no other generation loop.
//
// Rank 0 calls submit() and step(); every other rank calls follow() once and returns from it at shutdown.
#pragma once

#include <cstdint>
#include <limits>

#include "runtime/engine/executor.h"
#include "runtime/engine/rank_verifier.h"
#include "runtime/engine/request.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/step_plan.h"
#include "runtime/model/model.h"

namespace tandem {

/// Whether sequences with a common beginning share its pages, and find those of sequences that have ended.
enum class PrefixSharing : uint8_t {
  off,
  where_exact,  ///< those pages on which no bit of a sequence depends: by the backend's Exactness all, those
                ///< of prompts alone, or none
  on,
};

struct EngineOptions {
  int64_t context_tokens = 4096;                              ///< of one sequence
  int64_t batch_tokens = 512;                                 ///< most prompt tokens in a step
  int64_t max_sequences = 256;                                ///< at once; the same on every rank
  int64_t max_waiting = std::numeric_limits<int64_t>::max();  ///< that have not begun
  PrefixSharing share_prefixes = PrefixSharing::where_exact;
  int lookahead = -1;  ///< steps planned before the last one's results are known; −1: as the backend can
  int64_t verify_every = 0;  ///< steps between comparisons of the ranks' tokens; 0: none (--verify-ranks)
};

class Engine {
 public:
  Engine(Model& model, const EngineOptions& options);

  // --- rank 0
  /// Queues a sequence; callbacks may do so too. Throws Error as Scheduler::submit().
  RequestId submit(GenerationRequest request);
  RequestId submit(EvaluationRequest request);
  bool busy() const { return scheduler_.busy(); }
  /// Plans and launches one step, and collects what is due. Returns false where there was nothing to do.
  bool step();
  /// Ends a sequence without its end being reached; false where it has ended already.
  bool cancel(RequestId id) { return scheduler_.cancel(id); }
  void cancel_all() { scheduler_.cancel_all(); }
  /// Tells the other ranks to return from follow() with this code. The engine is unusable afterwards.
  void shutdown(int exit_code);

  // --- the other ranks
  /// Executes rank 0's plans until shutdown; returns its exit code.
  int follow();

  const EngineOptions& options() const { return options_; }
  SchedulerStats stats() const { return scheduler_.stats(); }
  /// Steps that the host had to sample beside a device that samples (Executor::n_sampled_by_host()).
  uint64_t n_sampled_by_host() const { return executor_.n_sampled_by_host(); }
  uint64_t n_steps() const { return executor_.n_launched(); }
  const RankVerifier& verifier() const { return verifier_; }

 private:
  StepResults collect();

  Communicator& communicator_;
  EngineOptions options_;
  Executor executor_;
  RankVerifier verifier_;
  Scheduler scheduler_;  // rank 0's; the others' stays idle
};

}  // namespace tandem
