#include "runtime/gguf/byte_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "ops/core/check.h"
#include "ops/core/error.h"
#include "runtime/gguf/printable.h"

namespace tandem {
namespace {

[[noreturn]] void fail_io(const std::string& path, std::string_view what) {
  throw Error(ExitCode::io, fmt::format("{}: {}", printable(path, kPathCharacters), what));
}

std::string reason(int error_number) {
  return std::generic_category().message(error_number);
}

}  // namespace

FileSource::FileSource(std::string path) : path_(std::move(path)) {
  // Non-blocking, so that a pipe without a writer is refused below instead of hanging here.
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) fail_io(path_, "can't open: " + reason(errno));
  struct stat status {};
  const bool known = ::fstat(descriptor_, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    const std::string what = known ? std::string("not a regular file") : "can't stat: " + reason(errno);
    ::close(descriptor_);
    fail_io(path_, what);
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

FileSource::~FileSource() {
  ::close(descriptor_);
}

void FileSource::read(uint64_t offset, std::span<std::byte> into) const {
  while (!into.empty()) {
    const ssize_t n = ::pread(descriptor_, into.data(), into.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io(path_, fmt::format("can't read at byte {}: {}", offset, reason(errno)));
    if (n == 0) fail_io(path_, fmt::format("became shorter while it was read (at byte {})", offset));
    offset += static_cast<uint64_t>(n);
    into = into.subspan(static_cast<size_t>(n));
  }
}

void MemorySource::read(uint64_t offset, std::span<std::byte> into) const {
  require(offset <= bytes_.size() && into.size() <= bytes_.size() - offset, "read past the source", offset);
  std::memcpy(into.data(), bytes_.data() + offset, into.size());
}

}  // namespace tandem
