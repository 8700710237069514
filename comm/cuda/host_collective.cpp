#include "comm/cuda/host_collective.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/mpi_sum.h"
#include "ops/cuda/memory.h"

namespace tandem::cuda {
namespace {

constexpr int64_t kPiece = int64_t{1} << 20;  // floats that go through host memory at a time
constexpr int64_t kTile = 2048;               // floats that stay in the nearest cache while ranks are added

/// Page-locked host memory of n floats.
class PinnedFloats {
 public:
  explicit PinnedFloats(int64_t n) {
    check(cudaMallocHost(reinterpret_cast<void**>(&data_), static_cast<size_t>(n) * sizeof(float)));
  }
  ~PinnedFloats() { cudaFreeHost(data_); }
  PinnedFloats(const PinnedFloats&) = delete;
  PinnedFloats& operator=(const PinnedFloats&) = delete;
  float* data() const { return data_; }

 private:
  float* data_ = nullptr;
};

/// Base of both: what doesn't differ.
class HostCollective : public DeviceCollective {
 public:
  explicit HostCollective(Communicator& comm) : comm_(comm) {}
  std::string_view name() const override { return "mpi"; }
  bool capturable() const override { return false; }
  std::span<std::byte* const> windows() const override { return {}; }
  size_t window_bytes() const override { return 0; }

  /// Through the communicator's own exchange.
  void all_gather(const std::byte* mine, std::byte* all, size_t n_bytes, cudaStream_t stream) override {
    check(cudaMemcpyAsync(comm_.contribution(n_bytes), mine, n_bytes, cudaMemcpyDeviceToHost, stream));
    check(cudaStreamSynchronize(stream));
    for (const std::byte* part : comm_.publish()) {
      check(cudaMemcpyAsync(all, part, n_bytes, cudaMemcpyHostToDevice, stream));
      all += n_bytes;
    }
    check(cudaStreamSynchronize(stream));  // the next exchange may overwrite the parts
  }

 protected:
  Communicator& comm_;
};

class LibraryCollective final : public HostCollective {
 public:
  LibraryCollective(Communicator& comm, std::unique_ptr<MpiSum> sum)
      : HostCollective(comm), sum_(std::move(sum)) {}

  void all_reduce(float* partial, int64_t n, cudaStream_t stream) override {
    check(cudaStreamSynchronize(stream));  // MPI knows no streams
    sum_->sum(partial, n);
  }

 private:
  std::unique_ptr<MpiSum> sum_;
};

class StagedCollective final : public HostCollective {
 public:
  explicit StagedCollective(Communicator& comm) : HostCollective(comm), mine_(kPiece), sum_(kPiece) {}
  ~StagedCollective() override { cudaEventSynchronize(sent_.get()); }  // pinned memory goes after its reader

  void all_reduce(float* partial, int64_t n, cudaStream_t stream) override {
    for (int64_t begin = 0; begin < n; begin += kPiece)
      reduce_piece(partial + begin, std::min(kPiece, n - begin), stream);
  }

 private:
  void reduce_piece(float* partial, int64_t n, cudaStream_t stream);

  PinnedFloats mine_;
  PinnedFloats sum_;
  Event sent_;  // sum_ has been read by the device
};

/// sum[i] = Σ parts[r][i], in rank order; n floats each.
void add_in_rank_order(float* sum, std::span<const std::byte* const> parts, int64_t n) {
  for (int64_t begin = 0; begin < n; begin += kTile) {
    const int64_t end = std::min(n, begin + kTile);
    const auto row = [&](size_t r) { return reinterpret_cast<const float*>(parts[r]); };
    std::copy(row(0) + begin, row(0) + end, sum + begin);
    for (size_t r = 1; r < parts.size(); ++r) {
      const float* part = row(r);
      for (int64_t i = begin; i < end; ++i) sum[i] += part[i];
    }
  }
}

void StagedCollective::reduce_piece(float* partial, int64_t n, cudaStream_t stream) {
  const size_t n_bytes = static_cast<size_t>(n) * sizeof(float);
  check(cudaMemcpyAsync(mine_.data(), partial, n_bytes, cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  std::memcpy(comm_.contribution(n_bytes), mine_.data(), n_bytes);
  const std::span<const std::byte* const> parts = comm_.publish();
  check(cudaEventSynchronize(sent_.get()));  // the piece before, perhaps of another stream
  add_in_rank_order(sum_.data(), parts, n);
  check(cudaMemcpyAsync(partial, sum_.data(), n_bytes, cudaMemcpyHostToDevice, stream));
  check(cudaEventRecord(sent_.get(), stream));
}

}  // namespace

std::unique_ptr<DeviceCollective> make_host_collective(Communicator& comm, HostRoad road) {
  const bool aware = road == HostRoad::automatic && mpi_is_cuda_aware().value_or(false);
  if (comm.all_agree(aware)) {
    if (std::unique_ptr<MpiSum> sum = MpiSum::make(comm))
      return std::make_unique<LibraryCollective>(comm, std::move(sum));
  }
  return std::make_unique<StagedCollective>(comm);
}

}  // namespace tandem::cuda
