#include "launch/plan/report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "runtime/gguf/describe.h"

namespace tandem {
namespace {

using json = nlohmann::ordered_json;

double mib(const json& bytes) {
  return bytes.get<double>() / 0x1p20;
}

json range_json(Range range) {
  return json::array({range.begin, range.end});
}

json rank_json(const PlanQuestion& question, int r) {
  const RankMemory memory = question.plan.rank(r, question.request);
  const RankShard& shard = question.plan.shards().rank(r);
  int64_t file_bytes = 0;
  for (const GgufTensor& tensor : question.file.tensors())
    file_bytes += question.plan.shards().bytes(tensor, r);
  return {{"rank", r},
          {"q_heads", range_json(shard.q_heads)},
          {"kv_heads", range_json(shard.kv_heads)},
          {"ffn_columns", range_json(shard.ffn)},
          {"vocabulary", range_json(shard.vocab)},
          {"file_bytes", file_bytes},
          {"weight_bytes", memory.weight_bytes},
          {"cache_bytes", memory.cache_bytes},
          {"workspace_bytes", memory.workspace_bytes},
          {"exchange_bytes", memory.exchange_bytes},
          {"total_bytes", memory.total()}};
}

void add_verdict(const PlanQuestion& question, json& out) {
  out["memory_bytes"] = nullptr;
  out["usable_bytes"] = nullptr;
  out["fits"] = nullptr;
  out["largest_context"] = nullptr;
  out["largest_sequences"] = nullptr;
  if (!question.memory_bytes) return;
  const auto usable =
      static_cast<int64_t>(static_cast<double>(*question.memory_bytes) * question.mem_fraction);
  out["memory_bytes"] = *question.memory_bytes;
  out["usable_bytes"] = usable;
  out["fits"] = question.plan.largest_total(question.request) <= usable;
  out["largest_context"] = question.plan.largest_context(question.request, usable);
  out["largest_sequences"] = question.plan.largest_sequences(question.request, usable);
}

std::string verdict_text(const json& plan) {
  if (plan.at("fits").is_null())
    return "With --memory SIZE (of one rank): whether it fits, and what would.\n";
  const auto usable = plan.at("usable_bytes").get<int64_t>();
  const auto most = plan.at("largest_total_bytes").get<int64_t>();
  std::string out = fmt::format(
      "{}: the fullest rank takes {:.0f} of the {:.0f} MiB that may be used ({:.0f} MiB · {:g})\n",
      plan.at("fits").get<bool>() ? "It fits" : "It does not fit", mib(most), mib(usable),
      mib(plan.at("memory_bytes")), plan.at("mem_fraction").get<double>());
  const auto context = plan.at("largest_context").get<int64_t>();
  const auto sequences = plan.at("largest_sequences").get<int64_t>();
  const auto n = plan.at("sequences").get<int64_t>();
  const std::string each = n == 1 ? "one sequence" : fmt::format("each of {} sequences", n);
  if (context == 0)
    return out + fmt::format("No context of {} fits: use more ranks or a smaller model.\n", each);
  const auto trained = plan.at("trained_context").get<int64_t>();
  out += fmt::format("Largest context of {}: {} positions{}\n", each, context,
                     context > trained ? fmt::format(" (the model was trained on {})", trained) : "");
  return out + fmt::format("Most sequences of {} positions at once: {}\n", plan.at("context").get<int64_t>(),
                           sequences);
}

}  // namespace

json plan_json(const PlanQuestion& question) {
  const PlanRequest& request = question.request;
  json out;
  out["model"] = question.config.name;
  out["architecture"] = question.config.architecture;
  out["file_bytes"] = question.file.total_bytes();
  int64_t n_weights = 0;
  json by_type = json::object();
  for (const GgufTensor& tensor : question.file.tensors()) {
    n_weights += tensor.n_elements();
    const std::string type(type_info(tensor.type).name);
    by_type[type] = by_type.value(type, uint64_t{0}) + tensor.n_bytes;
  }
  out["weights"] = n_weights;
  out["bytes_by_type"] = by_type;
  out["backend"] = request.backend == PlanBackend::cuda ? "cuda" : "cpu";
  out["ranks"] = question.plan.n_ranks();
  out["context"] = request.context_tokens;
  out["trained_context"] = question.config.n_ctx_train;
  out["sequences"] = request.n_sequences;
  out["batch"] = request.batch_tokens;
  out["cache_type"] = cache_type_name(request.cache_type);
  out["mem_fraction"] = question.mem_fraction;
  out["per_rank"] = json::array();
  for (int r = 0; r < question.plan.n_ranks(); ++r) out["per_rank"].push_back(rank_json(question, r));
  out["largest_total_bytes"] = question.plan.largest_total(request);
  add_verdict(question, out);
  return out;
}

std::string plan_text(const json& plan) {
  const auto n_ranks = plan.at("ranks").get<int>();
  std::string out = fmt::format(
      "{}: {:.2f} GB of tensors, {:.2f}e9 weights\n{} on {} rank{}, {} sequence{} of {} positions, {} cache, "
      "steps of up to {} prompt tokens\n\n",
      plan.at("model").get<std::string>(), plan.at("file_bytes").get<double>() / 1e9,
      plan.at("weights").get<double>() / 1e9, plan.at("backend") == "cuda" ? "CUDA" : "CPU", n_ranks,
      n_ranks == 1 ? "" : "s", plan.at("sequences").get<int64_t>(),
      plan.at("sequences").get<int64_t>() == 1 ? "" : "s", plan.at("context").get<int64_t>(),
      plan.at("cache_type").get<std::string>(), plan.at("batch").get<int64_t>());
  out += fmt::format("{:<6}{:>14}{:>14}{:>14}{:>14}{:>14}\n", "MiB", "weights", "KV cache", "step buffers",
                     "exchange", "sum");
  for (const json& rank : plan.at("per_rank")) {
    out += fmt::format("{:<6}{:>14.1f}{:>14.1f}{:>14.1f}{:>14.1f}{:>14.1f}\n",
                       fmt::format("rank {}", rank.at("rank").get<int>()), mib(rank.at("weight_bytes")),
                       mib(rank.at("cache_bytes")), mib(rank.at("workspace_bytes")),
                       mib(rank.at("exchange_bytes")), mib(rank.at("total_bytes")));
  }
  return out + "\n" + verdict_text(plan);
}

}  // namespace tandem
