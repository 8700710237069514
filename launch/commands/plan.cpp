// tandem plan: what each rank's memory will hold, and whether it fits, before anything is started or
// downloaded. Needs no ranks, no GPU and, with --preset, no file.
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "launch/command.h"
#include "launch/job.h"
#include "launch/option_parser.h"
#include "launch/options.h"
#include "launch/output.h"
#include "launch/plan/guide.h"
#include "launch/plan/report.h"
#include "launch/session.h"
#include "ops/core/error.h"
#include "runtime/model/preset.h"

namespace tandem {
namespace {

constexpr double kLeastBytes = 0x1p20;  // less is a number without its unit
constexpr double kMostBytes = 0x1p50;
constexpr int kMostRanks = 4096;

struct PlanOptions {
  std::string path;
  std::string preset;
  std::string mix = "Q4_K_M";
  std::string backend = "cuda";
  int n_ranks = 1;
  int n_ctx = 0;
  int n_batch = 0;
  int n_sequences = 1;
  int n_multiprocessors = 132;
  double mem_fraction = 0.95;
  std::optional<int64_t> memory_bytes;
  bool as_json = false;
  bool guide = false;
};

/// "31141MiB", "32GB", "80g" or plain bytes: KB, MB … are powers of 1000, K, M, KiB, MiB … of 1024.
std::optional<int64_t> size_of(std::string_view text) {
  double value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc{} || !std::isfinite(value)) return std::nullopt;
  std::string unit(end, text.data() + text.size());
  for (char& c : unit) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  constexpr std::array kUnits = {'k', 'm', 'g', 't'};
  if (!unit.empty() && unit != "b") {
    const auto* const found = std::find(kUnits.begin(), kUnits.end(), unit[0]);
    const std::string rest = unit.substr(1);
    if (found == kUnits.end() || (!rest.empty() && rest != "b" && rest != "ib")) return std::nullopt;
    value *= std::pow(rest == "b" ? 1000.0 : 1024.0, static_cast<double>(found - kUnits.begin() + 1));
  }
  if (value < kLeastBytes || value > kMostBytes) return std::nullopt;
  return static_cast<int64_t>(value);
}

std::vector<std::string> names_of_presets() {
  std::vector<std::string> names;
  for (const ModelPreset& preset : model_presets()) {
    if (can_run(preset)) names.emplace_back(preset.name);
  }
  return names;
}

std::vector<std::string> names_of_mixes() {
  std::vector<std::string> names;
  for (const QuantMix& mix : quant_mixes()) names.emplace_back(mix.name);
  return names;
}

void add_plan_options(OptionParser& parser, PlanOptions& options, ModelOptions& model) {
  parser.add_positional("FILE", options.path, "the GGUF file");
  parser.add_text("model,m", model.model, "FILE", "the same as a flag");
  parser.add_choice("preset", options.preset, names_of_presets(), "a well-known model instead of a file");
  parser.add_choice("type", options.mix, names_of_mixes(),
                    "the preset's quant mix, as llama-quantize names it");
  parser.add_choice("backend", options.backend, {"cpu", "cuda"}, "what will compute");
  parser.add_integer("ranks,np", options.n_ranks, 1, kMostRanks, "number of ranks");
  add_split_option(parser, model);
  parser.add_custom("memory", "SIZE", "memory of one rank (a GPU's): 31141MiB, 80GB …", "not known", false,
                    [&](const std::string& text, const std::string& origin) {
                      options.memory_bytes = size_of(text);
                      if (!options.memory_bytes)
                        parser.fail_value(origin, text, "not a size such as 31141MiB or 80GB");
                    });
  parser.add_number("mem-fraction", options.mem_fraction, 0.01, 1, "share of that memory that may be used");
  parser.add_integer("ctx-size,c", options.n_ctx, 0, 1 << 27,
                     "positions of a sequence; 0: as many as the model was trained on, at most 4096");
  parser.add_integer("parallel", options.n_sequences, 1, 1 << 16, "sequences in the cache at once");
  parser.add_integer("batch-size,b", options.n_batch, 0, 1 << 20,
                     "prompt tokens in one step; 0: 512 on CPUs, 2048 on GPUs");
  add_cache_options(parser, model);
  parser.add_integer("multiprocessors", options.n_multiprocessors, 1, 1024,
                     "of a GPU (V100 80, A100 108, H100 and H200 132): attention's scratch grows with them");
  parser.add_flag("json", options.as_json, "as JSON, in bytes");
  parser.add_flag("guide", options.guide,
                  "the table of a guide for two V100-32GB, with the truth beside each row");
}

GgufFile file_of(const OptionParser& parser, const PlanOptions& options, const ModelOptions& model) {
  if (options.preset.empty()) return GgufFile::open(model.model);
  if (!model.model.empty()) parser.fail("a file and --preset: give one of them");
  return preset_file(*find_preset(options.preset), *find_quant_mix(options.mix));
}

PlanRequest request_of(const PlanOptions& options, const ModelOptions& model, const ModelConfig& config) {
  PlanRequest request;
  request.backend = options.backend == "cpu" ? PlanBackend::cpu : PlanBackend::cuda;
  request.context_tokens = options.n_ctx > 0 ? options.n_ctx : default_context(config);
  request.n_sequences = options.n_sequences;
  request.batch_tokens = batch_tokens_of(options.n_batch, options.backend == "cuda");
  request.cache_type = session_options(model).cache_type;
  request.n_multiprocessors = options.n_multiprocessors;
  return request;
}

}  // namespace

int plan_command(Job& job, const Arguments& arguments) {
  OptionParser parser("plan", "Say what each rank's memory will hold, and whether it fits",
                      "Of a file, or of a preset at a quant mix. Sizes are those that the program will "
                      "allocate; a GPU's driver, "
                      "context and NCCL take some hundred MiB of what --mem-fraction leaves.");
  PlanOptions options;
  ModelOptions model;
  add_plan_options(parser, options, model);
  parser.add_alternatives({"FILE", "model", "preset"});
  parser.add_alternatives({"FILE", "model", "type"});
  if (!parser.parse(arguments)) return 0;
  if (job.rank() != 0) return 0;
  if (options.guide) {
    const nlohmann::ordered_json guide = guide_json();
    print_result(options.as_json ? json_text(guide) : guide_text(guide));
    return 0;
  }
  if (model.model.empty()) model.model = options.path;
  if (model.model.empty() && options.preset.empty()) parser.fail("no model: give FILE or --preset");
  if (!model.split.empty() && !parser.given("ranks")) options.n_ranks = static_cast<int>(model.split.size());
  check_split(model.split, options.n_ranks);
  const GgufFile file = file_of(parser, options, model);
  const ModelConfig config = ModelConfig::from_gguf(file);
  check_rank_count(config, options.n_ranks);
  const SplitWeights split = model.split.empty() ? SplitWeights(options.n_ranks) : SplitWeights(model.split);
  const MemoryPlan plan(file, config, split);
  const nlohmann::ordered_json found = plan_json(
      {file, config, plan, request_of(options, model, config), options.memory_bytes, options.mem_fraction});
  print_result(options.as_json ? json_text(found) : plan_text(found));
  return 0;
}

}  // namespace tandem
