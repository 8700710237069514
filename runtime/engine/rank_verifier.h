// A check of the law that ranks never decide apart: the tokens that every rank has chosen are compared while
// the engine runs (--verify-ranks). For tests, and for who hunts such a bug. Used by
// runtime/engine/engine.cpp on every rank.
#pragma once

#include <cstdint>
#include <span>

#include "comm/communicator.h"

namespace tandem {

class RankVerifier {
 public:
  /// `every`: steps from one comparison to the next, the same on every rank; 0: there is none.
  RankVerifier(Communicator& communicator, int64_t every) : communicator_(communicator), every_(every) {}

  /// `tokens`: what step `step` chose, in the order of its sequences. Collective. Throws Error{internal},
  /// the same on every rank, where a rank has chosen other tokens than rank 0 since the last comparison.
  void note(uint64_t step, std::span<const int32_t> tokens);
  /// Compares what has come since the last comparison. Collective.
  void finish();

  int64_t n_steps() const { return n_compared_; }  ///< that chose tokens, and were compared
  int64_t n_tokens() const { return n_tokens_; }   ///< chosen in them

 private:
  void compare();

  Communicator& communicator_;
  int64_t every_;
  uint64_t digest_ = 0;     // of every step and token so far
  uint64_t step_ = 0;       // the last one
  int32_t token_ = -1;      // its first token
  int64_t n_noted_ = 0;     // steps
  int64_t n_compared_ = 0;  // steps
  int64_t n_tokens_ = 0;
};

}  // namespace tandem
