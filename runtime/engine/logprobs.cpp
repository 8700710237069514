// Logprobs of chosen tokens: two small exchanges, the likeliest logits and then the sum of all exponentials.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/core/check.h"
#include "runtime/engine/sampler.h"

namespace tandem {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

/// What a rank sends of a row, in front of its candidates.
struct RowHead {
  int64_t n_found = 0;
  float chosen = kNone;  // the chosen token's logit, on the rank that holds it
  float padding = 0.0f;
};

/// A row that wants logprobs.
struct Wanted {
  size_t row = 0;
  size_t n_sent = 0;  // candidates of each rank; one at least, for the maximum
  float chosen = kNone;
  std::vector<Candidate> best;  // all ranks', in order
  size_t n_bytes() const { return sizeof(RowHead) + n_sent * sizeof(Candidate); }
};

void write_row(const Wanted& wanted, std::span<const float> logits, Range vocab, int32_t token,
               std::byte* out) {
  RowHead head;
  auto* list = reinterpret_cast<Candidate*>(out + sizeof(head));
  head.n_found = find_top_k(logits.data(), static_cast<int64_t>(logits.size()),
                            static_cast<int32_t>(vocab.begin), static_cast<int>(wanted.n_sent), list);
  if (vocab.contains(token)) head.chosen = logits[static_cast<size_t>(token - vocab.begin)];
  std::memcpy(out, &head, sizeof(head));
}

void read_row(Wanted& wanted, const std::byte* slot) {
  RowHead head;
  std::memcpy(&head, slot, sizeof(head));
  const auto* list = reinterpret_cast<const Candidate*>(slot + sizeof(head));
  wanted.chosen = std::max(wanted.chosen, head.chosen);
  wanted.best.insert(wanted.best.end(), list, list + head.n_found);
}

}  // namespace

std::vector<ChoiceLogprobs> Sampler::logprobs(std::span<const SampleRow> rows,
                                              std::span<const int32_t> tokens) {
  require(rows.size() == tokens.size(), "a row has no token", rows.size(), tokens.size());
  std::vector<ChoiceLogprobs> out(rows.size());
  std::vector<Wanted> wanted;
  size_t n_bytes = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t n = rows[i].params->n_logprobs;
    if (n < 0) continue;
    require(n <= kMostLogprobs, "too many logprobs", n);
    wanted.push_back({.row = i, .n_sent = static_cast<size_t>(std::max(1, n)), .chosen = kNone, .best = {}});
    n_bytes += wanted.back().n_bytes();
  }
  if (wanted.empty()) return out;

  std::byte* mine = communicator_.contribution(n_bytes);
  for (const Wanted& w : wanted) {
    write_row(w, rows[w.row].logits, vocab_, tokens[w.row], mine);
    mine += w.n_bytes();
  }
  size_t offset = 0;
  const auto slots = communicator_.publish();
  for (Wanted& w : wanted) {
    for (const std::byte* slot : slots) read_row(w, slot + offset);
    std::sort(w.best.begin(), w.best.end(), before);
    offset += w.n_bytes();
  }

  auto* sums = reinterpret_cast<int64_t*>(communicator_.contribution(wanted.size() * sizeof(int64_t)));
  for (size_t i = 0; i < wanted.size(); ++i) {
    const std::span<const float> logits = rows[wanted[i].row].logits;
    sums[i] =
        sum_exp_fixed(logits.data(), static_cast<int64_t>(logits.size()), wanted[i].best[0].score, 1.0f);
  }
  const auto sum_slots = communicator_.publish();
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Wanted& w = wanted[i];
    int64_t total = 0;
    for (const std::byte* slot : sum_slots) total += reinterpret_cast<const int64_t*>(slot)[i];
    const double max = w.best[0].score;
    const double log_total = std::log(std::ldexp(static_cast<double>(total), -kExpSumBits));
    const auto logprob = [&](float logit) { return static_cast<double>(logit) - max - log_total; };
    out[w.row].chosen = logprob(w.chosen);
    const auto n = static_cast<size_t>(rows[w.row].params->n_logprobs);
    for (size_t j = 0; j < std::min(n, w.best.size()); ++j) {
      out[w.row].top.push_back({w.best[j].id, logprob(w.best[j].score)});
    }
  }
  return out;
}

}  // namespace tandem
