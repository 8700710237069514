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
  /// `n`: bundles of the block, at most kMost.
  constexpr Walk(int n_segments, int n, int warp)
      : n_(n),
        whole_(n_segments / kWarps * kWarps),
        rest_((n_segments - whole_) * n * warp / kWarps),
        rest_left_((n_segments - whole_) * n * (warp + 1) / kWarps - rest_),
        segment_(warp - kWarps) {}

  static constexpr int kMost = 1 << 16;

  /// The next unit's place; negative where there is none any more.
  constexpr int take() {
    if (local_ == end_ && !next_run()) return -1;
    return segment_ * kMost + local_++;
  }
  static constexpr int segment_of(int place) { return place / kMost; }
  static constexpr int local_of(int place) { return place % kMost; }

  /// Which of a bundle's round_slots() a segment's sums go to: the warp's, or, in the rest, the segment's
  /// own.
  constexpr int slot_of(int segment, int warp) const {
    return segment < whole_ ? warp : segment - whole_ + (whole_ == 0 ? 0 : kWarps);
  }
  /// Whether the sums of an earlier round are there already, by the same warp.
  constexpr bool adds(int segment) const { return kWarps <= segment && segment < whole_; }

 private:
  constexpr bool next_run() {
    if (segment_ + kWarps < whole_) {
      segment_ += kWarps;
      local_ = 0;
      end_ = n_;
      return true;
    }
    if (rest_left_ == 0) return false;
    const bool begins = segment_ < whole_;
    segment_ = begins ? whole_ + rest_ / n_ : segment_ + 1;
    local_ = begins ? rest_ % n_ : 0;
    end_ = n_ < local_ + rest_left_ ? n_ : local_ + rest_left_;
    rest_left_ -= end_ - local_;
    return true;
  }

  int n_;
  int whole_;      ///< segments of whole rounds
  int rest_;       ///< the warp's first unit of the rest, counted segment by segment
  int rest_left_;  ///< and how many more
  int segment_;
  int local_ = 0;
  int end_ = 0;  ///< of this segment's run
};

}  // namespace tandem::cuda
