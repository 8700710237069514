// How long partial sums take to reach all ranks on GPUs, by size and kind. Google Benchmark, under mpirun:
//   mpirun -np 2 build/cuda/bench/bench_cuda_allreduce [--commit ID] [--benchmark_out=FILE
//     --benchmark_out_format=json] [any flag of Google Benchmark's]
// peer_fused/COLS/early: sums of one token's row, residual, norm and quantisation in one kernel, as decoding
// has it, of which 50 are a CUDA graph; early 1: by programmatic dependent launch, as steps are recorded.
// nccl_norm/COLS: NCCL's all-reduce of the same row and the same norm kernel behind it, in a graph.
// copies/BYTES/PIECES: two ranks' exchange of so many bytes by copies into each other's window, as a prompt's
// step has it, without products and sums: from the work's stream to the copies' and to what awaits them.
// nccl/BYTES, mpi/BYTES: the all-reduce of so many bytes of floats alone (nccl in a graph, mpi call by call).
// Times are manual, of one exchange, on rank 0: nine repetitions, read the median. Only rank 0 speaks.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/cuda/collectives.h"
#include "comm/cuda/host_collective.h"
#include "comm/cuda/nccl_collective.h"
#include "comm/cuda/peer_memory.h"
#include "comm/mpi.h"
#include "cuda_report.h"
#include "launch/build_info.h"
#include "launch/doctor/fused_exchange.h"
#include "launch/gpu_placement.h"
#include "ops/core/error.h"
#include "ops/cuda/norm.h"
#include "ops/cuda/peer_copies.h"
#include "ops/cuda/peer_windows.h"

namespace tandem::cuda {
namespace {

constexpr int64_t kMostCols = 16384;
constexpr int kRepetitions = 9;
constexpr int kGraphLength = 50;
constexpr size_t kMostBytes = size_t{64} << 20;

/// The other ranks' reporter: they run the same benchmarks and say nothing.
class Silent final : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

/// One benchmark whose every repetition is one measurement by `us`, in microseconds. Google Benchmark must
/// not choose the number of iterations: ranks would choose apart.
void add(const std::string& name, std::function<double()> us) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [us = std::move(us)](benchmark::State& state) {
                                 for (auto _ : state) state.SetIterationTime(us() * 1e-6);
                               })
      ->UseManualTime()
      ->Iterations(1)
      ->Repetitions(kRepetitions)
      ->Unit(benchmark::kMicrosecond);
}

/// An all-reduce of one row and the norm behind it, as a step without windows has it.
class ReduceAndNorm {
 public:
  ReduceAndNorm(DeviceCollective& collective, Communicator& comm, int64_t n_cols)
      : comm_(comm), rows_(static_cast<size_t>(3 * n_cols)), out_(1, {0, n_cols}, ActForm::q8) {
    check(cudaMemset(rows_.data(), 0, rows_.bytes()));
    check(cudaDeviceSynchronize());
    collective.all_reduce(rows_.data(), n_cols, stream_.get());  // what is set up at the first use
    stream_.synchronize();
    AddNorm what;
    what.n_cols = n_cols;
    what.slots[0] = rows_.data();
    what.n_slots = 1;
    what.residual = rows_.data() + n_cols;
    what.weight = rows_.data() + 2 * n_cols;
    what.eps = 1e-5F;
    what.out[0] = &out_;
    work_ = [this, what, n_cols, &collective] {
      for (int i = 0; i < kGraphLength; ++i) {
        collective.all_reduce(rows_.data(), n_cols, stream_.get());
        add_norm(what, 1, false, stream_.get());
      }
    };
  }
  double us() {
    comm_.barrier();
    return graph_us(stream_, work_) / kGraphLength;
  }

 private:
  Communicator& comm_;
  Stream stream_;
  DeviceBuffer<float> rows_;  // (3, n_cols): partial, residual, weight
  CudaActivations out_;
  std::function<void()> work_;
};

/// Where the copies lie: behind the packets.
BulkWindow bulk_of(int n_ranks) {
  return {.offset = exchange_window_bytes(n_ranks, kMostCols),
          .slot_bytes = n_ranks == 2 ? static_cast<int64_t>(kMostBytes) : 0};
}

/// Exchanges by copies, one behind another: each begins when the last one's rows have come.
class Copies {
 public:
  Copies(Communicator& comm, const PeerMemory& memory)
      : comm_(comm),
        memory_(memory),
        copies_(bulk_of(comm.size()), comm.rank()),
        rows_(kMostBytes / sizeof(float)) {
    check(cudaMemset(rows_.data(), 0, rows_.bytes()));
    copies_.open();
    check(cudaDeviceSynchronize());
  }
  double us(size_t n_bytes, int64_t n_pieces) {
    constexpr int kExchanges = 20;
    const auto n = static_cast<int64_t>(n_bytes / sizeof(float)) / n_pieces;
    const Event begin;
    const Event end;
    comm_.barrier();
    for (int i = -2; i < kExchanges; ++i) {
      if (i == 0) begin.record(stream_);
      ready_.record(stream_);
      check(cudaStreamWaitEvent(copying_.get(), ready_.get()));
      copies_.begin(memory_.windows());
      for (int64_t p = 0; p < n_pieces; ++p) copies_.send(rows_.data(), {p * n, (p + 1) * n}, copying_.get());
      copies_.await(stream_.get());
    }
    end.record(stream_);
    stream_.synchronize();
    return double{Event::elapsed_us(begin, end)} / kExchanges;
  }

 private:
  Communicator& comm_;
  const PeerMemory& memory_;
  PeerCopies copies_;
  Stream stream_;
  Stream copying_{Stream::Priority::high};
  Event ready_;
  DeviceBuffer<float> rows_;
};

/// Everything that the benchmarks measure with; dies before the communicator.
struct Ways {
  std::string why_no_peer;
  std::string why_no_nccl;
  std::unique_ptr<PeerMemory> memory;
  std::unique_ptr<Copies> copies;
  std::unique_ptr<DeviceCollective> nccl;
  std::unique_ptr<DeviceCollective> mpi;
  ExchangeCounter counter;
};

void register_all(Communicator& comm, Ways& ways) {
  for (const int64_t n_cols : {2048, 4096, 8192, 16384}) {
    for (const bool early : {false, true}) {
      if (!ways.memory) continue;
      add(fmt::format("peer_fused/{}/early:{}", n_cols, early ? 1 : 0), [&comm, &ways, n_cols, early] {
        return FusedExchange(comm, *ways.memory, ways.counter, n_cols, 1, early).median_us(5);
      });
    }
    if (ways.nccl && n_cols >= 4096) {
      add(fmt::format("nccl_norm/{}", n_cols),
          [&comm, &ways, n_cols] { return ReduceAndNorm(*ways.nccl, comm, n_cols).us(); });
    }
  }
  for (size_t n_bytes = size_t{4} << 10; n_bytes <= kMostBytes; n_bytes *= 4) {
    const int n_repeats = n_bytes >= (size_t{1} << 20) ? 20 : 100;
    const auto all_reduce = [&comm, n_bytes, n_repeats](DeviceCollective& collective) {
      return measure_all_reduce_us(collective, comm, n_bytes, n_repeats);
    };
    for (const int64_t n_pieces : {1, 2, 4}) {
      if (!ways.copies) continue;
      add(fmt::format("copies/{}/{}", n_bytes, n_pieces),
          [=, &ways] { return ways.copies->us(n_bytes, n_pieces); });
    }
    if (ways.nccl) add(fmt::format("nccl/{}", n_bytes), [=, &ways] { return all_reduce(*ways.nccl); });
    add(fmt::format("mpi/{}", n_bytes), [=, &ways] { return all_reduce(*ways.mpi); });
  }
}

/// --commit ID, and on ranks other than 0 what would write a file, are ours; the rest is Google Benchmark's.
std::vector<char*> arguments_of(int argc, char** argv, bool speaks, std::string& commit) {
  std::vector<char*> rest = {argv[0]};
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--commit") == 0 && i + 1 < argc) {
      commit = argv[++i];
    } else if (speaks || std::strncmp(argv[i], "--benchmark_out", 15) != 0) {
      rest.push_back(argv[i]);
    }
  }
  return rest;
}

int run(int argc, char** argv) {
  const MpiEnvironment environment;
  const auto comm = make_mpi_communicator(environment);
  if (comm->size() < 2)
    throw Error(ExitCode::usage, "one rank has nobody to exchange with", "mpirun -np 2 bench_cuda_allreduce");
  const bool speaks = comm->rank() == 0;
  const GpuPlacement placement = place_on_gpu(*comm, false);
  std::string commit = kCommit;
  std::vector<char*> arguments = arguments_of(argc, argv, speaks, commit);
  auto n_arguments = static_cast<int>(arguments.size());
  benchmark::Initialize(&n_arguments, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(n_arguments, arguments.data()))
    throw Error(ExitCode::usage, "unknown flags");

  Ways ways;
  const auto window_bytes = static_cast<size_t>(bulk_of(comm->size()).end());
  ways.memory = PeerMemory::make(*comm, window_bytes, ways.why_no_peer);
  if (ways.memory && comm->size() == 2) ways.copies = std::make_unique<Copies>(*comm, *ways.memory);
  ways.nccl = make_nccl_collective(*comm, ways.why_no_nccl);
  ways.mpi = make_host_collective(*comm);
  benchmark::AddCustomContext("device", placement.gpu.name);
  benchmark::AddCustomContext("driver", driver_version());
  benchmark::AddCustomContext("commit", commit);
  benchmark::AddCustomContext("date_utc", utc_date());
  benchmark::AddCustomContext("ranks", std::to_string(comm->size()));
  benchmark::AddCustomContext("mpi", mpi_library_version());
  benchmark::AddCustomContext("nccl", ways.nccl ? nccl_info().text : ways.why_no_nccl);
  benchmark::AddCustomContext("peer", ways.memory ? "proved" : ways.why_no_peer);
  register_all(*comm, ways);
  Silent silent;
  if (speaks) {
    benchmark::RunSpecifiedBenchmarks();
  } else {
    benchmark::RunSpecifiedBenchmarks(&silent);
  }
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace tandem::cuda

int main(int argc, char** argv) {
  try {
    return tandem::cuda::run(argc, argv);
  } catch (const tandem::Error& error) {
    // The other ranks may wait for this one: mpirun ends them.
    fmt::print(stderr, "bench_cuda_allreduce: {}. {}\n", error.what(), error.hint());
    std::_Exit(static_cast<int>(error.code()));
  }
}
