// One GGUF file (a whole model, or a part of a split one): its header, checked. Used by runtime/gguf/gguf.cpp
// alone.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/gguf/byte_source.h"
#include "runtime/gguf/gguf.h"

namespace tandem {

struct GgufPart {
  uint32_t version = 0;
  uint64_t n_bytes = 0;  ///< of the file
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  ///< in the order of the directory; file_index is left 0
};

/// Reads and checks the header. On return every tensor has at most four dimensions, all positive, rows of
/// whole blocks, a size that fits int64, and bytes that lie in the file, aligned, and overlap no other
/// tensor's; names and keys occur once. Throws Error(bad_data) or Error(io).
GgufPart read_gguf_part(const ByteSource& source);

}  // namespace tandem
