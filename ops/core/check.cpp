#include "ops/core/check.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>

#include "ops/core/error.h"

namespace tandem {
namespace {

std::atomic<void (*)(const std::string& line)> g_requirement_hook{nullptr};

}  // namespace

void set_requirement_hook(void (*hook)(const std::string& line)) {
  g_requirement_hook.store(hook);
}

void fail_requirement(const std::string& message, const SourceLocation& where) {
  const std::string line = "internal error at " + std::string(where.file_name()) + ":" +
                           std::to_string(where.line()) + ": " + message;
  if (const auto hook = g_requirement_hook.load(); hook != nullptr) hook(line);
  std::fprintf(stderr, "tandem: %s\n", line.c_str());
  std::fflush(stderr);
  _exit(static_cast<int>(ExitCode::internal));
}

}  // namespace tandem
