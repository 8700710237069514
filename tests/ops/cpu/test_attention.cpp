// Attention over the paged cache: right against ops/ref, and the same bits whatever shares the call, the
// pages, the threads, the cut or the instruction set. Every unused byte of every cache here is a NaN.
#include "ops/cpu/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <string>

#include "ops/core/range.h"
#include "ops/cpu/simd_generic.h"
#include "ops/ref/attention.h"
#include "tests/ops/cpu/compare.h"
#include "tests/ops/cpu/stored_rows.h"

namespace tandem {
namespace {

using test::nmse;
using test::Random;
using test::same_bits;

struct Shape {
  int n_heads;
  int n_kv_heads;
  int32_t k_dim;
  int32_t v_dim;
};

/// The rows of one sequence, made once and then put into caches of any kind.
struct Rows {
  Rows(const Shape& s, int64_t n_positions, uint64_t seed) : shape(s), n(n_positions) {
    Random random(seed);
    const auto count = static_cast<size_t>(n);
    q = random.normals(count * static_cast<size_t>(s.n_heads * s.k_dim), 1.5F);
    k = random.normals(count * static_cast<size_t>(s.n_kv_heads * s.k_dim));
    v = random.normals(count * static_cast<size_t>(s.n_kv_heads * s.v_dim));
  }
  Shape shape;
  int64_t n;
  std::vector<float> q;  // (n, n_heads, k_dim)
  std::vector<float> k;  // (n, n_kv_heads, k_dim)
  std::vector<float> v;  // (n, n_kv_heads, v_dim)
};

struct Options {
  KvType type = KvType::f16;
  int n_threads = 1;
  Isa isa = best_isa();
  int64_t chunk = 1 << 30;  // tokens a call
  uint64_t page_seed = 0;   // order of the physical pages; 0: ascending
  float soft_cap = 0.0F;
  int64_t window = 0;
  int64_t first = 0;  // positions before are in the cache, but not asked for
};

std::vector<int32_t> kv_of_head(const Shape& shape) {
  std::vector<int32_t> map;
  for (int h = 0; h < shape.n_heads; ++h) map.push_back(h * shape.n_kv_heads / shape.n_heads);
  return map;
}

float scale_of(const Shape& shape) {
  return 1.0F / std::sqrt(static_cast<float>(shape.k_dim));
}

/// A cache of one layer behind another (so that offsets matter), all NaN.
KvCache poisoned_cache(const Shape& s, KvType type, int64_t n_pages) {
  const std::array<KvLayerShape, 2> layers = {KvLayerShape{1, 24, 40},
                                              KvLayerShape{s.n_kv_heads, s.k_dim, s.v_dim}};
  KvCache cache(layers, type, n_pages);
  std::fill(cache.raw().begin(), cache.raw().end(), std::byte{0xff});
  return cache;
}

std::vector<int32_t> page_table(int64_t n_pages, uint64_t seed) {
  std::vector<int32_t> pages(static_cast<size_t>(n_pages));
  std::iota(pages.begin(), pages.end(), 0);
  if (seed != 0) std::shuffle(pages.begin(), pages.end(), std::mt19937_64(seed));
  return pages;
}

bool append_row(KvCache& cache, const Rows& rows, std::span<const int32_t> pages, int64_t p) {
  const Shape& s = rows.shape;
  return cache.append(1, pages[static_cast<size_t>(p / kPageTokens)], p % kPageTokens,
                      rows.k.data() + p * s.n_kv_heads * s.k_dim, rows.v.data() + p * s.n_kv_heads * s.v_dim);
}

/// Processes a sequence chunk by chunk as a prompt is, and returns the rows of positions first … n-1.
std::vector<float> run(const Rows& rows, const Options& o) {
  const Shape& s = rows.shape;
  const int64_t n_pages = ceil_div(rows.n, kPageTokens);
  KvCache cache = poisoned_cache(s, o.type, n_pages + 3);
  const std::vector<int32_t> pages = page_table(n_pages + (o.page_seed == 0 ? 0 : 3), o.page_seed);
  const std::array<std::span<const int32_t>, 1> tables = {pages};
  const std::vector<int32_t> heads = kv_of_head(s);
  ThreadPool pool(o.n_threads, {}, 20);
  AttentionScratch scratch;
  const int64_t width = int64_t{s.n_heads} * s.v_dim;
  std::vector<float> out(static_cast<size_t>((rows.n - o.first) * width), std::nanf(""));
  for (int64_t p = 0; p < o.first; ++p) EXPECT_TRUE(append_row(cache, rows, pages, p));
  for (int64_t begin = o.first; begin < rows.n; begin += o.chunk) {
    const int64_t end = std::min(rows.n, begin + o.chunk);
    std::vector<AttentionToken> tokens;
    for (int64_t p = begin; p < end; ++p) {
      EXPECT_TRUE(append_row(cache, rows, pages, p));
      tokens.push_back({static_cast<int32_t>(p), 0});
    }
    AttentionArgs args;
    args.cache = &cache;
    args.layer = 1;
    args.tokens = tokens;
    args.page_tables = tables;
    args.kv_of_head = heads;
    args.q_stride = int64_t{s.n_heads} * s.k_dim;
    args.q = rows.q.data() + begin * args.q_stride;
    args.out_stride = width;
    args.out = out.data() + (begin - o.first) * width;
    args.scale = scale_of(s);
    args.soft_cap = o.soft_cap;
    args.window = o.window;
    attend(args, scratch, pool, o.isa);
  }
  return out;
}

/// The truth for some positions' rows, of the keys and values as the cache keeps them.
std::vector<double> truth(const Rows& rows, const Options& o, std::span<const int64_t> positions) {
  const Shape& s = rows.shape;
  const auto add_stored = [&](auto row, int64_t n, std::vector<double>& to) {
    const std::vector<double> stored = test::stored_row({row, row + n}, o.type);
    to.insert(to.end(), stored.begin(), stored.end());
  };
  std::vector<double> out;
  const std::vector<int32_t> map = kv_of_head(s);
  std::vector<std::vector<double>> all_keys;  // a KV head each
  std::vector<std::vector<double>> all_values;
  for (int64_t kv = 0; kv < s.n_kv_heads; ++kv) {
    auto& keys = all_keys.emplace_back();
    auto& values = all_values.emplace_back();
    for (int64_t i = 0; i < rows.n; ++i) {
      const auto k = rows.k.begin() + (i * s.n_kv_heads + kv) * s.k_dim;
      const auto v = rows.v.begin() + (i * s.n_kv_heads + kv) * s.v_dim;
      add_stored(k, s.k_dim, keys);
      add_stored(v, s.v_dim, values);
    }
  }
  for (const int64_t p : positions) {
    for (int h = 0; h < s.n_heads; ++h) {
      const std::vector<double>& keys = all_keys[static_cast<size_t>(map[static_cast<size_t>(h)])];
      const std::vector<double>& values = all_values[static_cast<size_t>(map[static_cast<size_t>(h)])];
      const auto q = rows.q.begin() + (p * s.n_heads + h) * s.k_dim;
      const std::vector<double> query(q, q + s.k_dim);
      const auto row =
          ref::attend({query, keys, values, s.k_dim, s.v_dim}, p, o.window, scale_of(s), o.soft_cap);
      out.insert(out.end(), row.begin(), row.end());
    }
  }
  return out;
}

std::vector<float> pick(const Rows& rows, const std::vector<float>& out, std::span<const int64_t> positions) {
  const int64_t width = int64_t{rows.shape.n_heads} * rows.shape.v_dim;
  std::vector<float> picked;
  for (const int64_t p : positions) {
    picked.insert(picked.end(), out.begin() + p * width, out.begin() + (p + 1) * width);
  }
  return picked;
}

constexpr std::array<Shape, 6> kShapes = {
    {{9, 3, 64, 64}, {5, 2, 64, 64}, {4, 1, 256, 256}, {8, 2, 128, 128}, {7, 7, 40, 20}, {60, 1, 36, 32}}};
constexpr std::array<KvType, 4> kTypes = {KvType::f16, KvType::f32, KvType::q8_0, KvType::q4_0};
constexpr std::array<int64_t, 10> kEdges = {0, 1, 62, 63, 64, 127, 128, 511, 512, 599};

TEST(Attention, MatchesTheTruth) {
  for (const Shape& shape : kShapes) {
    const Rows rows(shape, 600, 1);
    for (const KvType type : kTypes) {
      for (const float cap : {0.0F, 3.0F}) {
        Options o;
        o.type = type;
        o.soft_cap = cap;
        const std::vector<float> out = run(rows, o);
        EXPECT_LT(nmse(pick(rows, out, kEdges), truth(rows, o, kEdges)), 1e-12)
            << shape.n_heads << ' ' << shape.k_dim << ' ' << cap;
      }
    }
  }
}

TEST(Attention, TheComparerSeesAForgottenPosition) {
  const Rows rows(kShapes[0], 200, 2);
  Options o;
  const std::array<int64_t, 1> last = {199};
  const std::vector<double> right = truth(rows, o, last);
  o.window = 199;  // all but position 0
  EXPECT_GT(nmse(pick(rows, run(rows, o), last), right), 1e-9);
}

TEST(Attention, RoundingIsSmallAndThere) {
  struct Bounds {
    KvType type;
    double low, high;
  };
  const Rows rows(kShapes[0], 300, 3);
  const auto out_of = [&](KvType type) {
    Options o;
    o.type = type;
    return run(rows, o);
  };
  const std::vector<double> full = test::as_doubles(out_of(KvType::f32));
  for (const Bounds& b : {Bounds{KvType::f16, 1e-9, 1e-6}, Bounds{KvType::q8_0, 1e-6, 3e-4},
                          Bounds{KvType::q4_0, 1e-3, 1e-1}}) {
    const double error = nmse(out_of(b.type), full);
    EXPECT_GT(error, b.low) << cache_type_name(b.type);
    EXPECT_LT(error, b.high) << cache_type_name(b.type);
  }
}

/// A block's values are exact floats, so an f32 cache that holds them gives the same bits.
TEST(Attention, AQuantisedCacheIsAnF32CacheOfItsValues) {
  for (const Shape& shape : kShapes) {
    const Rows rows(shape, 130, 21);
    for (const KvType type : {KvType::q8_0, KvType::q4_0}) {
      Rows stored = rows;
      const auto round_heads = [&](std::vector<float>& x, int64_t width) {
        for (auto head = x.begin(); head != x.end(); head += width) {
          const std::vector<double> values = test::stored_row({head, head + width}, type);
          std::copy(values.begin(), values.end(), head);
        }
      };
      round_heads(stored.k, shape.k_dim);
      round_heads(stored.v, shape.v_dim);
      Options o;
      o.window = 67;
      o.type = type;
      const std::vector<float> quantised = run(rows, o);
      o.type = KvType::f32;
      EXPECT_TRUE(same_bits(quantised, run(stored, o))) << cache_type_name(type) << ' ' << shape.k_dim;
      EXPECT_FALSE(same_bits(quantised, run(rows, o)));
    }
  }
}

TEST(Attention, WindowsEndWhereTheySay) {
  const Rows rows({9, 3, 64, 64}, 700, 4);
  constexpr std::array<int64_t, 9> kPositions = {0, 5, 63, 64, 65, 511, 512, 575, 699};
  for (const int64_t window : {1, 2, 63, 64, 65, 128, 512, 699, 700, 5000}) {
    Options o;
    o.window = window;
    const std::vector<float> out = run(rows, o);
    EXPECT_LT(nmse(pick(rows, out, kPositions), truth(rows, o, kPositions)), 1e-12) << window;
  }
}

TEST(Attention, AWindowThatHidesNothingIsNoWindow) {
  const Rows rows({6, 2, 64, 64}, 600, 5);
  Options o;
  const std::vector<float> without = run(rows, o);
  o.window = 600;
  EXPECT_TRUE(same_bits(without, run(rows, o)));
  o.window = 599;
  EXPECT_FALSE(same_bits(without, run(rows, o)));
}

void expect_same_bits_however_run(const Shape& shape, int64_t n, std::span<const Isa> sets) {
  const Rows rows(shape, n, 6);
  for (const int64_t window : {int64_t{0}, int64_t{66}}) {
    for (const KvType type : kTypes) {
      Options o;
      o.window = window;
      o.type = type;
      const std::vector<float> expected = run(rows, o);
      const auto check = [&](const char* what, auto change) {
        Options changed = o;
        change(changed);
        EXPECT_TRUE(same_bits(expected, run(rows, changed))) << what << ' ' << shape.n_heads << ' ' << window;
      };
      for (const Isa isa : sets) check("isa", [&](Options& c) { c.isa = isa; });
      check("chunk 7", [](Options& c) { c.chunk = 7; });
      check("chunk 64", [](Options& c) { c.chunk = 64; });
      check("pages", [](Options& c) { c.page_seed = 9; });
      check("threads 3", [](Options& c) { c.n_threads = 3; });
      check("decode, 2 threads", [](Options& c) { c.chunk = 1, c.n_threads = 2, c.page_seed = 11; });
    }
  }
}

TEST(Attention, SameBitsForAnyChunksPagesThreadsAndSets) {
  for (const Shape& shape : kShapes) expect_same_bits_however_run(shape, 70, supported_isas());
}

/// Beyond a span, without the slow plain set.
TEST(Attention, SameBitsBeyondASpan) {
  for (const size_t i : {0U, 1U, 4U})
    expect_same_bits_however_run(kShapes[i], 600, supported_isas().subspan(1));
}

/// A few tokens deep in a context, whose spans threads share, against the same rows of a prompt.
void expect_shared_spans(const Rows& rows, KvType type) {
  Options o;
  o.type = type;
  o.first = rows.n - 3;
  o.chunk = 1;
  const std::vector<float> one = run(rows, o);
  for (const int n_threads : {2, 3, 4}) {
    o.n_threads = n_threads;
    EXPECT_TRUE(same_bits(one, run(rows, o)));
  }
  o.chunk = 3;
  EXPECT_TRUE(same_bits(one, run(rows, o)));
  o.first = 0;
  o.chunk = 512;
  const std::vector<float> prompt = run(rows, o);
  EXPECT_TRUE(same_bits(one, std::span(prompt).subspan(prompt.size() - one.size())));
}

TEST(Attention, LongDecodeSharesSpansAndKeepsTheBits) {
  const Rows rows({3, 1, 64, 64}, 5000, 7);
  for (const KvType type : {KvType::f16, KvType::q8_0, KvType::q4_0}) expect_shared_spans(rows, type);
}

/// A rank that has some of the heads gets the bits of the rank that has them all.
TEST(Attention, HeadsDoNotDependOnTheirNeighbours) {
  const Rows all({9, 3, 64, 64}, 150, 8);
  const std::vector<float> whole = run(all, {});
  KvCache cache = poisoned_cache({5, 2, 64, 64}, KvType::f16, 3);
  const std::vector<int32_t> pages = {2, 0, 1};
  const std::array<std::span<const int32_t>, 1> tables = {pages};
  for (int64_t p = 0; p < 150; ++p) {  // KV heads 1 and 2
    ASSERT_TRUE(cache.append(1, pages[static_cast<size_t>(p / kPageTokens)], p % kPageTokens,
                             all.k.data() + (p * 3 + 1) * 64, all.v.data() + (p * 3 + 1) * 64));
  }
  const std::array<AttentionToken, 1> tokens = {AttentionToken{149, 0}};
  const std::array<int32_t, 4> heads = {0, 1, 1, 1};  // query heads 5 … 8
  std::vector<float> out(4 * 64);
  ThreadPool pool(1);
  AttentionScratch scratch;
  attend({&cache, 1, tokens, tables, heads, all.q.data() + (149 * 9 + 5) * 64, 4 * 64, out.data(), 4 * 64,
          scale_of(all.shape), 0.0F, 0},
         scratch, pool);
  EXPECT_TRUE(same_bits(out, {whole.data() + (149 * 9 + 5) * 64, 4 * 64}));
}

/// Sequences in one call: in any order, at any depths, a prompt chunk among single tokens.
class AttentionOfType : public ::testing::TestWithParam<KvType> {};
INSTANTIATE_TEST_SUITE_P(Types, AttentionOfType, ::testing::ValuesIn(kTypes),
                         [](const auto& param) { return std::string(cache_type_name(param.param)); });

TEST_P(AttentionOfType, SequencesInOneCallGetTheBitsTheyGetAlone) {
  Options options;
  options.type = GetParam();
  const Shape shape{9, 3, 64, 64};
  const std::array<int64_t, 4> lengths = {1, 64, 65, 700};
  std::vector<Rows> sequences;
  KvCache cache = poisoned_cache(shape, options.type, 40);
  std::vector<std::vector<int32_t>> pages;
  std::vector<int32_t> free_pages = page_table(40, 13);
  for (const int64_t n : lengths) {
    sequences.emplace_back(shape, n, 100 + static_cast<uint64_t>(n));
    auto& mine = pages.emplace_back();
    for (int64_t i = 0; i < ceil_div(n, kPageTokens); ++i) {
      mine.push_back(free_pages.back());
      free_pages.pop_back();
    }
    for (int64_t p = 0; p < n; ++p) ASSERT_TRUE(append_row(cache, sequences.back(), mine, p));
  }
  const std::vector<std::span<const int32_t>> tables(pages.begin(), pages.end());
  const std::vector<AttentionToken> tokens = {{699, 3}, {0, 0},  {40, 1}, {41, 1},
                                              {42, 1},  {63, 1}, {64, 2}, {5, 3}};
  const std::vector<int32_t> heads = kv_of_head(shape);
  constexpr int64_t kWidth = 9 * 64;
  std::vector<float> q;
  for (const AttentionToken& t : tokens) {
    const auto row = sequences[static_cast<size_t>(t.sequence)].q.begin() + t.position * kWidth;
    q.insert(q.end(), row, row + kWidth);
  }
  for (const int n_threads : {1, 2}) {
    std::vector<float> out(tokens.size() * kWidth);
    ThreadPool pool(n_threads);
    AttentionScratch scratch;
    attend({&cache, 1, tokens, tables, heads, q.data(), kWidth, out.data(), kWidth, scale_of(shape), 0.0F, 0},
           scratch, pool);
    for (size_t i = 0; i < tokens.size(); ++i) {
      const std::vector<float> alone = run(sequences[static_cast<size_t>(tokens[i].sequence)], options);
      EXPECT_TRUE(
          same_bits(std::span(out).subspan(i * kWidth, kWidth),
                    std::span(alone).subspan(static_cast<size_t>(tokens[i].position) * kWidth, kWidth)))
          << i;
    }
  }
}

/// Later tokens' values must not leak, even where they are infinite in the cache.
TEST_P(AttentionOfType, ALaterInfinityDoesNotReachEarlierTokens) {
  Options options;
  options.type = GetParam();
  Rows rows({3, 1, 64, 64}, 80, 15);
  const std::vector<float> before = run(rows, options);
  const Shape& s = rows.shape;
  KvCache cache = poisoned_cache(s, options.type, 2);
  const std::vector<int32_t> pages = {0, 1};
  const float too_large = options.type == KvType::f32 ? std::numeric_limits<float>::infinity() : 1e30F;
  for (int64_t d = 0; d < 64; ++d) rows.k[79 * 64 + d] = rows.v[79 * 64 + d] = too_large;
  for (int64_t p = 0; p < 80; ++p) EXPECT_EQ(append_row(cache, rows, pages, p), p != 79);
  std::vector<AttentionToken> tokens;
  for (int32_t p = 0; p < 80; ++p) tokens.push_back({p, 0});
  const std::array<std::span<const int32_t>, 1> tables = {pages};
  const std::vector<int32_t> heads = kv_of_head(s);
  std::vector<float> out(80 * 192);
  ThreadPool pool(1);
  AttentionScratch scratch;
  attend({&cache, 1, tokens, tables, heads, rows.q.data(), 192, out.data(), 192, scale_of(s), 0.0F, 0},
         scratch, pool);
  EXPECT_TRUE(same_bits({before.data(), 79 * 192}, {out.data(), 79 * 192}));
  EXPECT_FALSE(std::isfinite(out[79 * 192]));
}

}  // namespace
}  // namespace tandem
