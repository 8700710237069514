// The sampling chain as a team of threads walks it: bias and penalties, top-k, top-p, min-p, temperature,
// draw; the same tokens as runtime/engine/sampler.cpp, from the same logits. On a GPU the team is a block
// (ops/cuda/sampling.cu); tests walk it with one thread. Nothing here is approximate: sums are integers, and
// where few candidates do not decide, all logits do.
//
// A Team has rank() and size() of its threads; sync(); add(p, v) and take(p), atomic on shared or device
// memory; best(key) and sum(v) over the team, returned to every thread; before(v), the sum over the threads
// of lower rank; and what sampling_math.h asks of a Math. Every thread of the team calls every function here.
#pragma once

#include <cstdint>

#include "ops/core/sampling_math.h"

namespace tandem::sampling {

/// What decides a row, and so what ranks must tell each other of it.
enum class Road : int32_t {
  best,        ///< greedy: each shard's best
  noise,       ///< nothing cuts the vocabulary: each shard's best by logit and noise
  candidates,  ///< top-k: each shard's best k
  everything,  ///< all logits
};

/// A slot's parameters, as kernels read them.
struct Chain {
  uint64_t seed = 0;
  Road road = Road::best;
  float inverse_temperature = 1.0F;
  float log_min_p = 0.0F;  ///< -infinity: off
  float top_p = 1.0F;      ///< 1: off
  int32_t top_k = 0;       ///< 0: off
  float repeat_penalty = 1.0F;
  float frequency_penalty = 0.0F;
  float presence_penalty = 0.0F;
  int32_t n_recent = 0;  ///< tokens that the penalties look back on; 0: there are none
  int32_t n_bias = 0;
  bool greedy = false;
};

struct Bias {
  int32_t token = 0;
  float bias = 0.0F;
};

/// A slot's room for bias entries.
inline constexpr int32_t kMostBias = 512;

/// The last tokens of a slot: position p at [p % kHistoryTokens].
inline constexpr int32_t kHistoryTokens = 4096;

/// Consecutive tokens' logits, as the shard of one rank: logits[0] is of token first_id.
struct Segment {
  const float* logits = nullptr;  // (n)
  int64_t n = 0;
  int32_t first_id = 0;
};

inline constexpr int kPool = 2048;
inline constexpr int kBins = 1024;

/// What a team shares.
struct Workspace {
  Key pool[kPool];
  int64_t bins[kBins];
  int32_t counts[kBins];
  int64_t sum_before;
  int32_t found;
  int32_t n_pool;
};

/// Some ranks' segments, of which a thread visits its share.
struct Segments {
  const Segment* all = nullptr;  // (n)
  int n = 0;

  /// visit(logit, id) for every token that may be chosen.
  template <class Team, class Visit>
  constexpr void each(const Team& team, Visit visit) const {
    constexpr int kAtOnce = 8;  // loads in flight
    for (int s = 0; s < n; ++s) {
      const Segment segment = all[s];
      for (int64_t i = team.rank(); i < segment.n; i += int64_t{kAtOnce} * team.size()) {
        float x[kAtOnce] = {};
        for (int k = 0; k < kAtOnce; ++k) {
          const int64_t at = i + int64_t{k} * team.size();
          x[k] = at < segment.n ? segment.logits[at] : -__builtin_inff();
        }
        for (int k = 0; k < kAtOnce; ++k) {
          if (is_chosen_from(x[k]))
            visit(x[k], segment.first_id + static_cast<int32_t>(i + int64_t{k} * team.size()));
        }
      }
    }
  }
};

/// Adds bias and penalties to the logits of the ids [begin, end): this team alone touches them. logits,
/// counts: of the shard, element 0 is of first_id; counts are zero before and after. bias: (n_bias), sorted
/// by token, those of one token in their order. ring: (kHistoryTokens). n_before: tokens of the sequence so
/// far.
template <class Team>
constexpr void adjust(const Team& team, const Chain& chain, const Bias* bias, const int32_t* ring,
                      int64_t n_before, int32_t begin, int32_t end, int32_t first_id, float* logits,
                      int32_t* counts) {
  const auto here = [&](int32_t token) { return token >= begin && token < end; };
  for (int i = team.rank(); i < chain.n_bias; i += team.size()) {
    const int32_t token = bias[i].token;
    if (!here(token) || (i > 0 && bias[i - 1].token == token)) continue;
    float& logit = logits[token - first_id];
    for (int k = i; k < chain.n_bias && bias[k].token == token; ++k) logit = Team::add(logit, bias[k].bias);
  }
  if (chain.n_recent == 0) return;
  team.sync();
  const int64_t n = n_before < chain.n_recent ? n_before : chain.n_recent;
  for (int64_t i = n_before - n + team.rank(); i < n_before; i += team.size()) {
    const int32_t token = ring[i % kHistoryTokens];
    if (here(token)) team.add(counts + (token - first_id), 1);
  }
  team.sync();
  for (int64_t i = n_before - n + team.rank(); i < n_before; i += team.size()) {
    const int32_t token = ring[i % kHistoryTokens];
    const int32_t count = here(token) ? team.take(counts + (token - first_id)) : 0;
    if (count == 0) continue;
    float x = logits[token - first_id];
    x = x <= 0.0F ? Team::mul(x, chain.repeat_penalty) : Team::div(x, chain.repeat_penalty);
    const float cost =
        Team::add(Team::mul(static_cast<float>(count), chain.frequency_penalty), chain.presence_penalty);
    logits[token - first_id] = Team::add(x, -cost);
  }
}

/// A token's key behind temperature and noise; kNoKey where min-p has cut it. floor: the lowest logit kept.
template <class Team>
constexpr Key drawn_key(const Chain& chain, uint64_t position, float floor, float logit, int32_t id) {
  if (logit < floor) return kNoKey;
  const float score = Team::fma(logit, chain.inverse_temperature, noise_of<Team>(chain.seed, position, id));
  return is_chosen_from(score) ? key_of(score, id) : kNoKey;
}

/// The best of the segments: by logit, or by logit and noise.
template <class Team>
constexpr Key best_of(const Team& team, const Segments& tokens, const Chain& chain, uint64_t position) {
  Key best = kNoKey;
  const bool by_noise = chain.road == Road::noise;
  tokens.each(team, [&](float logit, int32_t id) {
    const Key key =
        by_noise ? drawn_key<Team>(chain, position, -__builtin_inff(), logit, id) : key_of(logit, id);
    if (key > best) best = key;
  });
  return team.best(best);
}

/// pool[0 … n) in descending order.
template <class Team>
constexpr void sort_pool(const Team& team, Workspace& work, int n) {
  int n_sorted = 1;
  while (n_sorted < n) n_sorted *= 2;
  for (int i = n + team.rank(); i < n_sorted; i += team.size()) work.pool[i] = kNoKey;
  for (int width = 2; width <= n_sorted; width *= 2) {
    for (int distance = width / 2; distance > 0; distance /= 2) {
      team.sync();
      for (int t = team.rank(); t < n_sorted / 2; t += team.size()) {
        const int i = t / distance * 2 * distance + t % distance;
        const bool descending = (i & width) == 0;
        const Key a = work.pool[i];
        const Key b = work.pool[i + distance];
        if ((a < b) != descending) continue;
        work.pool[i] = b;
        work.pool[i + distance] = a;
      }
    }
  }
  team.sync();
}

/// Where a running sum first reaches what is wanted.
struct Crossing {
  int index = 0;       ///< as many as there are values: it never does
  int64_t before = 0;  ///< the sum in front of it
  int64_t total = 0;
};

/// value(i), i in [0, n), on top of `base`. wanted(sum of all values and base).
template <class Team, class Value, class Wanted>
constexpr Crossing find_crossing(const Team& team, Workspace& work, int n, int64_t base, Value value,
                                 Wanted wanted) {
  const int each = (n + team.size() - 1) / team.size();
  const int first = each * team.rank() < n ? each * team.rank() : n;
  const int last = first + each < n ? first + each : n;
  int64_t mine = 0;
  for (int i = first; i < last; ++i) mine += value(i);
  Crossing crossing{n, base, base + team.sum(mine)};
  const double goal = wanted(crossing.total);
  int64_t sum = base + team.before(mine);
  if (team.rank() == 0) work.found = n;
  team.sync();
  for (int i = first; i < last; ++i) {
    const int64_t next = sum + value(i);
    if (static_cast<double>(next) >= goal && (i == 0 || static_cast<double>(sum) < goal)) {
      work.found = i;
      work.sum_before = sum;
    }
    sum = next;
  }
  team.sync();
  crossing.index = work.found;
  if (crossing.index < n) crossing.before = work.sum_before;
  team.sync();  // found and sum_before are free again
  return crossing;
}

/// How far below the maximum, in 32nds: never falls while the logit does.
template <class Team>
constexpr int bin_of(float logit, float max) {
  const float steps = Team::mul(Team::add(max, -logit), 32.0F);
  return steps < static_cast<float>(kBins - 1) ? static_cast<int>(steps) : kBins - 1;
}

/// The tokens with the highest keys that together weigh what is wanted.
struct Cut {
  Key last = kNoKey;  ///< the lowest key taken
  int n_pool = -1;    ///< the keys taken stand in order in pool[0 … n_pool); -1: they don't
};

/// Tokens with lower keys than `limit` don't count. weigh(logit); wanted(sum of all weights).
template <class Team, class Weigh>
class Selection {
 public:
  constexpr Selection(const Team& team, Workspace& work, const Segments& tokens, float max, Key limit,
                      Weigh weigh)
      : team_(team), work_(work), tokens_(tokens), max_(max), limit_(limit), weigh_(weigh) {}

  template <class Wanted>
  constexpr Cut run(Wanted wanted) {
    const auto everyone = [](Key, int) { return true; };
    fill_bins(everyone, [](Key, int bin) { return bin; });
    const Crossing crossing = find_crossing(
        team_, work_, kBins, 0, [&](int i) { return work_.bins[i]; }, wanted);
    const int bin = crossing.index;
    if (bin == kBins) return {limit_, -1};
    const double goal = wanted(crossing.total);
    int64_t n_up_to = 0;
    for (int i = team_.rank(); i <= bin; i += team_.size()) n_up_to += work_.counts[i];
    n_up_to = team_.sum(n_up_to);
    if (n_up_to <= kPool) {
      const int n = collect([bin](Key, int b) { return b <= bin; });
      return {last_of(n, 0, goal), n_taken_};
    }
    const auto same_bin = [bin](Key, int b) { return b == bin; };
    if (work_.counts[bin] <= kPool) return {last_of(collect(same_bin), crossing.before, goal), -1};
    return {by_digits(bin, crossing.before, goal), -1};
  }

 private:
  template <class Visit>
  constexpr void each(Visit visit) const {
    tokens_.each(team_, [&](float logit, int32_t id) {
      const Key key = key_of(logit, id);
      if (key >= limit_) visit(logit, key, bin_of<Team>(logit, max_));
    });
  }

  template <class Takes, class Place>
  constexpr void fill_bins(Takes takes, Place place) {
    team_.sync();
    for (int i = team_.rank(); i < kBins; i += team_.size()) {
      work_.bins[i] = 0;
      work_.counts[i] = 0;
    }
    team_.sync();
    each([&](float logit, Key key, int bin) {
      if (!takes(key, bin)) return;
      team_.add(work_.bins + place(key, bin), weigh_(logit));
      team_.add(work_.counts + place(key, bin), 1);
    });
    team_.sync();
  }

  /// At most kPool keys to the pool, sorted.
  template <class Takes>
  constexpr int collect(Takes takes) {
    team_.sync();
    if (team_.rank() == 0) work_.n_pool = 0;
    team_.sync();
    each([&](float, Key key, int bin) {
      if (takes(key, bin)) work_.pool[team_.add(&work_.n_pool, 1)] = key;
    });
    team_.sync();
    const int n = work_.n_pool;
    sort_pool(team_, work_, n);
    return n;
  }

  /// Of the pool's n keys the one where the sum reaches the goal.
  constexpr Key last_of(int n, int64_t base, double goal) {
    const Crossing crossing = find_crossing(
        team_, work_, n, base, [&](int i) { return weigh_(score_of(work_.pool[i])); },
        [goal](int64_t) { return goal; });
    n_taken_ = crossing.index + 1;
    return work_.pool[crossing.index];
  }

  /// Where a bin holds too many: digit by digit of the keys, until few enough begin alike.
  constexpr Key by_digits(int bin, int64_t base, double goal) {
    Key begins = 0;
    for (int shift = 56;; shift -= 8) {
      const auto alike = [=](Key key, int b) {
        return b == bin && (shift == 56 || key >> (shift + 8) == begins);
      };
      fill_bins(alike, [shift](Key key, int) { return 255 - static_cast<int>(key >> shift & 0xffU); });
      const Crossing crossing = find_crossing(
          team_, work_, 256, base, [&](int i) { return work_.bins[i]; }, [goal](int64_t) { return goal; });
      base = crossing.before;
      begins = begins << 8 | static_cast<Key>(255 - crossing.index);
      if (work_.counts[crossing.index] > kPool) continue;
      return last_of(collect([=](Key key, int b) { return b == bin && key >> shift == begins; }), base, goal);
    }
  }

  const Team& team_;
  Workspace& work_;
  const Segments& tokens_;
  float max_;
  Key limit_;
  Weigh weigh_;
  int n_taken_ = 0;
};

/// The k best to pool[0 … returned), in order; k <= kPool. max: the highest logit.
template <class Team>
constexpr int find_top(const Team& team, Workspace& work, const Segments& tokens, float max, int k) {
  Selection selection(team, work, tokens, max, kNoKey, [](float) { return int64_t{1}; });
  const Cut cut = selection.run([k](int64_t) { return static_cast<double>(k); });
  if (cut.n_pool >= 0) return cut.n_pool;
  team.sync();
  if (team.rank() == 0) work.n_pool = 0;
  team.sync();
  tokens.each(team, [&](float logit, int32_t id) {
    const Key key = key_of(logit, id);
    if (key >= cut.last) work.pool[team.add(&work.n_pool, 1)] = key;
  });
  team.sync();
  const int n = work.n_pool;
  sort_pool(team, work, n);
  return n;
}

constexpr bool is_finite_score(Key key) {
  return key != kNoKey && score_of(key) < __builtin_inff();
}

inline constexpr int32_t kNoToken = -1;  ///< no token has a finite score

/// The token, from the ranks' candidates in pool[0 … n); kNoKey among them counts for nothing.
template <class Team>
constexpr int32_t choose_among(const Team& team, Workspace& work, const Chain& chain, uint64_t position,
                               int n) {
  sort_pool(team, work, n);
  const Key first = work.pool[0];
  if (!is_finite_score(first)) return kNoToken;
  if (chain.road != Road::candidates) return id_of(first);
  const float max = score_of(first);
  int64_t n_kept = 0;
  for (int i = team.rank(); i < n && i < chain.top_k; i += team.size())
    n_kept += work.pool[i] != kNoKey ? 1 : 0;
  n = static_cast<int>(team.sum(n_kept));
  if (chain.top_p < 1.0F) {
    const auto weight = [&](int i) { return weight_of<Team>(score_of(work.pool[i]), max); };
    const auto wanted = [&](int64_t total) {
      return static_cast<double>(chain.top_p) * static_cast<double>(total);
    };
    n = find_crossing(team, work, n, 0, weight, wanted).index + 1;
  }
  const float floor = Team::add(max, chain.log_min_p);
  Key best = kNoKey;
  for (int i = team.rank(); i < n; i += team.size()) {
    const Key key = drawn_key<Team>(chain, position, floor, score_of(work.pool[i]), id_of(work.pool[i]));
    if (key > best) best = key;
  }
  best = team.best(best);
  return best == kNoKey ? kNoToken : id_of(best);
}

/// The token, from all logits.
template <class Team>
constexpr int32_t choose_from_all(const Team& team, Workspace& work, const Chain& chain, uint64_t position,
                                  const Segments& tokens) {
  Key first = kNoKey;
  tokens.each(team, [&](float logit, int32_t id) {
    const Key key = key_of(logit, id);
    if (key > first) first = key;
  });
  first = team.best(first);
  if (!is_finite_score(first)) return kNoToken;
  if (chain.greedy) return id_of(first);
  const float max = score_of(first);
  Key limit = kNoKey;
  if (chain.top_k > 0) {
    Selection selection(team, work, tokens, max, limit, [](float) { return int64_t{1}; });
    limit = selection.run([&](int64_t) { return static_cast<double>(chain.top_k); }).last;
  }
  if (chain.top_p < 1.0F) {
    Selection selection(team, work, tokens, max, limit,
                        [max](float logit) { return weight_of<Team>(logit, max); });
    const auto wanted = [&](int64_t total) {
      return static_cast<double>(chain.top_p) * static_cast<double>(total);
    };
    limit = selection.run(wanted).last;
  }
  const float floor = Team::add(max, chain.log_min_p);
  Key best = kNoKey;
  tokens.each(team, [&](float logit, int32_t id) {
    if (key_of(logit, id) < limit) return;
    const Key key = drawn_key<Team>(chain, position, floor, logit, id);
    if (key > best) best = key;
  });
  best = team.best(best);
  return best == kNoKey ? kNoToken : id_of(best);
}

}  // namespace tandem::sampling
