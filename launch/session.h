// A model opened for work on all ranks: file, configuration, tokenizer (rank 0), backend, model, engine. What
// every command that computes begins with.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "comm/timed_exchange.h"
#include "launch/gpu_backend.h"
#include "launch/options.h"
#include "launch/placement.h"
#include "runtime/engine/engine.h"
#include "runtime/model/model.h"
#include "runtime/text/tokenizer.h"

namespace tandem {

struct SessionOptions {
  std::string model_path;
  std::vector<double> split;     ///< shares of the ranks, or empty for equal ones
  std::string backend = "auto";  ///< auto: GPUs where every rank has one
  GpuRequest gpu;
  std::string tune = "auto";   ///< whether GPUs' products are measured: auto, off, again
  int n_threads = 0;           ///< a rank; 0: as many as its cores
  int64_t context_tokens = 0;  ///< of one sequence; 0: the model's own, at most kDefaultContext
  int64_t n_sequences = 1;     ///< at once
  int64_t cache_tokens = 0;    ///< of all sequences together, at least a context; 0: a context for each
  int64_t batch_tokens = 0;    ///< prompt tokens in one step; 0: batch_tokens_of() the backend
  int64_t verify_every = 0;    ///< steps between comparisons of the ranks' tokens; 0: none
  CacheType cache_type = CacheType::f16;
  PrefixSharing share_prefixes = PrefixSharing::where_exact;
  bool wants_tokenizer = true;
  bool breakdown = false;  ///< exchange_seconds() counts (CPUs), or can be left out (GPUs)
  std::function<void(uint64_t done, uint64_t total)> on_progress;  ///< called on every rank
};

inline constexpr int64_t kDefaultContext = 4096;

/// Throws Error{usage} where there are more ranks than units to deal: some would be left without any work.
void check_rank_count(const ModelConfig& config, int n_ranks);

/// --batch-size in force: what was asked for, or where that is 0 what suits the device. On GPUs a long
/// prompt's weights are unpacked once a step, which pays the more tokens share it.
constexpr int64_t batch_tokens_of(int64_t asked, bool on_gpus) {
  if (asked > 0) return asked;
  return on_gpus ? 2048 : 512;
}

/// The context of a sequence where no flag says: the model's own, at most kDefaultContext.
int64_t default_context(const ModelConfig& config);

/// What the common flags ask for. Throws Error{usage} for combinations that tandem can't do.
SessionOptions session_options(const ModelOptions& model);

/// Steps until the engine is idle or a signal came; returns 0 or 128 + signal. Rank 0 only.
int run_until_idle(Engine& engine);

class Session {
 public:
  /// Collective. Throws what opening, tokenizer and loading throw.
  Session(const SessionOptions& options, Communicator& communicator);
  ~Session();

  const GgufFile& file() const { return file_; }
  const ModelConfig& config() const { return config_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }  ///< rank 0, where wants_tokenizer
  const CpuPlacement& placement() const { return placement_; }
  /// Who computes on which GPU, how sums travel and whose kernels were measured, for -v; rank 0 has them all.
  const std::vector<std::string>& placement_lines() const { return placement_lines_; }
  Model& model() { return *model_; }
  /// Prompt tokens in one step, at most: the number in force.
  int64_t batch_tokens() const { return engine_options_.batch_tokens; }
  std::string_view backend_kind() const { return model_->backend().kind(); }
  Engine& engine() { return *engine_; }
  /// A new engine on the same model and an empty cache, for after a shutdown. Not collective by itself.
  void renew_engine();

  /// The rank's GPU, where it computes on one.
  const std::optional<GpuInfo>& gpu() const { return gpu_; }
  /// How partial sums travel from the next step on: the number of one of SessionOptions' gpu.comms; `silent`
  /// (ranks on GPUs, with breakdown): not at all, and all else as then. On every rank, between the same
  /// steps.
  void select_comm(size_t way, bool silent = false);
  /// Each of those ways by its name ("auto" became one of them); empty on CPUs.
  const std::vector<std::string>& comm_names() const { return comm_names_; }
  /// What this rank has spent in exchanges of partial sums since the session began; CPUs with breakdown.
  double exchange_seconds() const { return timed_exchange_ ? timed_exchange_->seconds() : 0.0; }
  /// Seconds from the session's begin to a loaded model.
  double load_seconds() const { return load_seconds_; }

 private:
  GgufFile file_;
  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Backend> make_backend(const SessionOptions& options, Communicator& communicator);
  void choose_roads(const SessionOptions& options, Communicator& communicator);

  CpuPlacement placement_;
  std::vector<std::string> placement_lines_;
  std::optional<GpuInfo> gpu_;
  std::unique_ptr<TimedExchange> timed_exchange_;
  std::function<void(size_t way, bool silent)> select_way_;  // GPUs; the model's backend is behind it
  std::vector<std::string> comm_names_;                      // of the ways
  EngineOptions engine_options_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Engine> engine_;
  double load_seconds_ = 0.0;
};

}  // namespace tandem
