// Which rows a block of the GEMV kernels (gemv_kernel.cuh) has, and what becomes of their sums: from a warp's
// registers to a slot in shared memory, and from all of a row's slots, in order, through the epilogue to the
// output, to peers, or to records.
#pragma once

#include "ops/cuda/cluster.cuh"
#include "ops/cuda/gemv_device.cuh"
#include "ops/cuda/peer_device.cuh"
#include "ops/cuda/quantize_device.cuh"

namespace tandem::cuda::device {

/// Which of the bundles a block has: b, b + G, …, counted in bundles or runs of pairs.
struct BlockShare {
  int block;     ///< b
  int n_blocks;  ///< G
  int half = 0;  ///< which of a cluster's two blocks this is, that share runs

  /// Block `block` of `n_blocks` that work on `args`.
  __device__ BlockShare(const GemvArgs& args, int block, int n_blocks)
      : block(block / args.n_halves), n_blocks(n_blocks / args.n_halves) {
    if (args.n_halves == 2) half = static_cast<int>(cluster_rank());
  }
  __device__ int n_local(const GemvArgs& args) const {
    return (args.n_bundles - block + n_blocks - 1) / n_blocks;
  }
  /// Bundles of all of them; gate and up are two.
  __device__ int n_bundles(const GemvArgs& args) const {
    if (args.epilogue == Epilogue::none) return n_local(args);
    return n_local(args) * (args.n_halves == 2 ? 2 : 2 * args.run);
  }
  /// The block's bundle number `local`, of all; of pairs gate's and up's in turns.
  __device__ int bundle(const GemvArgs& args, int local) const {
    if (args.epilogue == Epilogue::none) return block + local * n_blocks;
    return 2 * pair(args, local >> 1) + (local & 1);
  }

 private:
  __device__ int pair(const GemvArgs& args, int local) const {
    if (args.n_halves == 2) return 2 * (block + local * n_blocks) + half;
    return args.run == 1 ? block + local * n_blocks : 2 * (block + (local >> 1) * n_blocks) + (local & 1);
  }
};

/// Where a bundle's sums lie in a slot, (kRows × 8 rows) × kTokens floats: as the lanes that store them do.
template <int kRows, int kTokens>
struct SlotLayout {
  static constexpr int kSums = kRows * kTokens;        ///< a lane's, of the quad's four that have a row's
  static constexpr bool kShared = kSums % kQuad == 0;  ///< whether each lane of a quad stores some of them
  static constexpr int kSize = kSums * kTileRows;

  /// Of a quad's lane's i-th sum that it stores, all of a row's sums counted tile by tile.
  __device__ static int sum_of(int i, int quarter) {
    return i + quarter % 2 * (kSums / 2) + quarter / 2 * (kSums / 4);
  }
  __device__ static int place(int token, int row) {
    if constexpr (kShared) {
      const int sum = row / kTileRows * kTokens + token;
      const int quarter = sum / (kSums / 2) + sum % (kSums / 2) / (kSums / 4) * 2;
      return sum % (kSums / 4) * 32 + row % kTileRows * kQuad + quarter;
    } else {
      return token * (kRows * kTileRows) + row;
    }
  }
  __device__ static int token_of(int place) {
    if constexpr (kShared) return sum_of(place / 32, place % kQuad) % kTokens;
    return place / (kRows * kTileRows);
  }
  __device__ static int row_of(int place) {
    if constexpr (kShared)
      return sum_of(place / 32, place % kQuad) / kTokens * kTileRows + place % 32 / kQuad;
    return place % (kRows * kTileRows);
  }
};

/// Stores a warp's sums of a chunk, added up over quads, to a slot; `add`: to what is there.
template <int kRows, int kTokens>
__device__ inline void store_slot(const float (&acc)[kRows][kTokens], float* slot, int lane,
                                  bool add = false) {
  using Layout = SlotLayout<kRows, kTokens>;
  if constexpr (Layout::kShared) {
    // lanes hand each other half of what they hold, twice: in the same order as one value at a time
    constexpr int kSums = Layout::kSums;
    float half[kSums / 2];
    const bool upper = lane % 2 != 0;
#pragma unroll
    for (int i = 0; i < kSums / 2; ++i) {
      const float low = acc[i / kTokens][i % kTokens];
      const float high = acc[(i + kSums / 2) / kTokens][(i + kSums / 2) % kTokens];
      half[i] = (upper ? high : low) + __shfl_xor_sync(~0U, upper ? low : high, 1);
    }
    const bool outer = lane % kQuad >= 2;
#pragma unroll
    for (int i = 0; i < kSums / 4; ++i) {
      const float sum = (outer ? half[i + kSums / 4] : half[i]) +
                        __shfl_xor_sync(~0U, outer ? half[i] : half[i + kSums / 4], 2);
      float& to = slot[i * 32 + lane];
      to = add ? to + sum : sum;
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        float sum = acc[r][t];
        sum += __shfl_xor_sync(~0U, sum, 1);
        sum += __shfl_xor_sync(~0U, sum, 2);
        if (lane % kQuad == 0) {
          float& to = slot[Layout::place(t, r * kTileRows + lane / kQuad)];
          to = add ? to + sum : sum;
        }
      }
    }
  }
}

/// Adds each row's chunks in order, applies the epilogue and writes the outputs. All threads, after a
/// barrier.
template <class Shape, int kTokens>
__device__ inline void finish(const GemvArgs& args, const float* slots, const BlockShare& share) {
  using Layout = SlotLayout<Shape::kRows, kTokens>;
  constexpr int kSlot = Layout::kSize;
  const PeerSender peers(args.peers);
  const bool pair = args.epilogue != Epilogue::none;
  const auto sum_of = [&](int local, int rest) {
    float sum = 0;
    const float* slot = slots + local * args.n_chunks * kSlot + rest;
#pragma unroll 4
    for (int c = 0; c < args.n_chunks; ++c) sum += slot[c * kSlot];
    return sum;
  };
  const int n = share.n_local(args) * kSlot;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += Shape::kThreads) {
    const int local = i / kSlot;
    const int rest = i % kSlot;
    const int token = Layout::token_of(rest);
    BundlePlace place{0, share.block + local * share.n_blocks};
    float value;
    if (pair) {
      value = activate(args.epilogue, sum_of(2 * local, rest)) * sum_of(2 * local + 1, rest);
    } else {
      value = sum_of(local, rest);
      place = place_of(args, place.bundle, false);
    }
    const GemvPart& part = args.parts[place.part];
    const int row = place.bundle * Shape::kBundleRows + Layout::row_of(rest);
    if (row >= part.n_rows || token >= args.n_tokens) continue;
    if (part.bias != nullptr) value += part.bias[row];
    if (args.factor != nullptr) value *= *args.factor;
    if (peers.n_ranks() != 0) {
      peers.send(args.peer_token + token, row, part.out_stride, value);
      continue;
    }
    float& out = part.out[token * part.out_stride + row];
    out = args.accumulate ? out + value : value;
  }
}

/// As finish(), for gate and up whose outputs are quantised: a warp a run of 32 rows and token, a lane a row.
/// Two blocks of a cluster that share runs, 16 rows each, hand each other their rows of every other run.
/// staged: ((n_runs + 1) / 2, kTokens, 32) of them. All threads, after a barrier.
template <class Shape, int kTokens>
__device__ inline void finish_records(const GemvArgs& args, const float* slots, const BlockShare& share,
                                      float* staged) {
  using Layout = SlotLayout<Shape::kRows, kTokens>;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int n_runs = share.n_local(args);
  const bool shared = args.n_halves == 2;
  // of a row of the block's pair
  const auto value_of = [&](int pair, int token, int row) {
    const int gate_slot = 2 * pair * args.n_chunks * Layout::kSize + Layout::place(token, row);
    const int up_slot = gate_slot + args.n_chunks * Layout::kSize;
    float gate = 0;
    float up = 0;
#pragma unroll 4
    for (int c = 0; c < args.n_chunks; ++c) {
      gate += slots[gate_slot + c * Layout::kSize];
      up += slots[up_slot + c * Layout::kSize];
    }
    const float value = activate(args.epilogue, gate) * up;
    return args.factor != nullptr ? value * *args.factor : value;
  };
  if (shared) {
    cluster_wait();  // the other block has begun
    for (int i = static_cast<int>(threadIdx.x); i < n_runs * kTokens * 16; i += Shape::kThreads) {
      const int run = i / (kTokens * 16);
      const int token = i / 16 % kTokens;
      const float value = value_of(run, token, i % 16);
      float* to = staged + (run / 2 * kTokens + token) * 32 + share.half * 16 + i % 16;
      if (run % 2 == share.half) {
        *to = value;
      } else {
        store_in_block(to, 1U - static_cast<uint32_t>(share.half), value);
      }
    }
    cluster_arrive();
    cluster_wait();
  }
  for (int i = static_cast<int>(threadIdx.x / 32); i < n_runs * args.n_tokens; i += Shape::kWarps) {
    const int run = i / args.n_tokens;
    const int token = i - run * args.n_tokens;
    if (shared && run % 2 != share.half) continue;
    const float value =
        shared ? staged[(run / 2 * kTokens + token) * 32 + lane]
               : value_of(run * args.run + lane / Shape::kBundleRows, token, lane % Shape::kBundleRows);
    if (!(fabsf(value) < INFINITY) && args.not_finite != nullptr) *args.not_finite = 1;
    const int col = args.record_lead + 32 * (share.block + run * share.n_blocks);
    std::byte* row = args.records + token * args.record_token_bytes;
    if (args.record_wide) {
      store_row_group<ActForm::q15>(value, row + col / kSegmentCols * ActLayout::kQ15Bytes,
                                    col % kSegmentCols / 32, lane);
    } else {
      store_row_group<ActForm::q8>(value, row + col / kSegmentCols * ActLayout::kQ8Bytes,
                                   col % kSegmentCols / 32, lane);
    }
  }
}

/// Epilogue and outputs of all the block's sums. staged: shared memory behind what the block uses of it.
template <class F, class Shape, int kTokens>
__device__ inline void finish_all(const GemvArgs& args, const float* slots, const BlockShare& share,
                                  float* staged) {
  __syncthreads();
  if constexpr (QuantFormat<F> && Shape::kBundleRows == 16) {
    if (args.records != nullptr) {
      finish_records<Shape, kTokens>(args, slots, share, staged);
      return;
    }
  }
  finish<Shape, kTokens>(args, slots, share);
}

}  // namespace tandem::cuda::device
