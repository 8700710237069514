#include "comm/mpi_sum.h"

#include <dlfcn.h>
#include <mpi.h>

#include <algorithm>
#include <exception>

#include "comm/mpi_memory.h"

namespace tandem {

struct MpiSum::Handle {
  MPI_Comm comm = MPI_COMM_NULL;
};

std::optional<bool> mpi_is_cuda_aware() {
  // Asked of the library that runs, not of the header that it was compiled with: they may be different
  // builds.
  using Query = int (*)();
  const auto query = reinterpret_cast<Query>(dlsym(RTLD_DEFAULT, "MPIX_Query_cuda_support"));
  if (query == nullptr) return std::nullopt;
  int started = 0;
  int ended = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&ended);
  if (started == 0 || ended != 0) return std::nullopt;  // some libraries can't tell before
  return query() == 1;
}

std::unique_ptr<MpiSum> MpiSum::make(Communicator& comm) {
  int started = 0;
  MPI_Initialized(&started);
  int size = 0;
  if (started != 0) check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  if (comm.size() == 1 || !comm.all_agree(size == comm.size())) return nullptr;
  auto handle = std::make_unique<Handle>();
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &handle->comm), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(handle->comm, MPI_ERRORS_RETURN);
  return std::unique_ptr<MpiSum>(new MpiSum(std::move(handle)));
}

MpiSum::MpiSum(std::unique_ptr<Handle> handle)
    : handle_(std::move(handle)), n_exceptions_(std::uncaught_exceptions()) {}

MpiSum::~MpiSum() {
  if (std::uncaught_exceptions() == n_exceptions_) MPI_Comm_free(&handle_->comm);
}

void MpiSum::sum(float* data, int64_t n) {
  constexpr int64_t kPiece = int64_t{1} << 28;  // MPI counts in int
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const auto count = static_cast<int>(std::min(kPiece, n - begin));
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, data + begin, count, MPI_FLOAT, MPI_SUM, handle_->comm),
              "MPI_Allreduce");
  }
}

}  // namespace tandem
