#include "launch/batch/disk.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "ops/core/error.h"

namespace tandem {

ssize_t Disk::write(int fd, const void* bytes, size_t n_bytes) {
  return ::write(fd, bytes, n_bytes);
}

int Disk::sync(int fd) {
  return ::fsync(fd);
}

int Disk::truncate(int fd, off_t n_bytes) {
  return ::ftruncate(fd, n_bytes);
}

int Disk::rename(const char* from, const char* to) {
  return ::rename(from, to);
}

Disk& Disk::real() {
  static Disk disk;
  return disk;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

void fail_io(const std::string& path) {
  throw Error(ExitCode::io, path + ": " + std::strerror(errno));
}

void write_all(Disk& disk, int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = disk.write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io(path);
    if (n == 0) {
      errno = EIO;
      fail_io(path);
    }
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

std::string read_at(int fd, size_t n_bytes, off_t offset, const std::string& path) {
  std::string bytes(n_bytes, '\0');
  size_t n_read = 0;
  while (n_read < n_bytes) {
    const ssize_t n =
        ::pread(fd, bytes.data() + n_read, n_bytes - n_read, offset + static_cast<off_t>(n_read));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io(path);
    if (n == 0) break;
    n_read += static_cast<size_t>(n);
  }
  bytes.resize(n_read);
  return bytes;
}

void sync_folder_of(Disk& disk, const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (folder.empty()) folder = ".";
  const FileDescriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.is_open()) fail_io(folder);
  // Some file systems can't sync a folder, and say so by EINVAL: there is nothing to wait for then.
  if (disk.sync(fd.get()) != 0 && errno != EINVAL) fail_io(folder);
}

}  // namespace tandem
