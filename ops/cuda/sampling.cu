#include "ops/core/range.h"
#include "ops/cuda/block_team.cuh"
#include "ops/cuda/dependent_launch.cuh"
#include "ops/cuda/launch.h"
#include "ops/cuda/peer_device.cuh"
#include "ops/cuda/sampling_kernels.h"

namespace tandem::cuda {
namespace {

using device::BlockTeam;
using sampling::Chain;
using sampling::Key;
using sampling::Road;
using sampling::Segment;

constexpr int kResolveThreads = 128;
constexpr int kScanThreads = 256;
constexpr int kChooseThreads = 1024;
constexpr int64_t kKeyPackets = 2;  ///< a key's halves

/// A row of the pass: its slot's parameters, and the place of the token to choose.
struct Row {
  int64_t row;
  int32_t slot;
  int64_t position;
};

__device__ inline Row row_of(const SampleArgs& args, int64_t row) {
  return {row, args.output_slots[row], int64_t{args.positions[args.outputs[row]]} + 1};
}

/// Thread map: a thread a token. Reads and writes a few bytes each.
__global__ __launch_bounds__(kResolveThreads) void resolve_kernel(const __grid_constant__ ResolveArgs args) {
  const int64_t t = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (t >= args.n_tokens) return;
  const int32_t sequence = args.sequences[t];
  const int32_t slot = args.slot_of[sequence];
  int32_t token = args.tokens[t];
  if (token < 0) {
    token = args.slots.sampled[slot];
    args.tokens[t] = token;
  }
  const int64_t later = t + sampling::kHistoryTokens;  // would have the same place
  if (later < args.n_tokens && args.sequences[later] == sequence) return;
  args.slots
      .history[int64_t{slot} * sampling::kHistoryTokens + args.positions[t] % sampling::kHistoryTokens] =
      token;
}

/// Thread map: a block a slice of a row. Reads the slice's logits once (twice where bias or penalties touch
/// them).
__global__ __launch_bounds__(kScanThreads) void scan_kernel(const __grid_constant__ SampleArgs args) {
  __shared__ int64_t scratch[32];
  device::let_next_start();
  device::wait_for_inputs();
  const BlockTeam team(scratch);
  const Row row = row_of(args, blockIdx.y);
  const Chain chain = args.slots.chains[row.slot];
  const int64_t begin = blockIdx.x * kSliceTokens;
  const int64_t end = begin + kSliceTokens < args.n_local ? begin + kSliceTokens : args.n_local;
  float* logits = args.logits + row.row * args.stride;
  sampling::adjust(team, chain, args.slots.bias + int64_t{row.slot} * sampling::kMostBias,
                   args.slots.history + int64_t{row.slot} * sampling::kHistoryTokens, row.position,
                   args.first_id + static_cast<int32_t>(begin), args.first_id + static_cast<int32_t>(end),
                   args.first_id, logits, args.counts + row.row * args.stride);
  team.sync();
  if (chain.road == Road::everything) return;
  const Segment slice{logits + begin, end - begin, args.first_id + static_cast<int32_t>(begin)};
  const Key best = sampling::best_of(team, {&slice, 1}, chain, static_cast<uint64_t>(row.position));
  if (team.rank() == 0) args.bests[row.row * args.n_slices + blockIdx.x] = best;
}

__device__ inline int candidates_of(const Chain& chain) {
  return chain.road == Road::candidates ? chain.top_k : 1;
}

/// This rank's candidates of a row to pool[0 … returned).
__device__ inline int find_candidates(const BlockTeam& team, sampling::Workspace& work,
                                      const SampleArgs& args, const Chain& chain, int64_t row) {
  Key best = sampling::kNoKey;
  for (int i = team.rank(); i < args.n_slices; i += team.size()) {
    const Key key = args.bests[row * args.n_slices + i];
    if (key > best) best = key;
  }
  best = team.best(best);
  if (chain.road == Road::candidates && best != sampling::kNoKey) {
    const Segment shard{args.logits + row * args.stride, args.n_local, args.first_id};
    return sampling::find_top(team, work, {&shard, 1}, sampling::score_of(best), chain.top_k);
  }
  if (team.rank() == 0) work.pool[0] = best;
  return 1;
}

__device__ inline void send_key(const device::PeerSlots& slots, int64_t place, Key key) {
  for (int r = 0; r < slots.peers.n_ranks; ++r) {
    if (r == slots.peers.rank) continue;
    device::store_packets(slots.slot(r, slots.peers.rank) + place * kKeyPackets * kPacketBytes,
                          __uint_as_float(static_cast<uint32_t>(key >> 32)),
                          __uint_as_float(static_cast<uint32_t>(key)), slots.number);
  }
}

__device__ inline Key await_key(const device::PeerSlots& slots, int from, int64_t place) {
  const std::byte* p = slots.slot(slots.peers.rank, from) + place * kKeyPackets * kPacketBytes;
  uint4 v;
  do {
    v = device::load_packets(p);
  } while (v.y != slots.number || v.w != slots.number);
  return Key{v.x} << 32 | v.z;
}

__device__ inline void hand_out(const SampleArgs& args, const Row& row, int32_t token) {
  args.slots.sampled[row.slot] = token < 0 ? 0 : token;  // the host sees the fault
  args.host_tokens[*args.host_offset + args.first_row + row.row] = token;
}

/// Thread map: a block a row. Reads the shard's logits twice where there is a top-k, else the slices' bests;
/// its candidates travel to the peers within the kernel.
template <bool kFind, bool kDecide>
__global__ __launch_bounds__(kChooseThreads) void choose_kernel(const __grid_constant__ SampleArgs args) {
  __shared__ sampling::Workspace work;
  __shared__ int64_t scratch[32];
  device::let_next_start();
  device::wait_for_inputs();
  const BlockTeam team(scratch);
  const Row row = row_of(args, blockIdx.x);
  const Chain chain = args.slots.chains[row.slot];
  if (chain.road == Road::everything) return;  // a mistake of the host's: such rows take the other road
  const int n_each = candidates_of(chain);
  const int rank = team.rank();
  const bool has_peers = args.peers.n_ranks != 0;
  const int64_t place = row.row * args.n_candidates;
  if constexpr (kFind) {
    const int n = find_candidates(team, work, args, chain, row.row);
    team.sync();
    const Key key = rank < n ? work.pool[rank] : sampling::kNoKey;
    team.sync();
    if (rank < n_each) {
      if (has_peers) send_key(device::PeerSlots(args.peers), place + rank, key);
      if (kDecide) work.pool[args.rank * n_each + rank] = key;
      if (!kDecide) args.mine[place + rank] = key;
    }
  }
  if constexpr (kDecide) {
    const int n = args.n_ranks * n_each;
    for (int i = rank; i < n; i += team.size()) {
      const int from = i / n_each;
      const int c = i % n_each;
      if (kFind && from == args.rank) continue;
      work.pool[i] = has_peers ? await_key(device::PeerSlots(args.peers), from, place + c)
                               : args.all[(from * args.n_rows + row.row) * args.n_candidates + c];
    }
    team.sync();
    const int32_t token = sampling::choose_among(team, work, chain, static_cast<uint64_t>(row.position), n);
    if (rank == 0) hand_out(args, row, token);
  }
}

__device__ inline uint2 load_packet(const std::byte* p) {
  uint2 v;
  asm volatile("ld.volatile.global.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
  return v;
}

struct RowsArgs {
  SampleArgs sample;
  int64_t first;
};

/// Packets of a row: a rank without a shard sends one, too, or its peers could be two exchanges ahead and
/// write over what it still reads (peer_windows.h).
__device__ inline int64_t n_packets(int64_t n_logits) {
  return n_logits == 0 ? 1 : n_logits;
}

/// Thread map: a thread a packet of a row (blockIdx.y); 8 bytes to every peer.
__global__ __launch_bounds__(kScanThreads) void send_rows_kernel(const __grid_constant__ RowsArgs args) {
  device::let_next_start();
  device::wait_for_inputs();
  const SampleArgs& sample = args.sample;
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i >= n_packets(sample.n_local)) return;
  const float x = i < sample.n_local ? sample.logits[(args.first + blockIdx.y) * sample.stride + i] : 0.0F;
  const device::PeerSlots slots(sample.peers);
  for (int r = 0; r < slots.peers.n_ranks; ++r) {
    if (r == slots.peers.rank) continue;
    device::store_packet(slots.slot(r, slots.peers.rank) + (blockIdx.y * sample.stride + i) * kPacketBytes, x,
                         slots.number);
  }
}

/// Thread map: a thread a packet of a row (blockIdx.y) of a rank (blockIdx.z).
__global__ __launch_bounds__(kScanThreads) void receive_rows_kernel(const __grid_constant__ RowsArgs args) {
  device::let_next_start();
  device::wait_for_inputs();
  const SampleArgs& sample = args.sample;
  const auto from = static_cast<int>(blockIdx.z);
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (from == sample.rank || i >= n_packets(sample.n_of_rank[from])) return;
  const device::PeerSlots slots(sample.peers);
  const std::byte* p = slots.slot(sample.rank, from) + (blockIdx.y * sample.stride + i) * kPacketBytes;
  uint2 v;
  do {
    v = load_packet(p);
  } while (v.y != slots.number);
  if (i >= sample.n_of_rank[from]) return;
  sample.all_logits[(from * sample.n_rows + args.first + blockIdx.y) * sample.stride + i] =
      __uint_as_float(v.x);
}

/// Thread map: a block a row. Reads all its logits two to six times.
__global__ __launch_bounds__(kChooseThreads) void choose_from_all_kernel(
    const __grid_constant__ SampleArgs args) {
  __shared__ sampling::Workspace work;
  __shared__ int64_t scratch[32];
  __shared__ Segment segments[kMaxSampleRanks];
  device::let_next_start();
  device::wait_for_inputs();
  const BlockTeam team(scratch);
  const Row row = row_of(args, blockIdx.x);
  const Chain chain = args.slots.chains[row.slot];
  const auto rank = static_cast<int>(threadIdx.x);
  if (rank < args.n_ranks) {
    const float* own = args.logits + row.row * args.stride;
    segments[rank] = {
        rank == args.rank ? own : args.all_logits + (rank * args.n_rows + row.row) * args.stride,
        args.n_of_rank[rank], args.first_of_rank[rank]};
  }
  team.sync();
  const int32_t token = sampling::choose_from_all(team, work, chain, static_cast<uint64_t>(row.position),
                                                  {segments, args.n_ranks});
  if (rank == 0) hand_out(args, row, token);
}

template <class Args>
void start(void (*kernel)(Args), const LaunchShape& shape, Args args, cudaStream_t stream) {
  launch(reinterpret_cast<const void*>(kernel), shape, &args, stream);
}

}  // namespace

void launch_resolve(const ResolveArgs& args, cudaStream_t stream) {
  start(resolve_kernel, {ceil_div(args.n_tokens, kResolveThreads), kResolveThreads}, args, stream);
}

void launch_scan(const SampleArgs& args, bool early, cudaStream_t stream) {
  LaunchShape shape{args.n_slices, kScanThreads, 0, early};
  shape.n_rows = args.n_rows;
  start(scan_kernel, shape, args, stream);
}

void launch_choose(const SampleArgs& args, ChooseHalf half, bool early, cudaStream_t stream) {
  const LaunchShape shape{args.n_rows, kChooseThreads, 0, early};
  if (half == ChooseHalf::both) start(choose_kernel<true, true>, shape, args, stream);
  if (half == ChooseHalf::gather) start(choose_kernel<true, false>, shape, args, stream);
  if (half == ChooseHalf::decide) start(choose_kernel<false, true>, shape, args, stream);
}

void launch_send_rows(const SampleArgs& args, int64_t first, int64_t n, bool early, cudaStream_t stream) {
  LaunchShape shape{ceil_div(args.stride, kScanThreads), kScanThreads, 0, early};
  shape.n_rows = n;
  start(send_rows_kernel, shape, RowsArgs{args, first}, stream);
}

void launch_receive_rows(const SampleArgs& args, int64_t first, int64_t n, bool early, cudaStream_t stream) {
  LaunchShape shape{ceil_div(args.stride, kScanThreads), kScanThreads, 0, early};
  shape.n_rows = n;
  shape.n_planes = args.n_ranks;
  start(receive_rows_kernel, shape, RowsArgs{args, first}, stream);
}

void launch_choose_from_all(const SampleArgs& args, bool early, cudaStream_t stream) {
  start(choose_from_all_kernel, {args.n_rows, kChooseThreads, 0, early}, args, stream);
}

}  // namespace tandem::cuda
