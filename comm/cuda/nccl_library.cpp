#include "comm/cuda/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "ops/core/symbol.h"

namespace tandem::cuda {
namespace {

constexpr const char* kName = "libnccl.so.2";
constexpr const char* kVariable = "TANDEM_NCCL_LIBRARY";

NcclLibrary load() {
  NcclLibrary nccl;
  const char* path = std::getenv(kVariable);
  void* library = dlopen(path != nullptr && *path != '\0' ? path : kName, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    nccl.fault = std::string("NCCL's library can't be loaded: ") + (why == nullptr ? kName : why) +
                 "; install NCCL, or name its " + kName + " in " + kVariable;
    return nccl;
  }
  const bool complete = find_symbol(library, "ncclGetVersion", nccl.get_version) &&
                        find_symbol(library, "ncclGetUniqueId", nccl.get_unique_id) &&
                        find_symbol(library, "ncclCommInitRank", nccl.comm_init_rank) &&
                        find_symbol(library, "ncclCommDestroy", nccl.comm_destroy) &&
                        find_symbol(library, "ncclCommAbort", nccl.comm_abort) &&
                        find_symbol(library, "ncclCommGetAsyncError", nccl.comm_get_async_error) &&
                        find_symbol(library, "ncclAllReduce", nccl.all_reduce) &&
                        find_symbol(library, "ncclAllGather", nccl.all_gather) &&
                        find_symbol(library, "ncclGetErrorString", nccl.get_error_string);
  find_symbol(library, "ncclGetLastError", nccl.get_last_error);
  if (!complete) nccl.fault = std::string(kName) + " lacks functions of NCCL 2.4 or later";
  return nccl;
}

}  // namespace

std::string NcclLibrary::fault_of(ncclResult_t status, const char* call, ncclComm_t comm) const {
  if (status == ncclSuccess) return {};
  std::string text = std::string(call) + ": " + get_error_string(status);
  const char* more = get_last_error == nullptr ? nullptr : get_last_error(comm);
  if (more != nullptr && *more != '\0') text += std::string(": ") + more;
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text.substr(0, text.find_last_not_of(' ') + 1);
}

const NcclLibrary& nccl_library() {
  static const NcclLibrary library = load();
  return library;
}

}  // namespace tandem::cuda
