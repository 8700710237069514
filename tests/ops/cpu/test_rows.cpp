// Norms, rotation, gates and the router against ops/ref, on every instruction set with the same bits.
#include <gtest/gtest.h>

#include <array>
#include <functional>

#include "ops/core/fixed_point.h"
#include "ops/core/head_mix.h"
#include "ops/cpu/elementwise.h"
#include "ops/cpu/norm.h"
#include "ops/cpu/rope.h"
#include "ops/ref/rows.h"
#include "tests/ops/cpu/compare.h"

namespace tandem {
namespace {

using test::as_doubles;
using test::nmse;
using test::Random;
using test::same_bits;

constexpr double kTolerance = 1e-12;
constexpr std::array<int64_t, 8> kLengths = {1, 15, 16, 17, 64, 100, 576, 4099};

/// Runs f on every instruction set, checks that all give the same bits, and returns them.
std::vector<float> on_every_isa(const std::function<std::vector<float>(Isa)>& f) {
  const std::vector<float> first = f(supported_isas().front());
  for (const Isa isa : supported_isas()) EXPECT_TRUE(same_bits(first, f(isa))) << isa_name(isa);
  return first;
}

TEST(RmsNorm, MatchesTheTruth) {
  Random random(2);
  for (const int64_t n : kLengths) {
    for (const float deviation : {1e-3F, 1.0F, 1e6F}) {
      const std::vector<float> x = random.normals(static_cast<size_t>(n), deviation);
      const std::vector<float> weight = random.normals(static_cast<size_t>(n));
      for (const bool weighted : {true, false}) {
        const std::vector<float> out = on_every_isa([&](Isa isa) {
          std::vector<float> y(x.size());
          EXPECT_TRUE(rms_norm(x.data(), weighted ? weight.data() : nullptr, n, 1e-5F, y.data(), isa));
          return y;
        });
        const auto truth =
            ref::rms_norm(as_doubles(x), weighted ? std::span(weight) : std::span<float>(), 1e-5F);
        EXPECT_LT(nmse(out, truth), kTolerance) << n;
      }
    }
  }
}

TEST(RmsNorm, FlagsWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf(""), -3e38F * 10.0F}) {
    for (const size_t where : {size_t{0}, size_t{63}, size_t{99}}) {
      std::vector<float> x = Random(3).normals(100);
      x[where] = bad;
      for (const Isa isa : supported_isas()) {
        std::vector<float> y(100);
        EXPECT_FALSE(rms_norm(x.data(), nullptr, 100, 1e-5F, y.data(), isa));
      }
    }
  }
}

struct Slots {
  Slots(Random& random, int n_ranks, int64_t n_tokens, int64_t n_cols) {
    for (int rank = 0; rank < n_ranks; ++rank) {
      auto& slot = memory.emplace_back();
      for (int64_t i = 0; i < n_tokens * n_cols; ++i) {
        slot.push_back(static_cast<int64_t>(random.normal(50.0F) * kFixedPointScale));
      }
    }
    for (const auto& slot : memory) pointers.push_back(slot.data());
  }
  std::vector<std::vector<int64_t>> memory;
  std::vector<const int64_t*> pointers;
};

TEST(ReduceAddNorm, SumsNormsAndPads) {
  constexpr int64_t kTokens = 3;
  constexpr int64_t kCols = 100;
  constexpr int64_t kStride = 128;
  Random random(4);
  for (const int n_ranks : {0, 1, 3}) {
    for (const bool post_norm : {false, true}) {
      const Slots slots(random, n_ranks, kTokens, kCols);
      const std::vector<float> residual = random.normals(kTokens * kCols, 3.0F);
      const std::vector<float> weight = random.normals(kCols);
      const std::vector<float> post_weight = random.normals(kCols);
      const std::vector<float> bias = random.normals(kCols);
      const std::vector<float> both = on_every_isa([&](Isa isa) {
        std::vector<float> r = residual;
        std::vector<float> out(kTokens * kStride, std::nanf(""));
        ReduceAddNorm args;
        args.n_cols = args.slot_stride = args.residual_stride = kCols;
        args.slots = slots.pointers.data();
        args.n_ranks = n_ranks;
        args.bias = bias.data();
        args.post_norm_weight = post_norm ? post_weight.data() : nullptr;
        args.residual = r.data();
        args.norm_weight = weight.data();
        args.out = out.data();
        args.out_stride = args.out_padded_cols = kStride;
        args.eps = 1e-6F;
        EXPECT_TRUE(reduce_add_norm(args, {0, 2}, isa));  // cut anywhere
        EXPECT_TRUE(reduce_add_norm(args, {2, kTokens}, isa));
        r.insert(r.end(), out.begin(), out.end());
        return r;
      });
      for (int64_t t = 0; t < kTokens; ++t) {
        std::vector<double> sum(kCols, 0.0);
        for (const auto& slot : slots.memory) {
          for (size_t i = 0; i < kCols; ++i)
            sum[i] += static_cast<double>(slot[t * kCols + i]) / kFixedPointScale;
        }
        if (n_ranks > 0) {
          for (size_t i = 0; i < kCols; ++i) sum[i] += bias[i];
          if (post_norm) sum = ref::rms_norm(sum, post_weight, 1e-6F);
        }
        for (size_t i = 0; i < kCols; ++i) sum[i] += residual[t * kCols + i];
        const auto row = both.begin() + t * kCols;
        EXPECT_LT(nmse(std::vector<float>(row, row + kCols), sum), kTolerance);
        const auto normed = both.begin() + kTokens * kCols + t * kStride;
        EXPECT_LT(nmse(std::vector<float>(normed, normed + kCols), ref::rms_norm(sum, weight, 1e-6F)),
                  kTolerance);
        EXPECT_TRUE(std::all_of(normed + kCols, normed + kStride, [](float x) { return x == 0.0F; }));
      }
    }
  }
}

TEST(ReduceAddNorm, TheBitsDoNotDependOnHowRanksShareTheSum) {
  constexpr int64_t kCols = 70;
  Random random(5);
  const Slots three(random, 3, 1, kCols);
  std::vector<int64_t> total(kCols, 0);
  for (const auto& slot : three.memory) {
    for (size_t i = 0; i < kCols; ++i) total[i] += slot[i];
  }
  const int64_t* one = total.data();
  const std::vector<float> residual = random.normals(kCols);
  const auto run = [&](const int64_t* const* slots, int n_ranks) {
    std::vector<float> r = residual;
    ReduceAddNorm args;
    args.n_cols = args.slot_stride = args.residual_stride = kCols;
    args.slots = slots;
    args.n_ranks = n_ranks;
    args.residual = r.data();
    EXPECT_TRUE(reduce_add_norm(args, {0, 1}));
    return r;
  };
  EXPECT_TRUE(same_bits(run(three.pointers.data(), 3), run(&one, 1)));
}

TEST(ReduceAddNorm, FlagsARowThatIsNotFinite) {
  std::vector<float> residual = Random(6).normals(32);
  residual[7] = std::nanf("");
  ReduceAddNorm args;
  args.n_cols = args.residual_stride = 32;
  args.residual = residual.data();
  EXPECT_FALSE(reduce_add_norm(args, {0, 1}));
}

TEST(ReduceFloats, AddsAndScales) {
  Random random(7);
  const std::vector<float> row = random.normals(37);
  const std::vector<float> zeros(37, 0.0F);
  const std::array<const float*, 3> slots = {zeros.data(), row.data(), zeros.data()};
  const std::vector<float> out = on_every_isa([&](Isa isa) {
    std::vector<float> y(37);
    reduce_floats(slots.data(), 3, 37, 24.0F, y.data(), isa);
    return y;
  });
  for (size_t i = 0; i < 37; ++i) EXPECT_EQ(out[i], row[i] * 24.0F);
}

TEST(Rope, MatchesTheTruth) {
  constexpr int64_t kHeads = 3;
  Random random(8);
  for (const int64_t head_dim : {int64_t{64}, int64_t{80}, int64_t{20}}) {
    for (const int64_t n_rot : {head_dim, head_dim / 2}) {
      for (const bool halves : {false, true}) {
        for (const int32_t position : {0, 1, 63, 4097, 1048575}) {
          std::vector<double> frequencies;
          for (int64_t i = 0; i < n_rot; i += 2) {
            frequencies.push_back(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(n_rot)));
          }
          const double magnitude = 1.07;
          RopeTable table;
          table.fill(std::array{position}, frequencies, magnitude);
          const std::vector<float> x = random.normals(static_cast<size_t>(kHeads * head_dim));
          const std::vector<float> weight = random.normals(static_cast<size_t>(head_dim));
          for (const bool normed : {false, true}) {
            const std::vector<float> out = on_every_isa([&](Isa isa) {
              std::vector<float> y = x;
              rope({y.data(), kHeads, head_dim, normed ? weight.data() : nullptr, 1e-6F,
                    halves ? RopeStyle::halves : RopeStyle::adjacent, table.cosines(0), table.sines(0),
                    table.n_pairs()},
                   isa);
              return y;
            });
            std::vector<double> truth;
            for (int64_t h = 0; h < kHeads; ++h) {
              std::vector<double> head(x.begin() + h * head_dim, x.begin() + (h + 1) * head_dim);
              if (normed) head = ref::rms_norm(head, weight, 1e-6F);
              const auto rotated = ref::rope(head, position, frequencies, magnitude, halves);
              truth.insert(truth.end(), rotated.begin(), rotated.end());
            }
            EXPECT_LT(nmse(out, truth), kTolerance) << head_dim << ' ' << n_rot << ' ' << position;
          }
        }
      }
    }
  }
}

TEST(Rope, TablesDependOnThePositionAlone) {
  const std::vector<double> frequencies = {1.0, 0.1, 0.01};
  RopeTable alone;
  RopeTable among;
  alone.fill(std::array<int32_t, 1>{77}, frequencies);
  among.fill(std::array<int32_t, 3>{5, 77, 9000}, frequencies);
  EXPECT_TRUE(same_bits({alone.cosines(0), 3}, {among.cosines(1), 3}));
  EXPECT_TRUE(same_bits({alone.sines(0), 3}, {among.sines(1), 3}));
  EXPECT_FALSE(same_bits({alone.sines(0), 3}, {among.sines(0), 3}));
}

TEST(Rope, KeptRowsAreTheTables) {
  const std::vector<double> frequencies = {1.0, 0.1, 0.01};
  RopeRows rows(frequencies, 1.07);
  RopeTable table;
  for (const int32_t position : {9000, 0, 63, 64, 9000, 1}) {
    table.fill(std::array{position}, frequencies, 1.07);
    std::vector<float> expected;
    for (int64_t p = 0; p < table.n_pairs(); ++p) {
      expected.push_back(table.cosines(0)[p]);
      expected.push_back(table.sines(0)[p]);
    }
    EXPECT_TRUE(same_bits({rows.row(position), 6}, expected)) << position;
    EXPECT_FALSE(same_bits({rows.row(position + 1), 6}, expected)) << position;
  }
}

TEST(Gate, MatchesTheTruth) {
  Random random(9);
  for (const int64_t n : kLengths) {
    std::vector<float> g = random.normals(static_cast<size_t>(n), 4.0F);
    const std::vector<float> u = random.normals(static_cast<size_t>(n));
    if (n > 64) {
      g[3] = 120.0F;
      g[4] = -120.0F;
      g[5] = 1e6F;
      g[6] = 0.0F;
      g[7] = -1e-6F;
    }
    for (const Gate gate : {Gate::swiglu, Gate::geglu_tanh}) {
      const std::vector<float> out = on_every_isa([&](Isa isa) {
        std::vector<float> y(g.size());
        apply_gate(gate, g.data(), u.data(), n, y.data(), isa);
        return y;
      });
      std::vector<double> truth;
      for (size_t i = 0; i < g.size(); ++i) {
        truth.push_back((gate == Gate::swiglu ? ref::silu(g[i]) : ref::gelu_tanh(g[i])) * u[i]);
        EXPECT_NEAR(out[i], truth[i], 1e-6 * (1e-3 + std::abs(truth[i]))) << g[i];
      }
      EXPECT_LT(nmse(out, truth), kTolerance);
    }
  }
}

TEST(Gate, AnElementDependsOnItselfAlone) {
  const std::vector<float> g = Random(10).normals(100);
  const std::vector<float> u = Random(11).normals(100);
  std::vector<float> whole(100);
  std::vector<float> cut(100);
  apply_gate(Gate::swiglu, g.data(), u.data(), 100, whole.data());
  apply_gate(Gate::swiglu, g.data(), u.data(), 33, cut.data());
  apply_gate(Gate::swiglu, g.data() + 33, u.data() + 33, 67, cut.data() + 33);
  EXPECT_TRUE(same_bits(whole, cut));
}

TEST(SoftCap, MatchesTheTruthAtEveryScale) {
  Random random(12);
  for (const float deviation : {1e-4F, 1.0F, 20.0F, 1e4F}) {
    const std::vector<float> x = random.normals(333, deviation);
    const std::vector<float> out = on_every_isa([&](Isa isa) {
      std::vector<float> y = x;
      soft_cap_row(y.data(), 333, 30.0F, isa);
      return y;
    });
    std::vector<double> truth;
    for (const float a : x) truth.push_back(30.0 * std::tanh(a / 30.0));
    EXPECT_LT(nmse(out, truth), kTolerance) << deviation;
  }
}

TEST(SmallRows, ScaleAddAndAddScaled) {
  const std::vector<float> x = Random(13).normals(37);
  const std::vector<float> b = Random(14).normals(37);
  const std::vector<float> out = on_every_isa([&](Isa isa) {
    std::vector<float> y = x;
    scale_row(y.data(), 37, 25.3F, isa);
    add_row(y.data(), b.data(), 37, isa);
    add_scaled_row(y.data(), b.data(), 37, 0.3F, isa);
    return y;
  });
  for (size_t i = 0; i < 37; ++i) EXPECT_EQ(out[i], std::fma(b[i], 0.3F, x[i] * 25.3F + b[i]));
}

TEST(MixHeads, IsTheTransformOfEachRun) {
  for (int width = 1; width <= kMixMost; width *= 2) {
    const auto n = static_cast<size_t>(3 * width);
    const std::vector<float> x = Random(16).normals(n);
    const std::vector<float> out = on_every_isa([&](Isa isa) {
      std::vector<float> y = x;
      mix_heads(y.data(), 3 * width, width, 0.25F, isa);
      return y;
    });
    const auto truth = ref::walsh_hadamard(as_doubles(x), static_cast<size_t>(width), 0.25);
    EXPECT_LT(nmse(out, truth), kTolerance) << width;
  }
}

TEST(MixHeads, ScoresStayAndOutputsComeBack) {
  for (const size_t dim : {64, 80, 96, 112, 128, 192, 256}) {
    const auto n = static_cast<int64_t>(dim);
    const int width = mix_width(n);
    EXPECT_EQ(cached_mix(width) * read_mix(width) * static_cast<float>(width), 1.0F);
    EXPECT_LE(cached_mix(width) * static_cast<float>(width), 8.0F);  // what a key can grow by
    std::vector<float> q = Random(17).normals(dim);
    const std::vector<float> k = Random(18).normals(dim);
    std::vector<float> mixed = k;
    const auto score = [&](const std::vector<float>& key) {
      double sum = 0;
      for (size_t i = 0; i < dim; ++i) sum += static_cast<double>(q[i]) * static_cast<double>(key[i]);
      return sum;
    };
    const double truth = score(k);
    mix_heads(mixed.data(), n, width, cached_mix(width));
    mix_heads(q.data(), n, width, read_mix(width));
    EXPECT_NEAR(score(mixed), truth, 1e-4);
    EXPECT_GT(std::fabs(score(k) - truth), 1e-2);  // a key that isn't mixed
    mix_heads(mixed.data(), n, width, read_mix(width));
    EXPECT_LT(nmse(mixed, as_doubles(k)), kTolerance);
  }
}

TEST(Softmax, MatchesTheTruth) {
  const std::vector<float> x = Random(15).normals(77, 5.0F);
  const std::vector<float> out = on_every_isa([&](Isa isa) {
    std::vector<float> y = x;
    softmax_row(y.data(), 77, isa);
    return y;
  });
  EXPECT_LT(nmse(out, ref::softmax(as_doubles(x))), kTolerance);
}

TEST(Router, MatchesTheTruthInBothRules) {
  Random random(16);
  for (const int n_experts : {1, 8, 60, 128}) {
    for (const int n_used : {1, 2, 8}) {
      if (n_used > n_experts) continue;
      for (const bool normalize : {true, false}) {
        const std::vector<float> logits = random.normals(static_cast<size_t>(n_experts), 2.0F);
        const auto truth = ref::route(logits, n_used, normalize, 2.5);
        std::vector<int32_t> experts(static_cast<size_t>(n_used));
        const std::vector<float> weights = on_every_isa([&](Isa isa) {
          std::vector<float> w(static_cast<size_t>(n_used));
          EXPECT_TRUE(
              route({n_experts, n_used, normalize, 2.5F}, logits.data(), experts.data(), w.data(), isa));
          return w;
        });
        EXPECT_EQ(experts, truth.experts);
        EXPECT_LT(nmse(weights, truth.weights), kTolerance);
      }
    }
  }
}

TEST(Router, TiesGoToTheLowerIndexAndNanIsRefused) {
  std::vector<float> logits = {1.0F, 3.0F, 2.0F, 3.0F, 3.0F, 2.0F};
  std::vector<int32_t> experts(4);
  std::vector<float> weights(4);
  ASSERT_TRUE(route({6, 4, true, 1.0F}, logits.data(), experts.data(), weights.data()));
  EXPECT_EQ(experts, (std::vector<int32_t>{1, 3, 4, 2}));
  logits[5] = std::nanf("");
  EXPECT_FALSE(route({6, 4, true, 1.0F}, logits.data(), experts.data(), weights.data()));
}

}  // namespace
}  // namespace tandem
