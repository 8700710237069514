#include "comm/cuda/peer_memory.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <cstring>
#include <exception>

#include "comm/cuda/agreement.h"
#include "comm/cuda/peer_check.h"
#include "ops/core/check.h"
#include "ops/cuda/memory.h"

namespace tandem::cuda {
namespace {

constexpr size_t kLeastWindowBytes = size_t{64} << 10;
constexpr size_t kPageBytes = size_t{2} << 20;  // IPC shares whole pages: nothing else lies on ours
constexpr int kGreetRounds = 64;
constexpr int kGreetLimitMs = 10'000;  // ranks that share a GPU take turns of milliseconds

/// Tells processes apart, also those of different containers, whose pids may be equal.
uint64_t process_token() {
  static const uint64_t token = [] {
    uint64_t value = 0;
    require(getrandom(&value, sizeof value, 0) == sizeof value, "the system gives no random bytes");
    return value;
  }();
  return token;
}

}  // namespace

/// What a rank tells the others of its window; carried as bytes.
struct PeerMemory::Offer {
  cudaIpcMemHandle_t handle{};
  uint64_t process = 0;
  void* address = nullptr;  // means something within the process only
  int device = 0;           // the same
  char bus_id[16] = {};
};

PeerMemory::PeerMemory(Communicator& comm, size_t window_bytes)
    : comm_(comm),
      window_bytes_(window_bytes),
      windows_(static_cast<size_t>(comm.size())),
      n_exceptions_(std::uncaught_exceptions()) {}

std::unique_ptr<PeerMemory> PeerMemory::make(Communicator& comm, size_t window_bytes, std::string& why_not) {
  require(window_bytes >= kLeastWindowBytes && window_bytes % 8 == 0, "a window is too small", window_bytes);
  why_not.clear();
  if (comm.n_nodes() > 1) why_not = fmt::format("the ranks are on {} nodes", comm.n_nodes());
  if (comm.size() > kMostPeers) why_not = fmt::format("more than {} ranks", kMostPeers);
  if (!why_not.empty()) return nullptr;
  std::unique_ptr<PeerMemory> memory(new PeerMemory(comm, window_bytes));
  Offer mine;
  why_not = first_fault(comm, memory->allocate(mine));
  if (!why_not.empty()) return nullptr;
  std::string bytes(sizeof mine, '\0');
  std::memcpy(bytes.data(), &mine, sizeof mine);
  const std::vector<std::string> offers = comm.gather_text(bytes);
  why_not = first_fault(comm, memory->open(offers));
  if (why_not.empty()) why_not = memory->prove();
  return why_not.empty() ? std::move(memory) : nullptr;
}

PeerMemory::~PeerMemory() {
  if (std::uncaught_exceptions() != n_exceptions_) return;
  cudaDeviceSynchronize();  // our own kernels may still write to the others
  comm_.barrier();
  for (void* window : opened_) cudaIpcCloseMemHandle(window);
  comm_.barrier();
  if (own_ != nullptr) cudaFree(own_);
}

std::string PeerMemory::allocate(Offer& mine) {
  mine.process = process_token();
  const size_t n_bytes = (window_bytes_ + kPageBytes - 1) / kPageBytes * kPageBytes;
  void* memory = nullptr;
  if (std::string fault = fault_of(cudaMalloc(&memory, n_bytes), "cudaMalloc of a window"); !fault.empty())
    return fault;
  own_ = static_cast<std::byte*>(memory);
  mine.address = memory;
  if (std::string fault = fault_of(cudaMemset(memory, 0, n_bytes), "cudaMemset"); !fault.empty())
    return fault;
  if (std::string fault = fault_of(cudaGetDevice(&mine.device), "cudaGetDevice"); !fault.empty())
    return fault;
  if (std::string fault = fault_of(cudaDeviceGetPCIBusId(mine.bus_id, sizeof mine.bus_id, mine.device),
                                   "cudaDeviceGetPCIBusId");
      !fault.empty())
    return fault;
  if (comm_.size() == 1) return {};
  return fault_of(cudaIpcGetMemHandle(&mine.handle, memory), "cudaIpcGetMemHandle");
}

std::string PeerMemory::open(const std::vector<std::string>& offers) {
  std::vector<Offer> all(offers.size());
  for (size_t r = 0; r < offers.size(); ++r) {
    require(offers[r].size() == sizeof(Offer), "a window's offer has another size", offers[r].size());
    std::memcpy(&all[r], offers[r].data(), sizeof(Offer));
  }
  const auto rank = static_cast<size_t>(comm_.rank());
  for (size_t r = 0; r < all.size(); ++r) {
    if (r == rank) {
      windows_[r] = own_;
      continue;
    }
    if (std::string fault = open_one(all[r], all[rank], windows_[r]); !fault.empty())
      return fmt::format("the GPU of rank {}: {}", r, fault);
  }
  return {};
}

std::string PeerMemory::open_one(const Offer& offer, const Offer& mine, std::byte*& window) {
  // Where the launcher shows each rank its own device only, the other one can't be asked about; opening its
  // memory works all the same.
  int device = -1;
  const bool visible = cudaDeviceGetByPCIBusId(&device, offer.bus_id) == cudaSuccess;
  if (!visible) cudaGetLastError();
  if (visible && device != mine.device) {
    int can = 0;
    if (std::string fault =
            fault_of(cudaDeviceCanAccessPeer(&can, mine.device, device), "cudaDeviceCanAccessPeer");
        !fault.empty())
      return fault;
    if (can == 0) return fmt::format("{} can't reach the memory of {}", mine.bus_id, offer.bus_id);
  }
  if (offer.process == mine.process) {  // a thread of this process
    if (offer.device != mine.device) {
      const cudaError_t status = cudaDeviceEnablePeerAccess(offer.device, 0);
      if (status == cudaErrorPeerAccessAlreadyEnabled) {
        cudaGetLastError();
      } else if (std::string fault = fault_of(status, "cudaDeviceEnablePeerAccess"); !fault.empty()) {
        return fault;
      }
    }
    window = static_cast<std::byte*>(offer.address);
    return {};
  }
  void* opened = nullptr;
  if (std::string fault =
          fault_of(cudaIpcOpenMemHandle(&opened, offer.handle, cudaIpcMemLazyEnablePeerAccess),
                   "cudaIpcOpenMemHandle");
      !fault.empty())
    return fault;
  opened_.push_back(opened);
  window = static_cast<std::byte*>(opened);
  return {};
}

std::string PeerMemory::prove() {
  PeerWindows windows;
  windows.n_words = static_cast<int64_t>(window_bytes_ / 8);
  windows.n_ranks = comm_.size();
  windows.rank = comm_.rank();
  for (size_t r = 0; r < windows_.size(); ++r) windows.data[r] = reinterpret_cast<uint64_t*>(windows_[r]);
  const Stream stream;
  DeviceBuffer<unsigned long long> n_wrong(1);
  DeviceBuffer<int> late(1);
  check(cudaMemset(n_wrong.data(), 0, n_wrong.bytes()));
  check(cudaMemset(late.data(), 0, late.bytes()));
  check(cudaDeviceSynchronize());
  load_peer_checks();
  comm_.barrier();

  // Each rank's words in each window.
  write_patterns(windows, stream.get());
  std::string fault = fault_of(cudaStreamSynchronize(stream.get()), "writing to the other GPUs");
  if (fault = first_fault(comm_, fault); !fault.empty()) return fault;
  check_patterns(windows, n_wrong.data(), stream.get());
  unsigned long long wrong = 0;
  check(cudaMemcpyAsync(&wrong, n_wrong.data(), sizeof wrong, cudaMemcpyDeviceToHost, stream.get()));
  fault = fault_of(cudaStreamSynchronize(stream.get()), "reading the window");
  if (wrong != 0)
    fault = fmt::format("{} of {} words that the GPUs wrote into its window arrived wrong", wrong,
                        windows.n_words);
  if (fault = first_fault(comm_, fault); !fault.empty()) return fault;

  // Words that arrive while kernels run, as the exchange needs them.
  check(cudaMemsetAsync(own_, 0, window_bytes_, stream.get()));
  stream.synchronize();
  comm_.barrier();
  greet_peers(windows, kGreetRounds, kGreetLimitMs, late.data(), stream.get());
  int silent = 0;
  check(cudaMemcpyAsync(&silent, late.data(), sizeof silent, cudaMemcpyDeviceToHost, stream.get()));
  fault = fault_of(cudaStreamSynchronize(stream.get()), "waiting for the other GPUs' words");
  if (silent != 0)
    fault =
        fmt::format("what the GPU of rank {} writes does not arrive while a kernel waits for it", silent - 1);
  if (fault = first_fault(comm_, fault); !fault.empty()) return fault;
  check(cudaMemsetAsync(own_, 0, window_bytes_, stream.get()));
  stream.synchronize();
  comm_.barrier();
  return {};
}

}  // namespace tandem::cuda
