// A batch's output file: written from the journal when every line is done, in the order of the input, under
// its name only when it is whole. Used by launch/commands/batch.cpp on rank 0.
#pragma once

#include <cstdint>
#include <string>

#include "launch/batch/input.h"
#include "launch/batch/journal.h"
#include "launch/batch/response.h"

namespace tandem {

/// Writes all results to `path`.partial, puts it on the disk and renames it. Throws Error{io}; then `path` is
/// what it was, and the journal holds everything.
void write_output(const std::string& path, const Journal& journal, Disk& disk = Disk::real());

enum class OutputState : uint8_t { missing, complete, other };

struct OutputCheck {
  OutputState state = OutputState::missing;
  uint64_t n_failed = 0;  ///< of a complete one
};

/// Whether `path` is the whole output of this very run. Throws Error{io} where it can't be read.
OutputCheck check_output(const std::string& path, const BatchInput& input, const BatchIdentity& identity);

}  // namespace tandem
