// What tells one model file from another, wherever it lies. Used by launch/session.cpp (all ranks have the
// same one) and by launch/batch (a journal goes on with the same one).
#pragma once

#include "launch/hash.h"
#include "runtime/gguf/gguf.h"

namespace tandem {

/// Of a file's size, all metadata and the tensor directory.
Hash128 directory_identity(const GgufFile& file);
/// The same and samples of every tensor's bytes; to read all of them would take as long as loading them.
/// Throws Error{io}.
Hash128 model_identity(const GgufFile& file);

}  // namespace tandem
