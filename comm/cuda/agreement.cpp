#include "comm/cuda/agreement.h"

namespace tandem::cuda {

std::string fault_of(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return {};
  cudaGetLastError();
  return std::string(call) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
}

std::string first_fault(Communicator& comm, const std::string& mine) {
  if (comm.all_agree(mine.empty())) return {};
  const std::vector<std::string> all = comm.gather_text(mine);
  for (size_t r = 0; r < all.size(); ++r) {
    if (!all[r].empty()) return "rank " + std::to_string(r) + ": " + all[r];
  }
  return "the ranks disagree";
}

}  // namespace tandem::cuda
