// How ranks come by their products' roads: rank 0 measures once, all take what its shard takes, files are
// used, replaced and never missed. A stand-in measures.
#include "launch/road_tuning.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <thread>

#include "ops/verbs.h"

namespace tandem {
namespace {

using cuda::Product;
using cuda::RoadKey;
using cuda::Roads;

class Shard final : public Matrix {
 public:
  explicit Shard(int64_t n_rows) : n_rows_(n_rows) {}
  TensorType type() const override { return TensorType::q4_k; }
  int64_t n_rows() const override { return n_rows_; }
  int64_t n_cols() const override { return 256; }
  size_t bytes() const override { return 0; }
  void put_rows(int64_t /*row_begin*/, int64_t /*n_rows*/, const std::byte* /*rows*/,
                size_t /*row_stride*/) override {}

 private:
  int64_t n_rows_;
};

/// A rank whose shards have these rows, one product each. Roads "measured" are {rows % 5, 64}.
class Rank final : public cuda::RoadTuner {
 public:
  explicit Rank(const std::vector<int64_t>& rows) {
    for (const int64_t n : rows) {
      shards_.push_back(std::make_unique<Shard>(n));
      products_.push_back({{shards_.back().get()}});
    }
  }
  std::optional<RoadKey> key_of(const Product& product) const override {
    if (product.parts[0]->n_rows() == 0) return std::nullopt;
    return RoadKey{{{product.parts[0]->type(), product.parts[0]->n_rows()}}, 256};
  }
  std::optional<Roads> measure(std::span<const Product> alike) override {
    n_measured += static_cast<int>(alike.size());
    if (memory_is_short) return std::nullopt;
    return Roads{static_cast<int32_t>(alike[0].parts[0]->n_rows() % 5), 64};
  }
  void set_roads(const Product& product, const Roads& roads) override { roads_[product.parts[0]] = roads; }
  cuda::RoadSet take_roads() override { return {}; }

  std::span<const Product> products() const { return products_; }
  /// Tokens by GEMV of each product; -1: nobody has said.
  std::vector<int> few() const {
    std::vector<int> out;
    for (const Product& product : products_) {
      const auto found = roads_.find(product.parts[0]);
      out.push_back(found == roads_.end() ? -1 : found->second.gemv);
    }
    return out;
  }

  int n_measured = 0;
  bool memory_is_short = false;

 private:
  std::vector<std::unique_ptr<Shard>> shards_;
  std::vector<Product> products_;
  std::map<const Matrix*, Roads> roads_;
};

class RoadTuning : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(folder_);
    request_.folder = folder_;
    request_.origin = {"GPU of tests / 80", "1.0", "0.1", 1};
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string tune(Rank& rank) {
    return tune_roads(rank, rank.products(), request_, *make_single_communicator());
  }
  size_t n_files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  std::string folder_ = testing::TempDir() + "road_tuning/cache";
  RoadRequest request_;
};

TEST_F(RoadTuning, is_measured_once) {
  Rank first({103, 0, 101, 103});
  EXPECT_NE(tune(first).find("2 measured"), std::string::npos);
  EXPECT_EQ(first.n_measured, 3);  // both of 103 rows at once
  EXPECT_EQ(first.few(), (std::vector{3, -1, 1, 3}));
  EXPECT_EQ(n_files(), 1U);

  Rank second({103, 102});
  tune(second);
  EXPECT_EQ(second.n_measured, 1);  // only what is new
  Rank third({101, 102, 103});
  EXPECT_NE(tune(third).find("from " + folder_), std::string::npos);
  EXPECT_EQ(third.n_measured, 0);
  EXPECT_EQ(third.few(), (std::vector{1, 2, 3}));

  request_.again = true;
  tune(third);
  EXPECT_EQ(third.n_measured, 3);
}

TEST_F(RoadTuning, another_origin_measures_anew) {
  Rank rank({103});
  tune(rank);
  request_.origin.driver = "2.0";
  EXPECT_NE(tune(rank).find("1 measured"), std::string::npos);
  request_.origin.n_ranks = 2;  // beside the file of one rank
  tune(rank);
  EXPECT_EQ(rank.n_measured, 3);
  EXPECT_EQ(n_files(), 2U);
}

TEST_F(RoadTuning, a_damaged_file_is_replaced) {
  Rank rank({103});
  tune(rank);
  std::ofstream(road_file(request_)) << "{\"device\":";
  testing::internal::CaptureStdout();
  Rank next({103});
  tune(next);
  testing::internal::GetCapturedStdout();
  EXPECT_EQ(next.few(), (std::vector{3}));
  std::ostringstream text;
  text << std::ifstream(road_file(request_)).rdbuf();
  std::string fault;
  EXPECT_TRUE(cuda::RoadTable::parse(text.str(), request_.origin, fault));
}

TEST_F(RoadTuning, goes_on_where_nothing_can_be_kept) {
  for (const std::string& folder : {std::string(), std::string("/proc/nowhere")}) {
    request_.folder = folder;
    Rank rank({103});
    EXPECT_NE(tune(rank).find("not kept"), std::string::npos);
    EXPECT_EQ(rank.few(), (std::vector{3}));
  }
}

TEST_F(RoadTuning, short_memory_leaves_what_is_built_in) {
  Rank rank({103});
  rank.memory_is_short = true;
  EXPECT_NE(tune(rank).find("built in"), std::string::npos);
  EXPECT_EQ(rank.few(), (std::vector{-1}));
  EXPECT_FALSE(std::filesystem::exists(road_file(request_)));
}

TEST_F(RoadTuning, all_ranks_take_rank_zeros) {
  const std::vector<std::vector<int64_t>> rows = {{103, 0, 101}, {51, 104, 0}, {0, 52, 104}};
  std::vector<std::unique_ptr<Rank>> ranks;
  auto communicators = make_thread_communicators(3);
  std::vector<std::thread> threads;
  for (const auto& shards : rows) ranks.push_back(std::make_unique<Rank>(shards));
  for (size_t r = 0; r < 3; ++r) {
    threads.emplace_back(
        [&, r] { tune_roads(*ranks[r], ranks[r]->products(), request_, *communicators[r]); });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t r = 0; r < 3; ++r) {
    EXPECT_EQ(ranks[r]->few(), (std::vector{3, -1, 1})) << r;
    EXPECT_EQ(ranks[r]->n_measured, r == 0 ? 2 : 0) << r;
  }
}

TEST(CacheFolder, follows_the_environment) {
  for (const char* variable : {"TANDEM_CACHE", "XDG_CACHE_HOME", "HOME"}) unsetenv(variable);
  EXPECT_EQ(cache_folder(), "");
  setenv("HOME", "/home/who", 1);
  EXPECT_EQ(cache_folder(), "/home/who/.cache/tandem");
  setenv("XDG_CACHE_HOME", "/caches", 1);
  EXPECT_EQ(cache_folder(), "/caches/tandem");
  setenv("TANDEM_CACHE", "/mine", 1);
  EXPECT_EQ(cache_folder(), "/mine");
}

}  // namespace
}  // namespace tandem
