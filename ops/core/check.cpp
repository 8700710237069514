#include "ops/core/check.h"

#include <unistd.h>

#include <cstdio>

#include "ops/core/error.h"

namespace tandem {

void fail_requirement(const std::string& message, const std::source_location& where) {
  std::fprintf(stderr, "tandem: internal error at %s:%u: %s\n", where.file_name(), where.line(), message.c_str());
  std::fflush(stderr);
  _exit(static_cast<int>(ExitCode::internal));
}

}  // namespace tandem
