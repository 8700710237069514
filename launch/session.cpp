#include "launch/session.h"

#include <fmt/format.h>
#include <launch/build_info.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "comm/process.h"
#include "launch/doctor/nvml.h"
#include "launch/gpu_placement.h"
#include "launch/model_identity.h"
#include "launch/road_tuning.h"
#include "ops/core/check.h"
#include "ops/core/error.h"
#include "ops/core/page.h"
#include "ops/cpu/backend.h"

namespace tandem {
namespace {

constexpr int64_t kMostGpuTokens = 65535;  ///< of a step: tokens are a grid's third dimension

/// Whether the ranks compute on GPUs: all of them or none.
bool use_gpus(const std::string& backend, Communicator& communicator) {
  if (backend == "cpu") return false;
  std::string fault;
  (void)visible_gpus(fault);
  const std::vector<std::string> faults = communicator.gather_text(fault);
  for (size_t r = 0; r < faults.size(); ++r) {
    if (faults[r].empty()) continue;
    if (backend == "auto") return false;
    throw Error(ExitCode::unavailable, fmt::format("--backend cuda: rank {}: {}", r, faults[r]),
                "use --backend cpu, or build with the preset cuda where there are GPUs");
  }
  return true;
}

/// Throws the same Error{bad_data} on every rank where nodes have different files by the model's name.
void require_same_file(const GgufFile& file, Communicator& communicator) {
  if (communicator.size() == 1) return;
  const std::vector<std::string> all = communicator.gather_text(directory_identity(file).hex());
  for (size_t r = 1; r < all.size(); ++r) {
    if (all[r] != all[0])
      throw Error(ExitCode::bad_data, fmt::format("{}: rank {} has another file than rank 0", file.path(), r),
                  "copy the same file to every node");
  }
}

}  // namespace

void check_rank_count(const ModelConfig& config, int n_ranks) {
  const int64_t most = std::max(config.n_heads, ceil_div(config.n_ff, ffn_unit(config.n_ff)));
  if (n_ranks > most) {
    throw Error(ExitCode::usage,
                fmt::format("{} ranks are more than this model can be split into ({} heads, {} FFN units)",
                            n_ranks, config.n_heads, ceil_div(config.n_ff, ffn_unit(config.n_ff))),
                fmt::format("start at most {} ranks", most));
  }
}

int64_t default_context(const ModelConfig& config) {
  return std::min(config.n_ctx_train, kDefaultContext);
}

SessionOptions session_options(const ModelOptions& model) {
  if (model.cache_type_k != model.cache_type_v) {
    throw Error(ExitCode::usage, "the cache's keys and values must have the same type",
                "give --cache-type-k and --cache-type-v the same value");
  }
  SessionOptions options;
  options.model_path = model.model;
  options.split = model.split;
  options.backend = model.backend;
  options.gpu.comms = comm_list(model.comm);
  options.gpu.allow_share = model.allow_share;
  options.gpu.mem_fraction = model.mem_fraction;
  options.gpu.graphs = model.graphs == "on";
  options.gpu.deterministic = model.deterministic;
  options.tune = model.tune;
  options.n_threads = model.n_threads;
  options.verify_every = model.verify_ranks;
  options.context_tokens = model.n_ctx;
  options.batch_tokens = model.n_batch;
  const auto* name = std::find(kCacheTypeNames.begin(), kCacheTypeNames.end(), model.cache_type_k);
  options.cache_type = static_cast<CacheType>(name - kCacheTypeNames.begin());
  return options;
}

int run_until_idle(Engine& engine) {
  while (engine.busy()) {
    if (const int signal = pending_signal(); signal != 0) return 128 + signal;
    engine.step();
  }
  return 0;
}

std::unique_ptr<Backend> Session::make_backend(const SessionOptions& options, Communicator& communicator) {
  if (use_gpus(options.backend, communicator)) {
    const int64_t n_tokens = batch_tokens_of(options.batch_tokens, true) + options.n_sequences;
    if (n_tokens > kMostGpuTokens) {
      throw Error(ExitCode::usage,
                  fmt::format("--batch-size {} and {} sequences make steps of {} tokens, a GPU takes {}",
                              options.batch_tokens, options.n_sequences, n_tokens, kMostGpuTokens),
                  "give a smaller -b");
    }
    GpuRequest request = options.gpu;
    request.n_embd = config_.n_embd;
    request.can_be_silent = options.breakdown;
    request.n_vocab = config_.n_vocab;
    request.max_tokens = n_tokens;
    GpuBackend gpu = make_gpu_backend(request, communicator);
    placement_.reason = gpu.binding;
    placement_lines_ = gpu.lines;
    gpu_ = gpu.gpu;
    select_way_ = gpu.select_comm;
    comm_names_ = gpu.way_names;
    return std::move(gpu.backend);
  }
  placement_ = place_on_cpus(options.n_threads, communicator);
  communicator.set_threads_per_rank(placement_.n_threads);
  CpuBackendOptions cpu;
  cpu.n_threads = placement_.n_threads;
  cpu.cpus = placement_.cpus;
  cpu.spin_us = placement_.spin_us;
  if (!options.breakdown) return make_cpu_backend(cpu, communicator);
  timed_exchange_ = std::make_unique<TimedExchange>(communicator);
  return make_cpu_backend(cpu, *timed_exchange_);
}

/// By which kernels the GPUs multiply.
void Session::choose_roads(const SessionOptions& options, Communicator& communicator) {
  cuda::RoadTuner* const tuner = model_->backend().road_tuner();
  if (tuner == nullptr || !gpu_) return;
  if (options.gpu.deterministic || options.tune == "off") {
    const char* const why = options.gpu.deterministic ? "--deterministic" : "--tune off";
    placement_lines_.push_back(fmt::format("roads of products: built in ({})", why));
    return;
  }
  const RoadRequest request{.again = options.tune == "again",
                            .folder = cache_folder(),
                            .origin = {.device = gpu_->name,
                                       .driver = Nvml(gpu_->pci_bus_id).driver().value_or(""),
                                       .version = fmt::format("{} ({})", kVersion, kCommit),
                                       .n_ranks = communicator.size()}};
  placement_lines_.push_back(tune_roads(*tuner, model_->products(), request, communicator));
}

void Session::renew_engine() {
  engine_.reset();
  engine_ = std::make_unique<Engine>(*model_, engine_options_);
}

void Session::select_comm(size_t way, bool silent) {
  require(!silent || select_way_, "an exchange is silenced that is none of GPUs");
  if (select_way_) select_way_(way, silent);
}

Session::Session(const SessionOptions& options, Communicator& communicator)
    : file_(GgufFile::open(options.model_path)), config_(ModelConfig::from_gguf(file_)) {
  const auto start = std::chrono::steady_clock::now();
  require_same_file(file_, communicator);
  check_split(options.split, communicator.size());
  check_rank_count(config_, communicator.size());
  const SplitWeights split =
      options.split.empty() ? SplitWeights(communicator.size()) : SplitWeights(options.split);
  if (options.wants_tokenizer && communicator.rank() == 0) {
    tokenizer_ = Tokenizer::from_gguf(file_);
    for (const std::string& warning : tokenizer_->warnings()) spdlog::warn("{}", warning);
  }

  engine_options_.context_tokens =
      options.context_tokens > 0 ? options.context_tokens : default_context(config_);
  engine_options_.verify_every = options.verify_every;
  engine_options_.max_sequences = options.n_sequences;
  engine_options_.share_prefixes = options.share_prefixes;

  std::unique_ptr<Backend> backend = make_backend(options, communicator);
  engine_options_.batch_tokens = batch_tokens_of(options.batch_tokens, gpu_.has_value());
  ModelCapacity capacity;
  capacity.max_tokens = engine_options_.batch_tokens + options.n_sequences;
  const int64_t context_pages = ceil_div(engine_options_.context_tokens, kPageTokens);
  capacity.n_pages = options.cache_tokens > 0
                         ? std::max(context_pages, ceil_div(options.cache_tokens, kPageTokens))
                         : options.n_sequences * context_pages;
  capacity.cache_type = options.cache_type;
  model_ = std::make_unique<Model>(file_, config_, split, capacity, std::move(backend), communicator,
                                   options.on_progress);
  choose_roads(options, communicator);
  engine_ = std::make_unique<Engine>(*model_, engine_options_);
  load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Session::~Session() {
  if (!engine_ || model_->communicator().rank() != 0) return;
  const RankVerifier& verifier = engine_->verifier();
  if (verifier.n_steps() == 0) return;
  spdlog::info("all {} ranks chose the same {} tokens in {} steps", model_->communicator().size(),
               verifier.n_tokens(), verifier.n_steps());
}

}  // namespace tandem
