#include "launch/bench/roofline.h"

#include "launch/doctor/gpu_probe.h"
#include "launch/doctor/host_probe.h"

namespace tandem {
namespace {

double sum_of_ranks(Communicator& comm, double mine) {
  double sum = 0.0;
  for (int r = 0; r < comm.size(); ++r) {
    double value = mine;
    comm.broadcast(std::as_writable_bytes(std::span(&value, 1)), r);
    sum += value;
  }
  return sum;
}

}  // namespace

Roofline measure_roofline(Session& session, Communicator& comm, const std::vector<int>& n_tokens) {
  Roofline out;
  const double mine = session.gpu() ? measure_gpu_read_gbps(comm, *session.gpu())
                                    : measure_memory_gbps(comm, session.placement());
  out.read_gbps = sum_of_ranks(comm, mine);
  for (const int n : n_tokens) out.weight_bytes[n] = sum_of_ranks(comm, session.model().bytes_read(n));
  return out;
}

}  // namespace tandem
