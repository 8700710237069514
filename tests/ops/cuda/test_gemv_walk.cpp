// How a block's warps share its units (ops/cuda/gemv_walk.h): each is taken once, sums meet in one order.
#include "ops/cuda/gemv_walk.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

namespace tandem::cuda {
namespace {

/// The segments whose sums each (bundle, slot) gets, in order. A warp's sums must not meet another's.
template <int kWarps>
std::map<std::pair<int, int>, std::vector<int>> sums_of(int n_segments, int n) {
  std::map<std::pair<int, int>, std::vector<int>> sums;
  std::map<std::pair<int, int>, int> owner;
  int most = 0;
  int least = n_segments * n;
  for (int warp = 0; warp < kWarps; ++warp) {
    const Walk<kWarps> walk(n_segments, n, warp);
    int turn = -1;
    int before = -1;
    for (int i = 0; i < walk.size(); ++i) {
      const auto [segment, local] = walk.unit(i);
      if (segment != before) {
        EXPECT_EQ(walk.segment(++turn), segment);
      }
      before = segment;
      const std::pair at{local, walk.slot_of(segment)};
      EXPECT_LT(at.first, n);
      EXPECT_LT(at.second, round_slots(n_segments, kWarps));
      EXPECT_EQ(walk.adds(segment), sums.contains(at)) << segment;
      EXPECT_EQ(owner.try_emplace(at, warp).first->second, warp);
      sums[at].push_back(segment);
    }
    EXPECT_EQ(walk.n_segments(), turn + 1);
    EXPECT_LE(walk.size(), walk.most_units());
    most = std::max(most, walk.size());
    least = std::min(least, walk.size());
  }
  EXPECT_LE(most - least, 1) << n_segments << " segments, bundles " << n;
  return sums;
}

template <int kWarps>
void check_all() {
  for (int n_segments = 1; n_segments < 5 * kWarps; ++n_segments) {
    std::vector<std::vector<int>> of_one;  // by slot
    for (const int n : {1, 2, 3, 7, 16, 61}) {
      const auto sums = sums_of<kWarps>(n_segments, n);
      ASSERT_EQ(sums.size(), static_cast<size_t>(n * round_slots(n_segments, kWarps)));
      std::vector<std::vector<int>> orders;
      std::vector<int> all;
      for (const auto& [at, segments] : sums) {
        if (at.first != 0) continue;
        orders.push_back(segments);
        all.insert(all.end(), segments.begin(), segments.end());
      }
      std::sort(all.begin(), all.end());
      ASSERT_EQ(all.size(), static_cast<size_t>(n_segments));
      for (int i = 0; i < n_segments; ++i) EXPECT_EQ(all[static_cast<size_t>(i)], i);
      for (const auto& [at, segments] : sums) EXPECT_EQ(segments, orders[static_cast<size_t>(at.second)]);
      if (n == 1) of_one = orders;
      EXPECT_EQ(orders, of_one) << n_segments << " segments, bundles " << n;
    }
  }
}

TEST(GemvWalk, EachUnitOnceAndSumsInOneOrder) {
  check_all<8>();
  check_all<12>();
  check_all<16>();
}

TEST(GemvWalk, NeighboursInARoundAndRunsInTheRest) {
  const Walk<4> walk(4 + 2, 3, 1);  // a round of four segments; of the rest's six units the second and a half
  std::vector<std::pair<int, int>> got;
  for (int i = 0; i < walk.size(); ++i) got.emplace_back(walk.unit(i).segment, walk.unit(i).local);
  const std::vector<std::pair<int, int>> expected = {{1, 0}, {1, 1}, {1, 2}, {4, 1}, {4, 2}};
  EXPECT_EQ(got, expected);
}

}  // namespace
}  // namespace tandem::cuda
