#include "ops/cuda/graph.h"

namespace tandem::cuda {

Recording::~Recording() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

uint32_t Recording::run(const Stream& stream, const std::function<uint32_t()>& work) {
  if (!ran_) {
    ran_ = true;
    return work();
  }
  if (graph_ == nullptr) record(stream, work);
  check(cudaGraphLaunch(graph_, stream.get()));
  return n_exchanges_;
}

void Recording::record(const Stream& stream, const std::function<uint32_t()>& work) {
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    n_exchanges_ = work();
  } catch (...) {
    cudaStreamEndCapture(stream.get(), &graph);  // the stream is usable again
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream.get(), &graph));
  const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
  cudaGraphDestroy(graph);
  check(status);
}

}  // namespace tandem::cuda
