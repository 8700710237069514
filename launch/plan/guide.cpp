#include "launch/plan/guide.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "launch/session.h"
#include "ops/core/check.h"
#include "runtime/model/memory_plan.h"
#include "runtime/model/preset.h"

namespace tandem {
namespace {

using json = nlohmann::ordered_json;

constexpr int64_t kGpuBytes = int64_t{31141} << 20;  // usable of each V100
constexpr double kMemFraction = 0.95;
constexpr int kMultiprocessors = 80;
constexpr int64_t kContext = 4096;

/// A row of the guide: this model in this quantisation runs on so many GPUs, with so much memory.
struct Row {
  const char* part;
  int n_gpus;
  const char* preset;
  const char* mix;
  double claimed_gb;
  const char* remark;
};

constexpr std::array kRows = {
    Row{"one GPU", 1, "llama-3.1-8b", "Q8_0", 30, ""},
    Row{"one GPU", 1, "qwen2.5-32b", "Q8_0", 30, ""},
    Row{"one GPU", 1, "yi-34b", "Q6_K", 24, ""},
    Row{"one GPU", 1, "codellama-34b", "Q6_K", 24, ""},
    Row{"one GPU", 1, "falcon-40b", "Q5_K_M", 20, ""},
    Row{"one GPU", 1, "llama-2-70b", "Q4_K_M", 40, "tight"},
    Row{"two GPUs", 2, "llama-3.1-70b", "Q8_0", 70, "tight"},
    Row{"two GPUs", 2, "llama-3.1-70b", "Q6_K", 54, ""},
    Row{"two GPUs", 2, "qwen2.5-72b", "Q5_K_M", 45, ""},
    Row{"two GPUs", 2, "llama-3.1-70b", "Q4_K_M", 40, "best"},
    Row{"two GPUs", 2, "mixtral-8x22b", "Q3_K_M", 54, ""},
    Row{"recommended", 2, "llama-3.1-70b", "Q4_K_M", 40, ""},
    Row{"recommended", 2, "qwen2.5-72b", "Q4_K_M", 42, ""},
    Row{"recommended", 2, "mixtral-8x7b", "Q6_K", 35, ""},
    Row{"recommended", 2, "deepseek-v2", "Q5_K_M", 45, "DeepSeek-Coder-V2"},
    Row{"recommended", 2, "deepseek-v2-lite", "Q5_K_M", 45, "DeepSeek-Coder-V2-Lite"},
    Row{"to the limit", 2, "llama-3.1-70b", "Q6_K", 55, ""},
    Row{"to the limit", 2, "mixtral-8x22b", "Q3_K_M", 58, ""},
    Row{"to the limit", 2, "deepseek-v2", "Q2_K", 60, ""},
    Row{"speed table", 2, "llama-3.1-70b", "Q4_K_M", 40, ""},
    Row{"speed table", 2, "llama-3.1-70b", "Q5_K_M", 45, ""},
    Row{"speed table", 2, "llama-3.1-70b", "Q6_K", 55, ""},
    Row{"speed table", 2, "qwen2.5-72b", "Q4_K_M", 42, ""},
    Row{"speed table", 2, "mixtral-8x7b", "Q6_K", 35, ""},
    Row{"speed table", 2, "mixtral-8x22b", "Q3_K_M", 58, ""},
};

/// The largest model of a quantisation, in 10^9 weights.
struct Limit {
  int n_gpus;
  const char* mix;
  double claimed;
};

constexpr std::array kLimits = {
    Limit{1, "Q8_0", 30},    Limit{1, "Q6_K", 40},    Limit{1, "Q5_K_M", 50}, Limit{1, "Q4_K_M", 70},
    Limit{1, "Q3_K_M", 90},  Limit{2, "Q8_0", 70},    Limit{2, "Q6_K", 90},   Limit{2, "Q5_K_M", 110},
    Limit{2, "Q4_K_M", 140}, Limit{2, "Q3_K_M", 180},
};

/// What a context, or several sequences of 4096, cost beside the weights.
struct Rule {
  int64_t context;
  int64_t n_sequences;
  double claimed;  ///< of the weights
};

constexpr std::array kRules = {Rule{4096, 1, 0.05},  Rule{8192, 1, 0.10}, Rule{16384, 1, 0.20},
                               Rule{32768, 1, 0.30}, Rule{4096, 4, 0.20}, Rule{4096, 8, 0.40}};

int64_t usable_bytes() {
  return static_cast<int64_t>(static_cast<double>(kGpuBytes) * kMemFraction);
}

PlanRequest request_of(int64_t context, int64_t n_sequences) {
  PlanRequest request;
  request.batch_tokens = batch_tokens_of(0, true);
  request.context_tokens = context;
  request.n_sequences = n_sequences;
  request.n_multiprocessors = kMultiprocessors;
  return request;
}

const ModelPreset& preset_named(const char* name) {
  const ModelPreset* preset = find_preset(name);
  require(preset != nullptr, "the guide names an unknown preset", name);
  return *preset;
}

GgufFile file_of(const ModelPreset& preset, const char* mix) {
  const QuantMix* found = find_quant_mix(mix);
  require(found != nullptr, "the guide names an unknown mix", mix);
  return preset_file(preset, *found);
}

json row_json(const Row& row) {
  const ModelPreset& preset = preset_named(row.preset);
  const GgufFile file = file_of(preset, row.mix);
  json out = {{"part", row.part},
              {"gpus", row.n_gpus},
              {"preset", row.preset},
              {"mix", row.mix},
              {"remark", row.remark},
              {"claimed_gb", row.claimed_gb},
              {"file_bytes", file.total_bytes()}};
  out["supported"] = can_run(preset);
  out["gpu_bytes"] = nullptr;
  out["largest_context"] = nullptr;
  out["largest_sequences"] = nullptr;
  if (!can_run(preset)) {
    // without a plan: whether the bare weights would
    out["fits"] = static_cast<int64_t>(file.total_bytes()) <= row.n_gpus * usable_bytes();
    return out;
  }
  const MemoryPlan plan(file, ModelConfig::from_gguf(file), SplitWeights(row.n_gpus));
  const PlanRequest request = request_of(kContext, 1);
  out["gpu_bytes"] = plan.largest_total(request);
  out["fits"] = plan.largest_total(request) <= usable_bytes();
  out["largest_context"] = plan.largest_context(request, usable_bytes());
  out["largest_sequences"] = plan.largest_sequences(request, usable_bytes());
  return out;
}

/// By the bits a weight that the mix gives Llama-3.1-70B.
json limit_json(const Limit& limit) {
  const GgufFile file = file_of(preset_named("llama-3.1-70b"), limit.mix);
  int64_t n_weights = 0;
  for (const GgufTensor& tensor : file.tensors()) n_weights += tensor.n_elements();
  const double bytes_a_weight = static_cast<double>(file.total_bytes()) / static_cast<double>(n_weights);
  return {{"gpus", limit.n_gpus},
          {"mix", limit.mix},
          {"claimed_weights", limit.claimed * 1e9},
          {"bits_per_weight", 8 * bytes_a_weight},
          {"largest_weights", static_cast<double>(limit.n_gpus * usable_bytes()) / bytes_a_weight}};
}

json rule_json(const Rule& rule) {
  const GgufFile file = file_of(preset_named("llama-3.1-70b"), "Q4_K_M");
  const MemoryPlan plan(file, ModelConfig::from_gguf(file), SplitWeights(2));
  const RankMemory memory = plan.rank(0, request_of(rule.context, rule.n_sequences));
  return {
      {"context", rule.context},
      {"sequences", rule.n_sequences},
      {"claimed", rule.claimed},
      {"cache_share", static_cast<double>(memory.cache_bytes) / static_cast<double>(memory.weight_bytes)}};
}

std::string row_text(const json& row) {
  const auto of_file = [](const json& bytes) { return bytes.get<double>() / 1e9; };
  const std::string memory =
      row.at("gpu_bytes").is_null() ? "-" : fmt::format("{:.0f}", row.at("gpu_bytes").get<double>() / 0x1p20);
  std::string truth = row.at("fits").get<bool>() ? "yes" : "NO";
  std::string context = "-";
  if (!row.at("supported").get<bool>()) {
    truth = row.at("fits").get<bool>() ? "the weights would; architecture not supported"
                                       : "NO; architecture not supported";
  } else if (row.at("largest_context").get<int64_t>() > 0) {
    context = fmt::format("{}", row.at("largest_context").get<int64_t>());
  }
  const std::string remark = row.at("remark").get<std::string>();
  return fmt::format("{:<13}{:<17}{:<8}{:>5}{:>9.1f}{:>10}{:>10}  {}{}\n", row.at("part").get<std::string>(),
                     row.at("preset").get<std::string>(), row.at("mix").get<std::string>(),
                     fmt::format("~{:.0f}", row.at("claimed_gb").get<double>()),
                     of_file(row.at("file_bytes")), memory, context, truth,
                     remark.empty() ? "" : fmt::format(" (guide: {})", remark));
}

}  // namespace

json guide_json() {
  json out;
  out["gpu_bytes"] = kGpuBytes;
  out["mem_fraction"] = kMemFraction;
  out["usable_bytes"] = usable_bytes();
  out["context"] = kContext;
  for (const Row& row : kRows) out["rows"].push_back(row_json(row));
  for (const Limit& limit : kLimits) out["limits"].push_back(limit_json(limit));
  for (const Rule& rule : kRules) out["rules"].push_back(rule_json(rule));
  return out;
}

std::string guide_text(const json& guide) {
  std::string out = fmt::format(
      "The guide's table for two V100-SXM2-32GB (31141 MiB each, {:g} of it used), and what is true.\n"
      "GB are 10^9 bytes of tensors; a GPU's MiB are with one sequence of {} positions (f16 cache).\n\n"
      "{:<13}{:<17}{:<8}{:>5}{:>9}{:>10}{:>10}  {}\n",
      guide.at("mem_fraction").get<double>(), guide.at("context").get<int64_t>(), "", "model", "mix", "said",
      "GB", "MiB a GPU", "context", "fits");
  for (const json& row : guide.at("rows")) out += row_text(row);
  out += "\nLargest model, in 10^9 weights (weights alone, at the bits that the mix gives Llama-3.1-70B)\n";
  for (const json& limit : guide.at("limits")) {
    out += fmt::format("  {} GPU{}  {:<7} said ~{:.0f}, is {:.0f} ({:.2f} bits a weight)\n",
                       limit.at("gpus").get<int>(), limit.at("gpus").get<int>() == 1 ? " " : "s",
                       limit.at("mix").get<std::string>(), limit.at("claimed_weights").get<double>() / 1e9,
                       limit.at("largest_weights").get<double>() / 1e9,
                       limit.at("bits_per_weight").get<double>());
  }
  out += "\nRules of thumb, as shares of the weights (Llama-3.1-70B Q4_K_M on two GPUs, f16 cache)\n";
  for (const json& rule : guide.at("rules")) {
    out += fmt::format("  {} × {:>5} positions  said +{:.0f} %, is +{:.1f} %\n",
                       rule.at("sequences").get<int64_t>(), rule.at("context").get<int64_t>(),
                       100 * rule.at("claimed").get<double>(), 100 * rule.at("cache_share").get<double>());
  }
  return out +
         "  system memory  said half of the model, is 64 MiB a node while loading, plus what the system "
         "caches of the "
         "file\n";
}

}  // namespace tandem
