// tandem inspect: what a GGUF file holds and which rank would hold what of it. Needs no ranks.
#include <fmt/format.h>

#include "launch/command.h"
#include "launch/job.h"
#include "launch/option_parser.h"
#include "launch/options.h"
#include "launch/output.h"
#include "launch/session.h"
#include "runtime/gguf/describe.h"
#include "runtime/gguf/printable.h"
#include "runtime/model/config.h"
#include "runtime/model/shard.h"

namespace tandem {
namespace {

std::string part_text(const TensorShard& shard) {
  if (shard.empty()) return "-";
  if (shard.kind == SplitKind::replicated) return "all";
  const Range range = shard.kind == SplitKind::row_split || shard.rows.size() == 1 ? shard.cols : shard.rows;
  return fmt::format("{}-{}", range.begin, range.end);
}

std::string_view kind_text(SplitKind kind) {
  switch (kind) {
    case SplitKind::column_split:
      return "column-split";
    case SplitKind::row_split:
      return "row-split";
    case SplitKind::replicated:
      break;
  }
  return "replicated";
}

/// A line a tensor: how it is split, what each rank holds, and how many bytes; then the ranks' sums.
std::string shard_map(const GgufFile& file, const ShardPlan& plan) {
  constexpr size_t kNameCharacters = 64;  // a tensor's name has no more
  const auto name_of = [](const GgufTensor& tensor) { return printable(tensor.name, kNameCharacters); };
  size_t name_width = 6;
  for (const GgufTensor& tensor : file.tensors()) name_width = std::max(name_width, name_of(tensor).size());
  std::string out = fmt::format("{:<{}}  {:<12}", "tensor", name_width, "split");
  for (int r = 0; r < plan.n_ranks(); ++r) out += fmt::format("  {:<30}", fmt::format("rank {}", r));
  out += '\n';
  std::vector<int64_t> sums(static_cast<size_t>(plan.n_ranks()));
  for (const GgufTensor& tensor : file.tensors()) {
    out += fmt::format("{:<{}}  {:<12}", name_of(tensor), name_width, kind_text(plan.shard(tensor, 0).kind));
    for (int r = 0; r < plan.n_ranks(); ++r) {
      const int64_t n_bytes = plan.bytes(tensor, r);
      sums[static_cast<size_t>(r)] += n_bytes;
      const std::string part = fmt::format("{} ({})", part_text(plan.shard(tensor, r)),
                                           format_bytes(static_cast<uint64_t>(n_bytes)));
      out += fmt::format("  {:<30}", part);
    }
    out += '\n';
  }
  out += fmt::format("{:<{}}  {:<12}", "sum", name_width, "");
  for (const int64_t sum : sums)
    out +=
        fmt::format("  {:<30}", fmt::format("{} bytes ({})", sum, format_bytes(static_cast<uint64_t>(sum))));
  return out + '\n';
}

}  // namespace

int inspect_command(Job& job, const Arguments& arguments) {
  OptionParser parser(
      "inspect", "Show a file's metadata, tensors and shards",
      "With -np N (or --split) also what each of N ranks would hold: rows of a column-split tensor, columns "
      "of a row-split one.");
  ModelOptions model;
  std::string path;
  int n_ranks = 0;
  parser.add_positional("FILE", path, "the GGUF file");
  parser.add_text("model,m", model.model, "FILE", "the same as a flag");
  parser.add_integer("ranks,np", n_ranks, 1, 4096, "show the shards of so many ranks");
  add_split_option(parser, model);
  parser.add_alternatives({"FILE", "model"});
  if (!parser.parse(arguments)) return 0;
  if (model.model.empty()) model.model = path;
  require_model(parser, model);
  const GgufFile file = GgufFile::open(model.model);
  std::string out = describe_metadata(file) + "\n" + describe_tensors(file);
  if (n_ranks == 0) n_ranks = static_cast<int>(model.split.size());
  if (n_ranks > 0) {
    check_split(model.split, n_ranks);
    const ModelConfig config = ModelConfig::from_gguf(file);
    const SplitWeights weights = model.split.empty() ? SplitWeights(n_ranks) : SplitWeights(model.split);
    out += "\n" + shard_map(file, ShardPlan(file, config, weights));
  }
  if (job.rank() == 0) print_result(out);
  return 0;
}

}  // namespace tandem
