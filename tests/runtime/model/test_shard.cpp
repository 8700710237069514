// Shards tile every tensor at any rank count and split, cut only where a cut is exact, and keep every KV head
// that their query heads need.
#include "runtime/model/shard.h"

#include <gtest/gtest.h>

#include "tests/support/tiny_model.h"

namespace tandem::test {
namespace {

struct Case {
  TinyModel model;
  std::vector<double> split;
  int n_ranks;
};

std::vector<Case> random_cases() {
  std::vector<Case> cases;
  TestRandom random(11);
  const auto pick = [&](std::initializer_list<int64_t> from) {
    return from.begin()[random.next() % from.size()];
  };
  for (int i = 0; i < 80; ++i) {
    TinyModel model;
    model.n_layers = 1;
    model.head_dim = pick({8, 32, 64, 80, 96});
    model.n_kv_heads = pick({1, 2, 3, 5});
    model.n_heads = model.n_kv_heads * pick({1, 2, 3, 4});
    model.n_ff = pick({32, 160, 512, 1024, 1536, 1600});
    model.n_vocab = pick({37, 135, 1000});
    model.n_experts = pick({0, 0, 4});
    const bool quantised = (model.n_heads * model.head_dim) % 32 == 0 && random.next() % 2 == 0;
    model.type = quantised ? TensorType::q4_0 : TensorType::f32;
    const auto n_ranks = static_cast<int>(pick({1, 2, 3, 4, 5, 6, 7, 8}));
    std::vector<double> split;
    for (int r = 0; r < n_ranks; ++r) split.push_back(static_cast<double>(pick({0, 1, 2, 7})));
    split[0] = 1.0;  // not all zero
    if (random.next() % 2 == 0) split.assign(static_cast<size_t>(n_ranks), 1.0);
    cases.push_back({model, split, n_ranks});
  }
  return cases;
}

/// The parts of all ranks lie end to end and cover `whole`.
void expect_tiles(const std::vector<Range>& parts, Range whole, const std::string& what) {
  int64_t at = whole.begin;
  for (const Range& part : parts) {
    EXPECT_EQ(part.begin, at) << what;
    EXPECT_GE(part.end, part.begin) << what;
    at = part.end;
  }
  EXPECT_EQ(at, whole.end) << what;
}

TEST(Shard, TilesEveryTensor) {
  const TemporaryFolder folder;
  for (const Case& c : random_cases()) {
    const std::string path = folder.file("model.gguf");
    c.model.write(path);
    const GgufFile file = GgufFile::open(path);
    const ModelConfig config = ModelConfig::from_gguf(file);
    const ShardPlan plan(file, config, SplitWeights(c.split));
    for (const GgufTensor& tensor : file.tensors()) {
      const std::string what = tensor.name + " over " + std::to_string(c.n_ranks);
      const bool experts = tensor.shape.size() == 3;
      const Range all_rows{0, experts ? tensor.shape[1] : tensor.n_rows()};
      const Range all_cols{0, tensor.n_cols()};
      const bool kv = tensor.name.find("attn_k.") != std::string::npos ||
                      tensor.name.find("attn_v.") != std::string::npos;
      std::vector<Range> rows;
      std::vector<Range> cols;
      SplitKind kind = SplitKind::replicated;
      for (int r = 0; r < c.n_ranks; ++r) {
        const TensorShard shard = plan.shard(tensor, r);
        kind = shard.kind;
        rows.push_back(shard.rows);
        cols.push_back(shard.cols);
        EXPECT_LE(plan.bytes(tensor, r), static_cast<int64_t>(tensor.n_bytes)) << what;
        if (kind == SplitKind::row_split && !shard.cols.empty() && shard.cols.end != all_cols.end &&
            type_info(tensor.type).block_elements > 1) {
          EXPECT_EQ(shard.cols.end % 32, 0) << what;  // a group of activations never straddles two ranks
        }
      }
      if (kind == SplitKind::replicated || kv) {
        for (int r = 0; r < c.n_ranks; ++r) {
          if (!kv) {
            EXPECT_EQ(rows[static_cast<size_t>(r)], all_rows) << what;
          }
        }
      } else if (kind == SplitKind::column_split && all_rows.size() > 1) {
        expect_tiles(rows, all_rows, what);
      } else {
        expect_tiles(cols, all_cols, what);
      }
    }
  }
}

TEST(Shard, KeepsTheKvHeadsThatItsQueriesNeed) {
  const TemporaryFolder folder;
  for (const Case& c : random_cases()) {
    const std::string path = folder.file("model.gguf");
    c.model.write(path);
    const GgufFile file = GgufFile::open(path);
    const ModelConfig config = ModelConfig::from_gguf(file);
    const ShardPlan plan(file, config, SplitWeights(c.n_ranks));
    for (int r = 0; r < c.n_ranks; ++r) {
      const RankShard& shard = plan.rank(r);
      for (int64_t head = shard.q_heads.begin; head < shard.q_heads.end; ++head) {
        EXPECT_TRUE(shard.kv_heads.contains(head / (config.n_heads / config.n_kv_heads)));
      }
    }
  }
}

TEST(Shard, NineHeadsOverThreeAreDealtFiveToFour) {
  const TemporaryFolder folder;
  TinyModel{}.write(folder.file("m.gguf"));
  const GgufFile file = GgufFile::open(folder.file("m.gguf"));
  const ShardPlan plan(file, ModelConfig::from_gguf(file), SplitWeights(2));
  EXPECT_EQ(plan.rank(0).q_heads, (Range{0, 5}));
  EXPECT_EQ(plan.rank(0).kv_heads, (Range{0, 2}));
  EXPECT_EQ(plan.rank(1).q_heads, (Range{5, 9}));
  EXPECT_EQ(plan.rank(1).kv_heads, (Range{1, 3}));
}

TEST(Shard, SharesFollowTheWeights) {
  EXPECT_EQ(SplitWeights(std::vector<double>{3, 1}).share(8, 0), (Range{0, 6}));
  EXPECT_EQ(SplitWeights(std::vector<double>{0, 1}).share(8, 0), (Range{0, 0}));
  EXPECT_EQ(SplitWeights(3).share(7, 1), (Range{2, 5}));
}

}  // namespace
}  // namespace tandem::test
