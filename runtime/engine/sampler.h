// Picks the next tokens of a step from the ranks' vocabulary shards. Collective: every rank calls sample()
// with its shard's logits and gets the same tokens, because all decisions are made from the same exchanged
// bytes.
//
// The chain is llama.cpp's: bias and penalties, top-k, top-p, min-p, temperature, draw. The draw is the
// Gumbel-max trick, so it is exact over any candidate set and any shard can compute any token's noise.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "ops/core/range.h"
#include "ops/cpu/sampling.h"
#include "runtime/engine/sampling.h"

namespace tandem {

/// One token to choose.
struct SampleRow {
  std::span<const float> logits;  // (local vocabulary)
  const SamplingParams* params = nullptr;
  std::span<const int32_t> history;  // tokens so far, the prompt's included
  uint64_t position = 0;             ///< of the token to choose: the noise's counter
};

class Sampler {
 public:
  /// `vocab`: this rank's token ids. `largest_shard`: of all ranks, in tokens.
  Sampler(Communicator& communicator, Range vocab, int64_t largest_shard)
      : communicator_(communicator), vocab_(vocab), largest_shard_(largest_shard) {}

  /// The chosen token of every row. Throws Error(bad_data) where no token has a finite score.
  std::vector<int32_t> sample(std::span<const SampleRow> rows);

  /// The logprobs of the `tokens` that sample() chose, and of the likeliest, for every row whose parameters
  /// ask for them (the others get an empty entry). Collective; the same bits on every rank and however the
  /// vocabulary is cut.
  std::vector<ChoiceLogprobs> logprobs(std::span<const SampleRow> rows, std::span<const int32_t> tokens);

 private:
  struct Pending;
  void adjust(const SampleRow& row, std::vector<float>& logits) const;
  void exchange_candidates(std::vector<Pending>& rows);
  void resolve(Pending& row) const;
  void exchange_sums(std::vector<Pending>& rows);
  void exchange_draws(std::vector<Pending>& rows);
  void exchange_everything(std::vector<Pending>& rows);

  Communicator& communicator_;
  Range vocab_;
  int64_t largest_shard_;
};

}  // namespace tandem
