// Sampling kernels for one instruction set (row_kernels.h). Sums are of integers and choices are total
// orders, so no result depends on how lanes or shards share the vocabulary.
#pragma once

#include "ops/cpu/kernels/row_kernels.h"
#include "ops/cpu/kernels/vector_math.h"
#include "ops/cpu/simd.h"

namespace tandem {

template <class Tag>
struct SamplingImpl {
  using F = F32x16<Tag>;
  using I = I32x16<Tag>;
  static constexpr float kNone = -__builtin_inff();

  /// Sixteen values, -infinity from `count` on.
  [[gnu::always_inline]] static F load_or_none(const float* p, int64_t count) {
    if (count >= 16) return F::load(p);
    const F lanes = to_float(lane_numbers<Tag>());
    return select(less(lanes, F::broadcast(static_cast<float>(count))),
                  F::load_partial(p, static_cast<int>(count)), F::broadcast(kNone));
  }

  /// The best of running per-lane bests: the highest score, the lowest id among equals. Ids of one lane
  /// ascend, so a lane holds its first best when it is replaced by greater scores only.
  struct Best {
    F score = F::broadcast(kNone);
    F group = F::broadcast(-1.0F);  // number of the group of sixteen; exact below 2^24

    [[gnu::always_inline]] void offer(F scores, float number) {
      const Mask16<Tag> better = less(score, scores);
      score = select(better, scores, score);
      group = select(better, F::broadcast(number), group);
    }
    [[gnu::always_inline]] Candidate result(int32_t first_id) const {
      alignas(64) float scores[16];
      alignas(64) float groups[16];
      score.store(scores);
      group.store(groups);
      Candidate best{kNone, -1};
      for (int lane = 0; lane < 16; ++lane) {
        if (groups[lane] < 0.0F) continue;
        const int32_t id = first_id + static_cast<int32_t>(groups[lane]) * 16 + lane;
        if (best.id < 0 || scores[lane] > best.score || (scores[lane] == best.score && id < best.id)) {
          best = {scores[lane], id};
        }
      }
      return best;
    }
  };

  static Candidate find_best(const float* logits, int64_t n, int32_t first_id) {
    Best best;
    float number = 0.0F;
    for (int64_t i = 0; i < n; i += 16, number += 1.0F) best.offer(load_or_none(logits + i, n - i), number);
    return best.result(first_id);
  }

  static int64_t sum_exp(const float* logits, int64_t n, float max, float inverse_temperature) {
    // Adding 1.5 * 2^52 rounds a double below 2^51 to an integer, which then stands in its low bits.
    constexpr double kRound = 0x1.8p52;
    constexpr double kUnits = static_cast<double>(int64_t{1} << kExpSumBits);
    const auto round_bits = __builtin_bit_cast(int64_t, kRound);
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i += 16) {
      alignas(64) float e[16];
      const F x = (load_or_none(logits + i, n - i) - F::broadcast(max)) * F::broadcast(inverse_temperature);
      exp(x).store(e);
      for (const float value : e) {
        sum += __builtin_bit_cast(int64_t, static_cast<double>(value) * kUnits + kRound) - round_bits;
      }
    }
    return sum;
  }

  static int64_t find_above(const float* x, int64_t begin, int64_t n, float threshold, int64_t room,
                            int32_t* found, int64_t* next) {
    const F limit = F::broadcast(threshold);
    int64_t count = 0;
    int64_t i = begin;
    for (; i < n && count + 16 <= room; i += 16) {
      uint32_t bits = mask_bits(less(limit, load_or_none(x + i, n - i)));
      for (; bits != 0; bits &= bits - 1) found[count++] = static_cast<int32_t>(i) + __builtin_ctz(bits);
    }
    *next = i < n ? i : n;
    return count;
  }

  /// Philox4x32-10 of four counters that differ in their first word: words[4c + w] is word w of counter c.
  [[gnu::always_inline]] static void philox4(uint64_t seed, uint64_t position, uint32_t first_counter,
                                             uint32_t* words) {
    uint32_t a[4];
    uint32_t b[4];
    uint32_t c[4];
    uint32_t d[4];
    for (uint32_t i = 0; i < 4; ++i) {
      a[i] = first_counter + i;
      b[i] = static_cast<uint32_t>(position);
      c[i] = static_cast<uint32_t>(position >> 32);
      d[i] = 0;
    }
    auto k0 = static_cast<uint32_t>(seed);
    auto k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int i = 0; i < 4; ++i) {
        const uint64_t p0 = uint64_t{0xD2511F53U} * a[i];
        const uint64_t p1 = uint64_t{0xCD9E8D57U} * c[i];
        const uint32_t next_a = static_cast<uint32_t>(p1 >> 32) ^ b[i] ^ k0;
        const uint32_t next_c = static_cast<uint32_t>(p0 >> 32) ^ d[i] ^ k1;
        b[i] = static_cast<uint32_t>(p1);
        d[i] = static_cast<uint32_t>(p0);
        a[i] = next_a;
        c[i] = next_c;
      }
      k0 += 0x9E3779B9U;
      k1 += 0xBB67AE85U;
    }
    for (int i = 0; i < 4; ++i) {
      words[4 * i] = a[i];
      words[4 * i + 1] = b[i];
      words[4 * i + 2] = c[i];
      words[4 * i + 3] = d[i];
    }
  }

  /// Noise of the ids first_id … first_id + 15; first_id is a multiple of 4.
  [[gnu::always_inline]] static F gumbel(uint64_t seed, uint64_t position, int32_t first_id) {
    uint32_t words[16];
    philox4(seed, position, static_cast<uint32_t>(first_id) / 4, words);
    // v and w = 1 - v from the word each, since the smaller of the two is the one that needs its relative
    // precision.
    alignas(64) float small[16];
    alignas(64) float rest[16];
    for (int i = 0; i < 16; ++i) {
      small[i] = static_cast<float>((static_cast<double>(words[i]) + 0.5) * 0x1p-32);
      rest[i] = static_cast<float>((static_cast<double>(~words[i]) + 0.5) * 0x1p-32);
    }
    const F v = F::load(small);
    const F w = F::load(rest);
    // log(1 - v) = log(w) + (what w's rounding lost) / w, where v is the smaller.
    const F lost = select(less(v, F::broadcast(0.5F)), (F::broadcast(1.0F) - w) - v, F::zero());
    return F::zero() - log_normal(F::zero() - (log_normal(w) + lost / w));
  }

  static void gumbel16(uint64_t seed, uint64_t position, int32_t first_id, float* out) {
    gumbel(seed, position, first_id).store(out);
  }

  static Candidate draw(const float* logits, int64_t n, int32_t first_id, const GumbelArgs& args) {
    // Groups of sixteen begin at a multiple of four in the ids, so that a group is four whole counters.
    const int64_t skipped = first_id % 4;
    const F temperature = F::broadcast(args.inverse_temperature);
    const F floor = F::broadcast(args.min_logit);
    Best best;
    float number = 0.0F;
    for (int64_t i = -skipped; i < n; i += 16, number += 1.0F) {
      F x;
      if (i >= 0) {
        x = load_or_none(logits + i, n - i);
      } else {
        alignas(64) float shifted[16];
        for (int64_t lane = 0; lane < 16; ++lane) {
          shifted[lane] = i + lane >= 0 && i + lane < n ? logits[i + lane] : kNone;
        }
        x = F::load(shifted);
      }
      const F score =
          fma(x, temperature, gumbel(args.seed, args.position, first_id + static_cast<int32_t>(i)));
      best.offer(select(less(x, floor), F::broadcast(kNone), score), number);
    }
    return best.result(first_id - static_cast<int32_t>(skipped));
  }
};

template <class Tag>
const SamplingKernels& sampling_kernels_of() {
  using Impl = SamplingImpl<Tag>;
  static constexpr SamplingKernels kTable = {Impl::find_best, Impl::sum_exp, Impl::find_above, Impl::gumbel16,
                                             Impl::draw};
  return kTable;
}

}  // namespace tandem
