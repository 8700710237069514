// Which units of its block a warp of the GEMV kernels in rounds (gemv_kernel.cuh) takes, in which order, and
// where their sums go. Plain constexpr code, shared by kernels and tests that need no GPU.
#pragma once

#include <cstdint>

namespace tandem::cuda {

/// Sums of a row that the block's warps leave: one a warp, one a segment of the rest (Walk).
constexpr int32_t round_slots(int32_t n_segments, int32_t n_warps) {
  return n_segments < n_warps ? n_segments : n_warps + n_segments % n_warps;
}

/// The units of one warp, segment by segment: what a segment's activations are is loaded once for all of the
/// block's bundles. Whole rounds first, in which the warps take kWarps neighbouring segments, one each, of
/// all bundles. The rest, fewer segments than warps, is cut into equal runs. A row's sums are added in an
/// order that depends on the number of segments alone.
template <int kWarps>
class Walk {
 public:
  /// `n`: bundles of the block.
  constexpr Walk(int n_segments, int n, int warp)
      : n_(n),
        warp_(warp),
        whole_(n_segments / kWarps * kWarps),
        rest_(n_segments % kWarps * n),
        begin_(rest_ * warp / kWarps),
        inverse_(1.0F / static_cast<float>(n)) {}

  constexpr int size() const { return in_rounds() + rest_ * (warp_ + 1) / kWarps - begin_; }
  /// The most that a warp has.
  constexpr int most_units() const { return in_rounds() + (rest_ + kWarps - 1) / kWarps; }

  struct Unit {
    int segment;
    int local;  ///< the block's bundle
  };
  constexpr Unit unit(int i) const {
    const bool in_rest = i >= in_rounds();
    const int at = in_rest ? begin_ + i - in_rounds() : i;
    const int turn = turn_of(at);
    return {in_rest ? whole_ + turn : warp_ + turn * kWarps, at - turn * n_};
  }

  /// How many segments its units are of, and the i-th of these.
  constexpr int n_segments() const {
    const int n_rest = size() - in_rounds();
    return whole_ / kWarps + (n_rest == 0 ? 0 : turn_of(begin_ + n_rest - 1) - turn_of(begin_) + 1);
  }
  constexpr int segment(int i) const {
    return i < whole_ / kWarps ? warp_ + i * kWarps : whole_ + turn_of(begin_) + i - whole_ / kWarps;
  }

  /// Which of a bundle's round_slots() a segment's sums go to: the warp's, or, in the rest, the segment's
  /// own.
  constexpr int slot_of(int segment) const {
    return segment < whole_ ? warp_ : segment - whole_ + (whole_ == 0 ? 0 : kWarps);
  }
  /// Whether the sums of an earlier round are there already, by the same warp.
  constexpr bool adds(int segment) const { return kWarps <= segment && segment < whole_; }

 private:
  constexpr int in_rounds() const { return whole_ / kWarps * n_; }
  /// at / n: exact, as `at` is less than 2^20 and the half keeps it off whole numbers.
  constexpr int turn_of(int at) const { return static_cast<int>((static_cast<float>(at) + 0.5F) * inverse_); }

  int n_;
  int warp_;
  int whole_;      ///< segments of whole rounds
  int rest_;       ///< units of the rest, counted segment by segment
  int begin_;      ///< the warp's first of them
  float inverse_;  ///< 1 / n
};

}  // namespace tandem::cuda
