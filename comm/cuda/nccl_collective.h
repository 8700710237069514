// All-reduces by NCCL, whose library is looked for when the program runs: the same binary starts where there
// is none. Called by comm/cuda/collectives.cpp and launch/ (versions). nccl_missing.cpp stands in for it in
// builds without NCCL's header.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "ops/cuda/collective.h"

namespace tandem::cuda {

/// What there is of NCCL in this process.
struct NcclInfo {
  bool found = false;
  std::string text;  ///< found: "2.28.9"; else why not, and the cure
};
/// Loads the library at the first call: TANDEM_NCCL_LIBRARY where it is set, else libnccl.so.2. Not
/// collective.
const NcclInfo& nccl_info();

/// How NCCL adds.
enum class NcclRoad {
  all_reduce,  ///< by its own all-reduce, whose order of adding is its own affair beyond two ranks
  gathered,    ///< it carries the parts, and a kernel adds them in rank order
};

/// Collective; every rank has chosen its device before. Null where NCCL can't be had on all ranks, with the
/// reason in `why_not` (the same text on all). Throws Error{unavailable} where it begins to start and doesn't
/// come up in two minutes.
std::unique_ptr<DeviceCollective> make_nccl_collective(Communicator& comm, std::string& why_not,
                                                       NcclRoad road = NcclRoad::all_reduce);

}  // namespace tandem::cuda
