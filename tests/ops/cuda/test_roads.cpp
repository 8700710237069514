// The table of products' roads without a GPU: built-in numbers, what measured times mean, and what is read
// back of a table, or refused.
#include "ops/cuda/roads.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tandem::cuda {
namespace {

using nlohmann::json;

RoadOrigin origin() {
  return {"NVIDIA H100 \"80GB\"", "580.65.06", "1.2 (abc)", 2};
}
RoadKey key(int64_t n_rows, bool wide = false) {
  return {{{TensorType::q4_k, n_rows}, {TensorType::q6_k, 1024}}, 4096, wide, false};
}
RoadTable table() {
  RoadTable out;
  out.set(key(4096), {3, 128});
  out.set(key(4096, true), {1, 64});
  out.set({{{TensorType::f16, 7}}, 96, false, true}, {64, 256});
  return out;
}

TEST(Roads, built_in_numbers) {
  EXPECT_EQ(built_in_roads(TensorType::q4_k, BatchCode::warps), (Roads{4, 64}));
  EXPECT_EQ(built_in_roads(TensorType::q4_k, BatchCode::warpgroups), (Roads{4, 192}));
  EXPECT_EQ(built_in_roads(TensorType::q4_k, BatchCode::none), (Roads{16, 64}));
  EXPECT_EQ(built_in_roads(TensorType::bf16, BatchCode::none), (Roads{64, 64}));
}

TEST(Roads, names) {
  RoadSet set;
  EXPECT_EQ(set.text(), "");
  set.add(Road::unpacked);
  EXPECT_EQ(set.text(), "unpacked");
  RoadSet more;
  more.add(Road::gemv);
  set.add(more);
  EXPECT_EQ(set.text(), "gemv+unpacked");
}

TEST(Roads, found_by_the_whole_key_only) {
  EXPECT_EQ(table().find(key(4096)), (Roads{3, 128}));
  EXPECT_EQ(table().find(key(4096, true)), (Roads{1, 64}));
  EXPECT_EQ(table().find(key(4097)), std::nullopt);
  RoadKey other = key(4096);
  other.of_expert = true;
  EXPECT_EQ(table().find(other), std::nullopt);
  other = key(4096);
  other.n_cols = 2048;
  EXPECT_EQ(table().find(other), std::nullopt);
  std::swap(other.parts[0].type, other.parts[1].type);
  EXPECT_EQ(table().find(other), std::nullopt);
}

TEST(Roads, come_back_as_they_were_written) {
  std::string fault;
  EXPECT_EQ(RoadTable::parse(table().text(origin()), origin(), fault), table());
  EXPECT_EQ(fault, "");
  EXPECT_EQ(RoadTable::parse(RoadTable().text(origin()), origin(), fault), RoadTable());
  EXPECT_NE(RoadTable(), table());
}

TEST(Roads, hold_for_one_origin) {
  RoadOrigin others[] = {origin(), origin(), origin(), origin()};
  others[0].device = "NVIDIA H200";
  others[1].driver = "";
  others[2].version = "1.3 (abc)";
  others[3].n_ranks = 1;
  for (const RoadOrigin& other : others) {
    std::string fault;
    EXPECT_EQ(RoadTable::parse(table().text(origin()), other, fault), std::nullopt);
    EXPECT_EQ(fault, "");
  }
}

void expect_refused(const std::string& text) {
  std::string fault;
  EXPECT_EQ(RoadTable::parse(text, origin(), fault), std::nullopt) << text;
  EXPECT_NE(fault, "") << text;
  EXPECT_EQ(fault.find('\n'), std::string::npos) << fault;
}

TEST(Roads, refuse_what_is_no_table) {
  const std::string good = table().text(origin());
  for (const std::string& text :
       {std::string(), std::string("[1, 2]"), std::string("null"), good.substr(0, good.size() / 2),
        std::string(1 << 20, '['), std::string("\xff\x00{", 3), std::string("{}")})
    expect_refused(text);
  const auto with = [&](const json::json_pointer& at, const json& value) {
    json document = json::parse(good);
    document[at] = value;
    return document.dump();
  };
  using P = json::json_pointer;
  expect_refused(with(P("/device"), 5));
  expect_refused(with(P("/roads"), "all"));
  expect_refused(with(P("/roads/0"), json::array()));
  expect_refused(with(P("/roads/0/parts"), 5));
  expect_refused(with(P("/roads/0/parts/0/type"), "Q9_Z"));
  expect_refused(with(P("/roads/0/parts/0/type"), "I64"));
  expect_refused(with(P("/roads/0/wide"), 1));
  for (const json& value : {json(-1), json(0.5), json("4"), json(nullptr), json(1e300), json(UINT64_MAX)}) {
    for (const char* at : {"/roads/0/gemv", "/roads/0/batch", "/roads/0/cols", "/roads/0/parts/0/rows"})
      expect_refused(with(P(at), value));
  }
  expect_refused(with(P("/roads/0/gemv"), 65));
  expect_refused(with(P("/roads/0/batch"), 63));
  expect_refused(with(P("/roads/0/batch"), 257));
}

TEST(Roads, the_lower_road_ends_where_it_is_slower) {
  const std::vector<RoadTimes> times = {{2, 10, 20}, {3, 15, 20}, {4, 30, 20}};
  EXPECT_EQ(last_on_lower_road(1, 4, times), 3);
  const std::vector<RoadTimes> again = {{2, 30, 20}, {3, 15, 20}, {4, 10, 20}};
  EXPECT_EQ(last_on_lower_road(1, 4, again), 1);
  EXPECT_EQ(last_on_lower_road(1, 4, {}), 1);
}

TEST(Roads, a_twentieth_decides_nothing) {
  const std::vector<RoadTimes> close = {{2, 100, 98}, {3, 98, 100}, {4, 100, 100}};
  EXPECT_EQ(last_on_lower_road(1, 4, close), 4);
  EXPECT_EQ(last_on_lower_road(1, 2, close), 2);
}

}  // namespace
}  // namespace tandem::cuda
