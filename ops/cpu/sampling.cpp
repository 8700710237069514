#include "ops/cpu/sampling.h"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "ops/core/check.h"
#include "ops/core/range.h"
#include "ops/cpu/kernels/row_kernels.h"

namespace tandem {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

}  // namespace

Candidate find_best(const float* logits, int64_t n, int32_t first_id, Isa isa) {
  return sampling_kernels(isa).find_best(logits, n, first_id);
}

int64_t sum_exp_fixed(const float* logits, int64_t n, float max, float inverse_temperature, Isa isa) {
  require(n <= int64_t{1} << 22, "too many tokens for a 64-bit sum", n);
  return sampling_kernels(isa).sum_exp(logits, n, max, inverse_temperature);
}

int64_t exp_fixed(float logit, float max, float inverse_temperature, Isa isa) {
  return sampling_kernels(isa).sum_exp(&logit, 1, max, inverse_temperature);
}

int find_top_k(const float* logits, int64_t n, int32_t first_id, int k, Candidate* out, Isa isa) {
  require(k >= 0 && k <= kMaxTopK, "top-k", k);
  if (k == 0) return 0;
  const SamplingKernels& kernels = sampling_kernels(isa);
  // Tokens above the k-th best so far gather behind the k kept ones until the room is full; then the best k
  // are kept and the bar rises. Ids ascend, so a later token that only equals the bar is never before a kept
  // one.
  constexpr int64_t kRoom = 1024;
  std::vector<Candidate> pool;
  pool.reserve(static_cast<size_t>(k) + kRoom);
  std::array<int32_t, kRoom> found{};
  const auto kept = static_cast<std::ptrdiff_t>(k);
  float bar = kNone;
  for (int64_t next = 0; next < n;) {
    const int64_t room =
        pool.size() < static_cast<size_t>(k) ? std::min<int64_t>(kRoom, 16 * ceil_div(k, 16)) : kRoom;
    const int64_t count = kernels.find_above(logits, next, n, bar, room, found.data(), &next);
    for (size_t i = 0; i < static_cast<size_t>(count); ++i)
      pool.push_back({logits[found[i]], first_id + found[i]});
    if (pool.size() <= static_cast<size_t>(k)) continue;
    std::nth_element(pool.begin(), pool.begin() + kept - 1, pool.end(), before);
    pool.resize(static_cast<size_t>(k));
    bar = pool.back().score;
  }
  std::sort(pool.begin(), pool.end(), before);
  std::copy(pool.begin(), pool.end(), out);
  return static_cast<int>(pool.size());
}

float gumbel_noise(uint64_t seed, uint64_t position, int32_t id, Isa isa) {
  std::array<float, 16> noise{};
  sampling_kernels(isa).gumbel16(seed, position, id / 4 * 4, noise.data());
  return noise[static_cast<size_t>(id % 4)];
}

Candidate draw(const float* logits, int64_t n, int32_t first_id, const GumbelArgs& args, Isa isa) {
  return sampling_kernels(isa).draw(logits, n, first_id, args);
}

Candidate draw(std::span<const Candidate> candidates, const GumbelArgs& args, Isa isa) {
  const SamplingKernels& kernels = sampling_kernels(isa);
  Candidate best{kNone, -1};
  for (const Candidate& candidate : candidates) {
    // One logit through the kernel of the whole shard: the same operations, so the same score.
    const Candidate drawn = kernels.draw(&candidate.score, 1, candidate.id, args);
    if (drawn.id >= 0 && (best.id < 0 || before(drawn, best))) best = drawn;
  }
  return best;
}

PhiloxWords philox4x32(PhiloxWords counter, uint32_t key_low, uint32_t key_high) {
  uint32_t a = counter.w[0];
  uint32_t b = counter.w[1];
  uint32_t c = counter.w[2];
  uint32_t d = counter.w[3];
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53U} * a;
    const uint64_t p1 = uint64_t{0xCD9E8D57U} * c;
    a = static_cast<uint32_t>(p1 >> 32) ^ b ^ key_low;
    b = static_cast<uint32_t>(p1);
    c = static_cast<uint32_t>(p0 >> 32) ^ d ^ key_high;
    d = static_cast<uint32_t>(p0);
    key_low += 0x9E3779B9U;
    key_high += 0xBB67AE85U;
  }
  return {{a, b, c, d}};
}

}  // namespace tandem
