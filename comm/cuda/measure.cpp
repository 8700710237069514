// How long an all-reduce takes.
#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "comm/cuda/collectives.h"
#include "ops/core/check.h"
#include "ops/cuda/memory.h"

namespace tandem::cuda {
namespace {

constexpr int kGraphLength = 10;  // all-reduces recorded in one graph: their launch costs vanish

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

class Graph {
 public:
  /// Records what `work` puts on `stream`.
  Graph(const Stream& stream, const std::function<void()>& work) {
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
    work();
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream.get(), &graph));
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(status);
  }
  ~Graph() { cudaGraphExecDestroy(executable_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(const Stream& stream) const { check(cudaGraphLaunch(executable_, stream.get())); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

std::vector<double> time_in_graph(DeviceCollective& collective, Communicator& comm, float* data, int64_t n,
                                  int n_repeats) {
  const Stream stream;
  collective.all_reduce(data, n, stream.get());  // what is set up at the first use
  stream.synchronize();
  const Graph graph(stream, [&] {
    for (int i = 0; i < kGraphLength; ++i) collective.all_reduce(data, n, stream.get());
  });
  graph.launch(stream);
  stream.synchronize();
  const Event begin;
  const Event end;
  std::vector<double> times;
  for (int i = 0; i < n_repeats; i += kGraphLength) {
    comm.barrier();
    begin.record(stream);
    graph.launch(stream);
    end.record(stream);
    stream.synchronize();
    times.push_back(double{Event::elapsed_us(begin, end)} / kGraphLength);
  }
  return times;
}

std::vector<double> time_calls(DeviceCollective& collective, Communicator& comm, float* data, int64_t n,
                               int n_repeats) {
  using Clock = std::chrono::steady_clock;
  const Stream stream;
  std::vector<double> times;
  for (int i = -2; i < n_repeats; ++i) {
    comm.barrier();
    const Clock::time_point begin = Clock::now();
    collective.all_reduce(data, n, stream.get());
    stream.synchronize();
    if (i >= 0) times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
  }
  return times;
}

}  // namespace

double measure_all_reduce_us(DeviceCollective& collective, Communicator& comm, size_t n_bytes,
                             int n_repeats) {
  require(n_bytes >= sizeof(float) && n_repeats > 0, "nothing to measure", n_bytes, n_repeats);
  const auto n = static_cast<int64_t>(n_bytes / sizeof(float));
  const DeviceBuffer<float> data(static_cast<size_t>(n));
  check(cudaMemset(data.data(), 0, data.bytes()));
  check(cudaDeviceSynchronize());
  const bool graph = collective.bulk_capturable();
  double us = median(graph ? time_in_graph(collective, comm, data.data(), n, n_repeats)
                           : time_calls(collective, comm, data.data(), n, n_repeats));
  comm.broadcast(std::as_writable_bytes(std::span(&us, 1)), 0);
  return us;
}

}  // namespace tandem::cuda
