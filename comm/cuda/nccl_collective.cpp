#include "comm/cuda/nccl_collective.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <future>
#include <thread>

#include "comm/cuda/agreement.h"
#include "comm/cuda/nccl_library.h"
#include "comm/cuda/ordered_sum.h"
#include "ops/core/error.h"
#include "ops/cuda/memory.h"

namespace tandem::cuda {
namespace {

constexpr std::chrono::seconds kStartLimit{120};
constexpr std::chrono::seconds kAbortLimit{2};
constexpr int64_t kPiece = int64_t{1} << 20;  // floats of each rank that are gathered at a time

[[noreturn]] void fail(const std::string& fault) {
  throw Error(ExitCode::unavailable, "NCCL: " + fault, "NCCL_DEBUG=INFO tells more; or use --comm mpi");
}

class NcclCollective : public DeviceCollective {
 public:
  explicit NcclCollective(ncclComm_t comm) : comm_(comm), n_exceptions_(std::uncaught_exceptions()) {}
  ~NcclCollective() override;

  std::string_view name() const override { return "nccl"; }
  bool capturable() const override { return true; }
  void all_reduce(float* partial, int64_t n, cudaStream_t stream) override;
  std::span<std::byte* const> windows() const override { return {}; }
  size_t window_bytes() const override { return 0; }
  void check_health() override;

 protected:
  ncclComm_t comm() const { return comm_; }

 private:
  ncclComm_t comm_;
  int n_exceptions_;
};

/// Adds in rank order, as the peers' kernels and the host do: the same bits as theirs at any rank count.
class GatheredCollective final : public NcclCollective {
 public:
  GatheredCollective(ncclComm_t comm, int n_ranks)
      : NcclCollective(comm),
        n_ranks_(n_ranks),
        parts_(std::make_unique<DeviceBuffer<float>>(static_cast<size_t>(n_ranks * kPiece))) {}
  ~GatheredCollective() override {
    if (std::uncaught_exceptions() != 0) {
      (void)parts_.release();  // freeing waits for kernels that may wait for ranks that never come
    } else {
      cudaDeviceSynchronize();  // the parts go after their readers
    }
  }
  void all_reduce(float* partial, int64_t n, cudaStream_t stream) override;

 private:
  int n_ranks_;
  std::unique_ptr<DeviceBuffer<float>> parts_;  // (n_ranks, n of a piece)
};

/// Ends what runs, where the other ranks may never come. Abort has been seen to hang itself, so it gets a
/// limit; the process ends soon after.
void abort_within_limit(ncclComm_t comm) {
  std::packaged_task<void()> task([comm] { nccl_library().comm_abort(comm); });
  const std::future<void> done = task.get_future();
  std::thread(std::move(task)).detach();
  done.wait_for(kAbortLimit);
}

NcclCollective::~NcclCollective() {
  if (std::uncaught_exceptions() != n_exceptions_) {
    abort_within_limit(comm_);
  } else {
    cudaDeviceSynchronize();  // what the streams still hold
    nccl_library().comm_destroy(comm_);
  }
}

void NcclCollective::all_reduce(float* partial, int64_t n, cudaStream_t stream) {
  const NcclLibrary& nccl = nccl_library();
  const ncclResult_t status =
      nccl.all_reduce(partial, partial, static_cast<size_t>(n), ncclFloat32, ncclSum, comm_, stream);
  if (status != ncclSuccess) [[unlikely]]
    fail(nccl.fault_of(status, "ncclAllReduce", comm_));
}

void GatheredCollective::all_reduce(float* partial, int64_t n, cudaStream_t stream) {
  const NcclLibrary& nccl = nccl_library();
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t n_piece = std::min(kPiece, n - begin);
    const ncclResult_t status = nccl.all_gather(partial + begin, parts_->data(), static_cast<size_t>(n_piece),
                                                ncclFloat32, comm(), stream);
    if (status != ncclSuccess) [[unlikely]]
      fail(nccl.fault_of(status, "ncclAllGather", comm()));
    add_parts(partial + begin, parts_->data(), n_ranks_, n_piece, stream);
  }
}

void NcclCollective::check_health() {
  const NcclLibrary& nccl = nccl_library();
  ncclResult_t state = ncclSuccess;
  const ncclResult_t status = nccl.comm_get_async_error(comm_, &state);
  if (status != ncclSuccess) fail(nccl.fault_of(status, "ncclCommGetAsyncError", comm_));
  if (state != ncclSuccess) fail(nccl.fault_of(state, "an exchange", comm_));
}

/// What the thread that starts NCCL leaves.
struct Started {
  ncclComm_t comm = nullptr;
  std::string fault;
};

Started start(int device, int n_ranks, int rank, const ncclUniqueId& id) {
  const NcclLibrary& nccl = nccl_library();
  Started started;
  started.fault = fault_of(cudaSetDevice(device), "cudaSetDevice");
  if (!started.fault.empty()) return started;
  const ncclResult_t status = nccl.comm_init_rank(&started.comm, n_ranks, id, rank);
  started.fault = nccl.fault_of(status, "ncclCommInitRank", nullptr);
  return started;
}

/// Where a rank fails alone, NCCL lets the others wait for ever: a thread waits instead, and this one gives
/// up.
Started start_within_limit(Communicator& comm, const ncclUniqueId& id) {
  int device = 0;
  check(cudaGetDevice(&device));
  std::packaged_task<Started()> task(
      [device, n_ranks = comm.size(), rank = comm.rank(), id] { return start(device, n_ranks, rank, id); });
  std::future<Started> result = task.get_future();
  std::thread(std::move(task)).detach();
  if (result.wait_for(kStartLimit) != std::future_status::ready)
    fail(fmt::format("rank {} did not come up within {} s", comm.rank(), kStartLimit.count()));
  return result.get();
}

/// Which GPU this rank holds: NCCL refuses two ranks on one.
std::string device_uuid() {
  int device = 0;
  check(cudaGetDevice(&device));
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device));
  return std::string(properties.uuid.bytes, sizeof properties.uuid.bytes);
}

std::string shared_device(Communicator& comm) {
  const std::vector<std::string> uuids = comm.gather_text(device_uuid());
  for (size_t a = 0; a < uuids.size(); ++a) {
    for (size_t b = a + 1; b < uuids.size(); ++b) {
      if (uuids[a] == uuids[b]) return fmt::format("ranks {} and {} share a GPU, which NCCL refuses", a, b);
    }
  }
  return {};
}

}  // namespace

const NcclInfo& nccl_info() {
  static const NcclInfo info = [] {
    const NcclLibrary& nccl = nccl_library();
    if (!nccl.fault.empty()) return NcclInfo{.found = false, .text = nccl.fault};
    int code = 0;
    nccl.get_version(&code);
    const int major_unit = code < 10000 ? 1000 : 10000;  // 2.8 and before: 2804; later: 20900
    return NcclInfo{.found = true,
                    .text = fmt::format("{}.{}.{}", code / major_unit, code % major_unit / 100, code % 100)};
  }();
  return info;
}

std::unique_ptr<DeviceCollective> make_nccl_collective(Communicator& comm, std::string& why_not,
                                                       NcclRoad road) {
  const NcclLibrary& nccl = nccl_library();
  why_not = first_fault(comm, nccl.fault);
  if (why_not.empty()) why_not = shared_device(comm);
  if (!why_not.empty()) return nullptr;
  ncclUniqueId id{};
  std::string fault;
  if (comm.rank() == 0) fault = nccl.fault_of(nccl.get_unique_id(&id), "ncclGetUniqueId", nullptr);
  why_not = first_fault(comm, fault);
  if (!why_not.empty()) return nullptr;
  comm.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
  const Started started = start_within_limit(comm, id);
  why_not = first_fault(comm, started.fault);
  if (!why_not.empty()) {
    if (started.fault.empty()) abort_within_limit(started.comm);
    return nullptr;
  }
  if (road == NcclRoad::gathered) return std::make_unique<GatheredCollective>(started.comm, comm.size());
  return std::make_unique<NcclCollective>(started.comm);
}

}  // namespace tandem::cuda
