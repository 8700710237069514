// What the ranks' talk costs on one node, beside MPI's own collectives. Plain, because it runs under mpirun:
//   mpirun -np 2 build/cpu/bench/bench_exchange [--rounds R]
// Each line: the best and the median over R interleaved rounds of the mean time of one call, in microseconds,
// as rank 0 sees it. An "exchange" fills the contribution, publishes, and adds up what all ranks gave, so
// that it does the work of the MPI_Allreduce beside it; "flags" is contribution() and publish() with nothing
// to fill or read.
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/mpi.h"

namespace tandem {
namespace {

constexpr size_t kSizes[] = {64, 1024, 4096, 16'384, 65'536, 1'048'576};

struct Case {
  std::string name;
  size_t n_bytes;
  std::function<void()> call;
  std::vector<double> means_us;
};

double mean_us(const std::function<void()>& call, int n_calls) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < n_calls; ++i) call();
  const std::chrono::duration<double, std::micro> taken = std::chrono::steady_clock::now() - start;
  return taken.count() / n_calls;
}

void exchange_sum(Communicator& comm, const std::vector<int64_t>& mine, std::vector<int64_t>& sum) {
  const size_t n_bytes = mine.size() * sizeof(int64_t);
  std::memcpy(comm.contribution(n_bytes), mine.data(), n_bytes);
  const auto all = comm.publish();
  std::memcpy(sum.data(), all[0], n_bytes);
  for (size_t r = 1; r < all.size(); ++r) {
    const auto* theirs = reinterpret_cast<const int64_t*>(all[r]);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += theirs[i];
  }
}

std::vector<Case> make_cases(Communicator& comm, std::vector<std::vector<int64_t>>& buffers) {
  std::vector<Case> cases;
  buffers.reserve(2 * std::size(kSizes));
  for (const size_t n_bytes : kSizes) {
    std::vector<int64_t>& mine = buffers.emplace_back(n_bytes / sizeof(int64_t));
    std::vector<int64_t>& sum = buffers.emplace_back(n_bytes / sizeof(int64_t));
    for (size_t i = 0; i < mine.size(); ++i) mine[i] = static_cast<int64_t>(i) * (comm.rank() + 1);
    cases.push_back({"exchange", n_bytes, [&] { exchange_sum(comm, mine, sum); }, {}});
    cases.push_back({"MPI_Allreduce",
                     n_bytes,
                     [&] {
                       MPI_Allreduce(mine.data(), sum.data(), static_cast<int>(mine.size()), MPI_INT64_T,
                                     MPI_SUM, MPI_COMM_WORLD);
                     },
                     {}});
  }
  std::vector<int64_t>& plan = buffers[4];  // 4 KB
  cases.push_back({"flags",
                   64,
                   [&] {
                     comm.contribution(64);
                     comm.publish();
                   },
                   {}});
  cases.push_back(
      {"broadcast", 4096, [&] { comm.broadcast(std::as_writable_bytes(std::span(plan)), 0); }, {}});
  cases.push_back({"broadcast+exchange",
                   4096,
                   [&] {  // as a step does: the plan, then a collective, so that rank 0 does not run ahead
                     comm.broadcast(std::as_writable_bytes(std::span(plan)), 0);
                     comm.contribution(64);
                     comm.publish();
                   },
                   {}});
  cases.push_back(
      {"MPI_Bcast", 4096, [&] { MPI_Bcast(plan.data(), 4096, MPI_BYTE, 0, MPI_COMM_WORLD); }, {}});
  cases.push_back({"barrier", 0, [&] { comm.barrier(); }, {}});
  cases.push_back({"MPI_Barrier", 0, [&] { MPI_Barrier(MPI_COMM_WORLD); }, {}});
  return cases;
}

int run(int n_rounds) {
  const MpiEnvironment environment;
  const auto comm = make_mpi_communicator(environment);
  std::vector<std::vector<int64_t>> buffers;
  std::vector<Case> cases = make_cases(*comm, buffers);
  for (int round = 0; round < n_rounds; ++round) {
    for (Case& c : cases) {
      const int n_calls = c.n_bytes > 100'000 ? 20 : 400;
      comm->barrier();
      const double mean = mean_us(c.call, n_calls);
      if (round > 0) c.means_us.push_back(mean);  // the first one grows slots and touches pages
    }
  }
  if (comm->rank() != 0) return 0;
  fmt::print("{} ranks, {} rounds\n{:<20} {:>9} {:>10} {:>10}\n", comm->size(), n_rounds, "call", "bytes",
             "best us", "median us");
  for (Case& c : cases) {
    std::sort(c.means_us.begin(), c.means_us.end());
    fmt::print("{:<20} {:>9} {:>10.2f} {:>10.2f}\n", c.name, c.n_bytes, c.means_us.front(),
               c.means_us[c.means_us.size() / 2]);
  }
  return 0;
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  const int n_rounds = argc == 3 && std::strcmp(argv[1], "--rounds") == 0 ? std::atoi(argv[2]) : 51;
  if (n_rounds < 2) {
    fmt::print(stderr, "usage: bench_exchange [--rounds R], R from 2\n");
    return 64;
  }
  return tandem::run(n_rounds);
}
