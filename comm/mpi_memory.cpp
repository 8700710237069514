#include "comm/mpi_memory.h"

#include <unistd.h>

#include <cstring>
#include <exception>

#include "ops/core/check.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

std::byte* align_up(std::byte* pointer, size_t alignment) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return pointer + ((alignment - address % alignment) % alignment);
}

class WindowBuffer final : public NodeBuffer {
 public:
  WindowBuffer(MPI_Comm node, size_t n_bytes, bool zero);
  ~WindowBuffer() override;
  WindowBuffer(const WindowBuffer&) = delete;
  WindowBuffer& operator=(const WindowBuffer&) = delete;
  std::span<std::byte> bytes() override { return bytes_; }

 private:
  MPI_Win window_ = MPI_WIN_NULL;
  std::span<std::byte> bytes_;
  int n_exceptions_ = std::uncaught_exceptions();  // at birth: more at death means that an exception unwinds
};

WindowBuffer::WindowBuffer(MPI_Comm node, size_t n_bytes, bool zero) {
  int rank = 0;
  int n_ranks = 1;
  check_mpi(MPI_Comm_rank(node, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(node, &n_ranks), "MPI_Comm_size");
  const size_t page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  // Rank 0 owns all of it, so that it is one run on every rank; a page more, because MPI aligns to less.
  const MPI_Aint mine = rank == 0 ? static_cast<MPI_Aint>(n_bytes + page_bytes) : 0;
  void* base = nullptr;
  const int status = MPI_Win_allocate_shared(mine, 1, MPI_INFO_NULL, node, &base, &window_);
  if (status != MPI_SUCCESS) {
    throw Error(ExitCode::unavailable,
                "cannot get " + std::to_string(n_bytes) + " bytes of memory shared by this node's ranks",
                "is /dev/shm large enough? (docker: --shm-size=2g)");
  }
  MPI_Win_set_errhandler(window_, MPI_ERRORS_RETURN);
  MPI_Aint size = 0;
  int unit = 0;
  check_mpi(MPI_Win_shared_query(window_, 0, &size, &unit, &base), "MPI_Win_shared_query");
  // Where each rank maps whole pages, the offset to the next page is the same on all. Rank 0 says which it
  // is.
  std::byte* const start = static_cast<std::byte*>(base);
  unsigned long offset = static_cast<unsigned long>(align_up(start, page_bytes) - start);
  check_mpi(MPI_Bcast(&offset, 1, MPI_UNSIGNED_LONG, 0, node), "MPI_Bcast");
  bytes_ = {start + offset, n_bytes};
  require(reinterpret_cast<uintptr_t>(bytes_.data()) % page_bytes == 0, "a shared window is not page aligned",
          offset);
  if (zero) {  // a share by each rank, which also places the pages near their likely users
    const size_t begin = n_bytes * static_cast<size_t>(rank) / static_cast<size_t>(n_ranks);
    const size_t end = n_bytes * static_cast<size_t>(rank + 1) / static_cast<size_t>(n_ranks);
    std::memset(bytes_.data() + begin, 0, end - begin);
  }
  check_mpi(MPI_Barrier(node), "MPI_Barrier");
}

WindowBuffer::~WindowBuffer() {
  // MPI_Win_free is collective; a rank that unwinds an exception would wait in it for ranks that don't come.
  if (window_ != MPI_WIN_NULL && std::uncaught_exceptions() == n_exceptions_) MPI_Win_free(&window_);
}

}  // namespace

void check_mpi(int status, const char* call) {
  if (status == MPI_SUCCESS) [[likely]]
    return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw Error(ExitCode::unavailable,
              std::string(call) + ": " + std::string(text, static_cast<size_t>(length)));
}

std::unique_ptr<NodeBuffer> make_window_buffer(MPI_Comm node, size_t n_bytes, bool zero) {
  return std::make_unique<WindowBuffer>(node, n_bytes, zero);
}

}  // namespace tandem
