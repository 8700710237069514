// NCCL's functions, found in its library when the program runs. Its header gives the types only. Used by
// comm/cuda/nccl_collective.cpp only.
#pragma once

#include <nccl.h>

#include <string>

namespace tandem::cuda {

struct NcclLibrary {
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRank) comm_init_rank = nullptr;
  decltype(&ncclCommDestroy) comm_destroy = nullptr;
  decltype(&ncclCommAbort) comm_abort = nullptr;
  decltype(&ncclCommGetAsyncError) comm_get_async_error = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclGetErrorString) get_error_string = nullptr;
  decltype(&ncclGetLastError) get_last_error = nullptr;  // null before NCCL 2.13

  std::string fault;  ///< why it can't be used; empty where it can

  /// Empty for success; else NCCL's words. `comm` may be null.
  std::string fault_of(ncclResult_t status, const char* call, ncclComm_t comm) const;
};

/// Loaded at the first call and never unloaded.
const NcclLibrary& nccl_library();

}  // namespace tandem::cuda
