// Crafted GGUF files that a reader must refuse, one a class of attack or damage that readers were seen to
// fall for. Used by tests of the reader and as seeds of its fuzzer.
#pragma once

#include <string>
#include <vector>

#include "tests/support/gguf_writer.h"

namespace tandem::test {

struct HostileGguf {
  std::string name;     ///< fit for a file name
  Bytes bytes;          ///< the whole file
  std::string message;  ///< how the error line goes on behind the file's name
};

/// A small model that is in order: metadata of several types and three tensors. The hostile files are this
/// one with a single fault.
GgufWriter good_gguf();

std::vector<HostileGguf> hostile_ggufs();

}  // namespace tandem::test
