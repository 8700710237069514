// What a GGUF file holds, as text for people. Called by launch/commands/inspect. Reads no tensor data, and
// lets nothing through that a terminal would obey.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "runtime/gguf/gguf.h"

namespace tandem {

struct DescribeOptions {
  size_t max_characters = 60;  ///< of a string; what exceeds it is elided
  size_t max_elements = 6;     ///< of an array, likewise
};

/// "1.50 GiB", "12.00 KiB", "17 B".
std::string format_bytes(uint64_t n_bytes);

/// One line on the file as a whole, then a table of all keys: name, type, value. Ends in a line break.
std::string describe_metadata(const GgufFile& file, const DescribeOptions& options = {});

/// A table of all tensors (shape fastest-varying first, type, bits a weight, bytes, and the file where there
/// are several), then one of the types, then the total. Ends in a line break.
std::string describe_tensors(const GgufFile& file);

}  // namespace tandem
