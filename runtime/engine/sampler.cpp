#include "runtime/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <unordered_map>

#include "ops/core/error.h"

namespace tandem {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr int kNucleusCandidates = 256;  // sent by each rank when top-p runs over the whole vocabulary

/// How many of a shard's best tokens a row needs to be seen by everyone.
int n_candidates(const SamplingParams& p) {
  if (p.greedy()) return 1;
  if (p.top_k > 0 && p.top_k <= kMaxTopK) return p.top_k;
  return p.top_p < 1.0f ? kNucleusCandidates : 1;
}

GumbelArgs gumbel(const SamplingParams& p, uint64_t position, float min_logit) {
  return {1.0f / p.temperature, min_logit, p.seed, position};
}

/// The lowest logit that min-p keeps.
float min_p_floor(const SamplingParams& p, float max) {
  return p.min_p > 0.0f ? max + std::log(p.min_p) : kNone;
}

/// How many of the sorted `candidates` make up top_p of `total` (at least one); −1 where all of them don't
/// reach it.
int64_t nucleus_size(std::span<const Candidate> candidates, float top_p, int64_t total) {
  const double wanted = static_cast<double>(top_p) * static_cast<double>(total);
  int64_t sum = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    sum += exp_fixed(candidates[i].score, candidates[0].score, 1.0f);
    if (static_cast<double>(sum) >= wanted) return static_cast<int64_t>(i) + 1;
  }
  return -1;
}

int64_t total_of(std::span<const Candidate> candidates) {
  int64_t sum = 0;
  for (const Candidate& c : candidates) sum += exp_fixed(c.score, candidates[0].score, 1.0f);
  return sum;
}

}  // namespace

/// A row on its way: what is known of it on every rank.
struct Sampler::Pending {
  enum class State : uint8_t { done, needs_sum, needs_draw, needs_everything };
  const SampleRow* row = nullptr;
  std::vector<float> adjusted;  // the shard's logits after bias and penalties, where there are any
  std::span<const float> logits;
  std::vector<Candidate> candidates;  // all ranks' best, in order
  size_t n_complete = 0;              // of which so many are surely the whole vocabulary's best
  State state = State::done;
  float min_logit = kNone;
  int32_t token = -1;
};

void Sampler::adjust(const SampleRow& row, std::vector<float>& logits) const {
  const SamplingParams& p = *row.params;
  for (const LogitBias& bias : p.bias) {
    if (vocab_.contains(bias.token)) logits[static_cast<size_t>(bias.token - vocab_.begin)] += bias.bias;
  }
  if (!p.has_penalties()) return;
  std::span<const int32_t> recent = row.history;
  if (p.repeat_last_n >= 0 && recent.size() > static_cast<size_t>(p.repeat_last_n)) {
    recent = recent.last(static_cast<size_t>(p.repeat_last_n));
  }
  std::unordered_map<int32_t, int> counts;
  for (const int32_t token : recent) {
    if (vocab_.contains(token)) ++counts[token];
  }
  for (const auto& [token, count] : counts) {
    float& logit = logits[static_cast<size_t>(token - vocab_.begin)];
    logit = logit <= 0.0f ? logit * p.repeat_penalty : logit / p.repeat_penalty;
    logit -= static_cast<float>(count) * p.frequency_penalty + p.presence_penalty;
  }
}

std::vector<int32_t> Sampler::sample(std::span<const SampleRow> rows) {
  std::vector<Pending> pending(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    pending[i].row = &rows[i];
    pending[i].logits = rows[i].logits;
    if (!rows[i].params->bias.empty() || rows[i].params->has_penalties()) {
      pending[i].adjusted.assign(rows[i].logits.begin(), rows[i].logits.end());
      adjust(rows[i], pending[i].adjusted);
      pending[i].logits = pending[i].adjusted;
    }
  }
  exchange_candidates(pending);
  for (Pending& row : pending) resolve(row);
  exchange_sums(pending);
  exchange_draws(pending);
  exchange_everything(pending);
  std::vector<int32_t> tokens;
  tokens.reserve(pending.size());
  for (const Pending& row : pending) tokens.push_back(row.token);
  return tokens;
}

/// Every rank sends each row's best candidates; each merges them in order.
void Sampler::exchange_candidates(std::vector<Pending>& rows) {
  size_t n_bytes = 0;
  for (const Pending& row : rows) {
    n_bytes += sizeof(int64_t) + static_cast<size_t>(n_candidates(*row.row->params)) * sizeof(Candidate);
  }
  std::byte* out = communicator_.contribution(n_bytes);
  for (const Pending& row : rows) {
    const int k = n_candidates(*row.row->params);
    auto* list = reinterpret_cast<Candidate*>(out + sizeof(int64_t));
    const auto n = static_cast<int64_t>(row.logits.size());
    const auto first = static_cast<int32_t>(vocab_.begin);
    int64_t found = 0;
    if (k == 1) {
      list[0] = find_best(row.logits.data(), n, first);
      found = list[0].id >= 0 ? 1 : 0;
    } else {
      found = find_top_k(row.logits.data(), n, first, k, list);
    }
    std::memcpy(out, &found, sizeof(found));
    out += sizeof(int64_t) + static_cast<size_t>(k) * sizeof(Candidate);
  }
  const auto slots = communicator_.publish();
  size_t offset = 0;
  for (Pending& row : rows) {
    const auto k = static_cast<size_t>(n_candidates(*row.row->params));
    Candidate cut{kNone, -1};  // below this a rank may have had more than it sent
    for (const std::byte* slot : slots) {
      int64_t found = 0;
      std::memcpy(&found, slot + offset, sizeof(found));
      const auto* list = reinterpret_cast<const Candidate*>(slot + offset + sizeof(int64_t));
      row.candidates.insert(row.candidates.end(), list, list + found);
      if (static_cast<size_t>(found) == k && (cut.id < 0 || before(list[found - 1], cut)))
        cut = list[found - 1];
    }
    std::sort(row.candidates.begin(), row.candidates.end(), before);
    row.n_complete = row.candidates.size();
    while (cut.id >= 0 && row.n_complete > 0 && before(cut, row.candidates[row.n_complete - 1]))
      --row.n_complete;
    offset += sizeof(int64_t) + k * sizeof(Candidate);
  }
}

/// Decides a row from its candidates, or says what else it needs.
void Sampler::resolve(Pending& row) const {
  const SamplingParams& p = *row.row->params;
  if (row.candidates.empty() || !std::isfinite(row.candidates[0].score)) {
    throw Error(ExitCode::bad_data, "no token has a finite score",
                "the file may be damaged, or a bias excludes every token");
  }
  const float max = row.candidates[0].score;
  if (p.greedy()) {
    row.token = row.candidates[0].id;
    return;
  }
  row.min_logit = min_p_floor(p, max);
  if (p.top_k > kMaxTopK) {
    row.state = Pending::State::needs_everything;
  } else if (p.top_k > 0) {
    std::span<const Candidate> kept(row.candidates);
    kept = kept.first(std::min(kept.size(), static_cast<size_t>(p.top_k)));
    if (p.top_p < 1.0f) kept = kept.first(static_cast<size_t>(nucleus_size(kept, p.top_p, total_of(kept))));
    row.token = draw(kept, gumbel(p, row.row->position, row.min_logit)).id;
  } else {
    row.state = p.top_p < 1.0f ? Pending::State::needs_sum : Pending::State::needs_draw;
  }
}

/// Top-p over the whole vocabulary: the exact sum of all probabilities, then the nucleus among the
/// candidates.
void Sampler::exchange_sums(std::vector<Pending>& rows) {
  std::vector<Pending*> mine;
  for (Pending& row : rows) {
    if (row.state == Pending::State::needs_sum) mine.push_back(&row);
  }
  if (mine.empty()) return;
  auto* out = reinterpret_cast<int64_t*>(communicator_.contribution(mine.size() * sizeof(int64_t)));
  for (size_t i = 0; i < mine.size(); ++i) {
    out[i] = sum_exp_fixed(mine[i]->logits.data(), static_cast<int64_t>(mine[i]->logits.size()),
                           mine[i]->candidates[0].score, 1.0f);
  }
  const auto slots = communicator_.publish();
  for (size_t i = 0; i < mine.size(); ++i) {
    Pending& row = *mine[i];
    int64_t total = 0;
    for (const std::byte* slot : slots) total += reinterpret_cast<const int64_t*>(slot)[i];
    const std::span<const Candidate> complete = std::span(row.candidates).first(row.n_complete);
    const SamplingParams& p = *row.row->params;
    const int64_t n = nucleus_size(complete, p.top_p, total);
    row.state = n < 0 ? Pending::State::needs_everything : Pending::State::done;
    if (n < 0) continue;
    row.token = draw(complete.first(static_cast<size_t>(n)), gumbel(p, row.row->position, row.min_logit)).id;
  }
}

/// Nothing cuts the vocabulary but min-p: the best of the shards' draws is the draw.
void Sampler::exchange_draws(std::vector<Pending>& rows) {
  std::vector<Pending*> mine;
  for (Pending& row : rows) {
    if (row.state == Pending::State::needs_draw) mine.push_back(&row);
  }
  if (mine.empty()) return;
  auto* out = reinterpret_cast<Candidate*>(communicator_.contribution(mine.size() * sizeof(Candidate)));
  for (size_t i = 0; i < mine.size(); ++i) {
    const Pending& row = *mine[i];
    out[i] =
        draw(row.logits.data(), static_cast<int64_t>(row.logits.size()), static_cast<int32_t>(vocab_.begin),
             gumbel(*row.row->params, row.row->position, row.min_logit));
  }
  const auto slots = communicator_.publish();
  for (size_t i = 0; i < mine.size(); ++i) {
    Candidate best{kNone, -1};
    for (const std::byte* slot : slots) {
      const Candidate& c = reinterpret_cast<const Candidate*>(slot)[i];
      if (c.id >= 0 && (best.id < 0 || before(c, best))) best = c;
    }
    mine[i]->token = best.id;
    mine[i]->state = Pending::State::done;
  }
}

/// What the candidates could not decide (a flat distribution, a huge top-k): every rank sees all logits.
void Sampler::exchange_everything(std::vector<Pending>& rows) {
  for (Pending& row : rows) {
    if (row.state != Pending::State::needs_everything) continue;
    const SamplingParams& p = *row.row->params;
    const auto n_local = static_cast<int64_t>(row.logits.size());
    const size_t n_bytes = sizeof(int64_t) * 2 + static_cast<size_t>(largest_shard_) * sizeof(float);
    std::byte* out = communicator_.contribution(n_bytes);
    std::memcpy(out, &n_local, sizeof(n_local));
    std::memcpy(out + sizeof(int64_t), &vocab_.begin, sizeof(int64_t));
    std::copy(row.logits.begin(), row.logits.end(), reinterpret_cast<float*>(out + 2 * sizeof(int64_t)));
    row.candidates.clear();
    for (const std::byte* slot : communicator_.publish()) {
      int64_t n = 0;
      int64_t first = 0;
      std::memcpy(&n, slot, sizeof(n));
      std::memcpy(&first, slot + sizeof(int64_t), sizeof(first));
      const auto* logits = reinterpret_cast<const float*>(slot + 2 * sizeof(int64_t));
      for (int64_t i = 0; i < n; ++i) {
        if (logits[i] > kNone) row.candidates.push_back({logits[i], static_cast<int32_t>(first + i)});
      }
    }
    std::sort(row.candidates.begin(), row.candidates.end(), before);
    std::span<const Candidate> kept(row.candidates);
    if (p.top_k > 0) kept = kept.first(std::min(kept.size(), static_cast<size_t>(p.top_k)));
    if (p.top_p < 1.0f) kept = kept.first(static_cast<size_t>(nucleus_size(kept, p.top_p, total_of(kept))));
    row.token = draw(kept, gumbel(p, row.row->position, row.min_logit)).id;
    row.state = Pending::State::done;
  }
}

}  // namespace tandem
